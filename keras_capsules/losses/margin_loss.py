"""The margin loss, for the lengths of class capsules."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.labels import to_multi_hot
from keras_capsules.utils.registration import register_function
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_number
from keras_capsules.utils.validation import check_numbers


@keras.saving.register_keras_serializable(package="keras_capsules")
class MarginLoss(keras.losses.Loss):
    """Penalises short capsules of present classes, long ones of absent ones.

    Each class has a margin of its own, so any number of classes may be present
    in one example.

    Formula:

    ```python
    present = y_true * maximum(0, positive_margin - y_pred) ** 2
    absent = (1 - y_true) * maximum(0, y_pred - negative_margin) ** 2
    loss = sum(present + absent_weight * absent, axis=-1)
    ```

    Notation: `positive_margin` is m+, `negative_margin` m-, `absent_weight`
    lambda, `y_true` T_k and `y_pred` |v_k| in equation 4 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The authors'
    released code instead halves the loss and takes the mean over the classes:
    `reduction_over_classes="half_mean"`. Relative to that loss, their
    reconstruction loss weighs `2 * num_classes` times more than the paper says.

    Args:
        positive_margin: Float in [0, 1]. A present class of at least this
            length costs nothing. Defaults to `0.9`.
        negative_margin: Float in [0, 1] and below `positive_margin`. An absent
            class of at most this length costs nothing. Defaults to `0.1`.
        absent_weight: Float, at least 0, the weight of absent classes. Defaults
            to `0.5`.
        reduction_over_classes: How the terms of the classes become the loss of
            an example: `"sum"`, as in the paper, or `"half_mean"`, half of the
            mean. Defaults to `"sum"`.
        reduction: How the losses of a batch are reduced: one of
            `"sum_over_batch_size"`, `"sum"`, `"mean"`,
            `"mean_with_sample_weight"`, `"none"` or `None`, see
            `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: Optional name of the loss. Defaults to `"margin_loss"`.
        dtype: The dtype of the predictions and the loss. The terms are
            computed in at least float32. Defaults to `None`, which means
            `keras.config.floatx()`.

    Call arguments:
        y_true: Integer, one-hot or multi-hot labels, see `margin_loss`.
        y_pred: Lengths of the class capsules, of shape
            `(batch, ..., num_classes)`. `CapsuleLength` computes them.
        sample_weight: Optional weights of the examples.

    Raises:
        ValueError: If an argument is invalid, or the shapes of a call do not
            fit. An invalid label raises in a NumPy array or list. In a tensor,
            thus in `fit` of a plain Keras model, it makes the loss NaN instead,
            even with a sample weight of 0.

    Example:

    ```python
    import numpy as np

    from keras_capsules.losses import MarginLoss

    lengths = np.array([[0.9, 0.1, 0.2], [0.3, 0.1, 0.1]])
    loss = MarginLoss()(np.array([0, 1]), lengths)
    print(float(loss))  # (0.5 * 0.1**2 + 0.8**2 + 0.5 * 0.2**2) / 2
    ```
    """

    def __init__(
        self,
        positive_margin: float = 0.9,
        negative_margin: float = 0.1,
        absent_weight: float = 0.5,
        reduction_over_classes: str = "sum",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "margin_loss",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.positive_margin, self.negative_margin, self.absent_weight = (
            _check_arguments(
                positive_margin,
                negative_margin,
                absent_weight,
                reduction_over_classes,
            )
        )
        self.reduction_over_classes = reduction_over_classes

    def __call__(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        check_numbers(y_pred, "y_pred")
        # Before Keras casts the labels: in 16 bits, label 257 becomes 256.
        y_true = to_multi_hot(y_true, np.shape(y_pred), "y_true")
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return margin_loss(
            y_true,
            y_pred,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            absent_weight=self.absent_weight,
            reduction_over_classes=self.reduction_over_classes,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "positive_margin": self.positive_margin,
            "negative_margin": self.negative_margin,
            "absent_weight": self.absent_weight,
            "reduction_over_classes": self.reduction_over_classes,
            "dtype": self.dtype,
        }


@register_function
def margin_loss(
    y_true: Tensor,
    y_pred: Tensor,
    positive_margin: float = 0.9,
    negative_margin: float = 0.1,
    absent_weight: float = 0.5,
    reduction_over_classes: str = "sum",
) -> Tensor:
    """Computes the margin loss of each example; see `MarginLoss`.

    Args:
        y_true: The classes that are present, of any numeric dtype. Either
            integer labels, of shape `(batch, ...)` or `(batch, ..., 1)`; or
            numbers between 0 and 1 (one-hot, multi-hot or soft labels), of
            shape `(batch, ..., num_classes)`. With a single class, labels of
            both shapes say whether it is present. A label outside of its range
            gives that example a loss of NaN.
        y_pred: Lengths of the class capsules, of shape
            `(batch, ..., num_classes)`.
        positive_margin: See `MarginLoss`. Defaults to `0.9`.
        negative_margin: See `MarginLoss`. Defaults to `0.1`.
        absent_weight: See `MarginLoss`. Defaults to `0.5`.
        reduction_over_classes: See `MarginLoss`. Defaults to `"sum"`.

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

    from keras_capsules.losses import margin_loss

    lengths = np.array([[0.9, 0.1, 0.2], [0.9, 0.9, 0.1]])
    one_each = margin_loss(np.array([0, 1]), lengths)
    several = margin_loss(np.array([[1, 0, 0], [1, 1, 0]]), lengths)
    print(one_each, several)  # about [0.005, 0.32] and [0.005, 0.0]
    ```
    """
    positive_margin, negative_margin, absent_weight = _check_arguments(
        positive_margin, negative_margin, absent_weight, reduction_over_classes
    )
    check_numbers(y_pred, "y_pred")
    y_pred = ops.convert_to_tensor(y_pred)
    dtype = at_least_float32(y_pred.dtype)
    y_pred = ops.cast(y_pred, dtype)
    y_true = ops.cast(to_multi_hot(y_true, y_pred.shape, "y_true"), dtype)
    present = ops.square(ops.relu(positive_margin - y_pred))
    absent = ops.square(ops.relu(y_pred - negative_margin))
    losses = y_true * present + absent_weight * (1.0 - y_true) * absent
    losses = ops.sum(losses, axis=-1)
    if reduction_over_classes == "half_mean":
        losses = losses * (0.5 / y_pred.shape[-1])
    return losses


def _check_arguments(
    positive_margin, negative_margin, absent_weight, reduction_over_classes
):
    """Returns the three numbers as floats, or raises if one is invalid."""
    positive = check_number(positive_margin, "positive_margin", 0, 1)
    negative = check_number(negative_margin, "negative_margin", 0, 1)
    if negative >= positive:
        raise ValueError(
            "Invalid value for argument `negative_margin`. Expected a number "
            f"less than positive_margin={positive_margin!r}. "
            f"Received: negative_margin={negative_margin!r}"
        )
    check_choice(
        reduction_over_classes, "reduction_over_classes", ("sum", "half_mean")
    )
    return positive, negative, check_number(absent_weight, "absent_weight", 0)
