"""The spread loss, for the activations of class capsules."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.types import Shape
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.labels import to_multi_hot
from keras_capsules.utils.registration import register_function
from keras_capsules.utils.validation import check_number
from keras_capsules.utils.validation import check_numbers


@keras.saving.register_keras_serializable(package="keras_capsules")
class SpreadLoss(keras.losses.Loss):
    """Penalises wrong classes that are nearly as active as the true class.

    Only differences count: a wrong class costs nothing once it is less active
    than the true class by the margin. A margin that is small at first and grows
    in training keeps the capsules of earlier layers from dying: see
    `keras_capsules.callbacks.SpreadMarginSchedule`.

    Formula:

    ```python
    target = sum(y_true * y_pred, axis=-1) / sum(y_true, axis=-1)
    shortfall = maximum(0, margin - (target - y_pred))
    loss = sum((1 - y_true) * shortfall**2, axis=-1)
    ```

    Notation: `margin` is m, `target` a_t and `y_pred` a_i in equation 3 of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb) (matrix
    capsules with EM routing). The paper's margin grows from 0.2 to 0.9; the
    default here is the final one. The authors' released code takes the mean
    over the classes instead of the sum, which divides the loss by their number.
    The paper has one true class per example. With several, or with soft labels,
    `target` is their weighted mean activation, and each class is penalised in
    proportion to its absence.

    Args:
        margin: Float in [0, 1], the difference of activations beyond which a
            wrong class costs nothing. It may be set later, but compiled
            functions keep the value from when they were compiled.
            `SpreadMarginSchedule` takes care of that. Defaults to `0.9`.
        reduction: How the losses of a batch are reduced, as in `MarginLoss`.
            Defaults to `"sum_over_batch_size"`.
        name: Optional name of the loss. Defaults to `"spread_loss"`.
        dtype: The dtype of the predictions and the loss. The terms are
            computed in at least float32. Defaults to `None`, which means
            `keras.config.floatx()`.

    Call arguments:
        y_true: Integer, one-hot or multi-hot labels, see `spread_loss`.
        y_pred: Activations of the class capsules, of shape
            `(batch, ..., num_classes)`. `CapsuleLength` returns them.
        sample_weight: Optional weights of the examples.

    Raises:
        ValueError: If an argument is invalid, or the shapes of a call do not
            fit. An invalid label raises in a NumPy array or list. In a tensor,
            thus in `fit`, it makes the loss NaN instead, even with a sample
            weight of 0.

    Example:

    ```python
    import numpy as np

    from keras_capsules.losses import SpreadLoss

    activations = np.array([[0.9, 0.1, 0.2], [0.3, 0.1, 0.1]])
    loss = SpreadLoss(margin=0.5)(np.array([0, 1]), activations)
    print(float(loss))  # (0 + 0.7**2 + 0.5**2) / 2
    ```
    """

    def __init__(
        self,
        margin: float = 0.9,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "spread_loss",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = margin

    @property
    def margin(self) -> float:
        return self._margin

    @margin.setter
    def margin(self, margin: float) -> None:
        self._margin = check_number(margin, "margin", 0, 1)

    def __call__(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        check_numbers(y_pred, "y_pred")
        # Before Keras casts the labels: in 16 bits, label 257 becomes 256.
        y_true = _to_targets(y_true, np.shape(y_pred))
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return spread_loss(y_true, y_pred, margin=self.margin)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "margin": self.margin,
            "dtype": self.dtype,
        }


@register_function
def spread_loss(y_true: Tensor, y_pred: Tensor, margin: float = 0.9) -> Tensor:
    """Computes the spread loss of each example; see `SpreadLoss`.

    Args:
        y_true: The class that is present, of any numeric dtype. Either
            integer labels, of shape `(batch, ...)` or `(batch, ..., 1)`; or
            numbers between 0 and 1 (one-hot, multi-hot or soft labels), of
            shape `(batch, ..., num_classes)`. With a single class, labels of
            both shapes say whether it is present. A label outside of its range,
            and multi-hot labels that are all 0, give that example a loss of
            NaN.
        y_pred: Activations of the class capsules, of shape
            `(batch, ..., num_classes)`.
        margin: See `SpreadLoss`. Defaults to `0.9`.

    Returns:
        The losses, of shape `(batch, ...)` and the dtype of `y_pred`, but at
        least float32.

    Raises:
        ValueError: If an argument is invalid, the shapes do not fit, or
            `y_true` is a NumPy array or list with a value that would give
            NaN.

    Example:

    ```python
    import numpy as np

    from keras_capsules.losses import spread_loss

    activations = np.array([[0.9, 0.1, 0.2], [0.3, 0.1, 0.1]])
    losses = spread_loss(np.array([0, 1]), activations, margin=0.5)
    print(losses)  # about [0.0, 0.74]
    ```
    """
    margin = check_number(margin, "margin", 0, 1)
    check_numbers(y_pred, "y_pred")
    y_pred = ops.convert_to_tensor(y_pred)
    dtype = at_least_float32(y_pred.dtype)
    y_pred = ops.cast(y_pred, dtype)
    y_true = ops.cast(_to_targets(y_true, y_pred.shape), dtype)
    present = ops.sum(y_true, axis=-1, keepdims=True)
    target = ops.sum(y_true * y_pred, axis=-1, keepdims=True) / present
    shortfall = ops.relu(margin - (target - y_pred))
    return ops.sum((1.0 - y_true) * ops.square(shortfall), axis=-1)


def _to_targets(y_true, shape):
    """Converts to multi-hot labels, NaN in examples where all are 0."""
    multi_hot = to_multi_hot(y_true, shape, "y_true")
    check_some_class(y_true, shape, "y_true")
    some = ops.any(multi_hot > 0, axis=-1, keepdims=True)
    return ops.where(some, multi_hot, np.nan)


def check_some_class(labels: Any, shape: Shape, name: str) -> None:
    """Raises if an array or a list has an example without any class.

    Args:
        labels: Labels that fit the shape; see `to_multi_hot`.
        shape: `(batch, ..., num_classes)`.
        name: The argument's name, for messages.
    """
    visible = isinstance(labels, np.ndarray) or not hasattr(labels, "shape")
    if not visible:
        return
    given: Any = np.shape(labels)
    if shape[-1] == 1 and len(given) < len(shape):
        given = (*given, 1)  # a single class, which may be present
    if len(given) != len(shape) or given[-1] != shape[-1]:
        return  # integers
    # As the loss sees them: rounding may have made a 0 negative.
    values = np.reshape(labels, given).astype("float32")
    missing = ~np.any(values > 0, axis=-1)
    if missing.any():
        if shape[-1] == 1:
            raise ValueError(
                "SpreadLoss compares the activation of the right class with "
                "those of the others. Expected two classes or more, or "
                "MarginLoss for a single one. Received: labels for 1 class, "
                "absent in some examples"
            )
        first = np.argwhere(missing)[0].tolist()
        raise ValueError(
            f"`{name}` has multi-hot labels without a class. Expected at "
            "least one class in every example. Received: all 0 in "
            f"{int(missing.sum())} of {missing.size} examples, such as "
            f"{name}{first or ''}={[0] * given[-1]}"
        )
