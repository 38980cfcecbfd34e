"""Losses on the lengths or activations of class capsules."""

import keras
import numpy as np
from keras import ops

from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.labels import to_presences
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_number
from keras_capsules.utils.validation import check_numbers

FORMS = ("paper", "sabour_code")


@keras.saving.register_keras_serializable(package="keras_capsules")
class MarginLoss(keras.losses.Loss):
    """Wants the capsules of present classes long and all others short.

    Each class has a margin of its own, so that any number of classes may be
    present in one example.

    Formula:

    ```python
    present = y_true * maximum(0, positive_margin - y_pred) ** 2
    absent = (1 - y_true) * maximum(0, y_pred - negative_margin) ** 2
    loss = sum(present + down_weight * absent, axis=-1)
    ```

    Notation: `positive_margin` is m+, `negative_margin` m-, `down_weight`
    lambda, `y_true` T_k and `y_pred` |v_k| in equation 4 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The authors'
    released code instead halves the loss and takes the mean over the classes:
    `form="sabour_code"`. Their reconstruction loss thus weighs
    `2 * num_classes` times more against it than the paper says.

    Args:
        positive_margin: Float in [0, 1], the length from which on a present
            class costs nothing. Defaults to `0.9`.
        negative_margin: Float in [0, 1] and below `positive_margin`, the
            length up to which an absent class costs nothing. Defaults to
            `0.1`.
        down_weight: Float, at least 0, the weight of absent classes. Defaults
            to `0.5`.
        form: `"paper"` or `"sabour_code"`. Defaults to `"paper"`.
        reduction: How the losses of a batch are reduced: one of
            `"sum_over_batch_size"`, `"sum"`, `"mean"`,
            `"mean_with_sample_weight"`, `"none"` or `None`, see
            `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: Optional name of the loss. Defaults to `"margin_loss"`.
        dtype: The dtype of the predictions and the loss. The terms are
            computed in at least float32. Defaults to `None`, which means
            `keras.config.floatx()`.

    Call arguments:
        y_true: The classes that are present, see `margin_loss`.
        y_pred: Lengths of the class capsules, of shape
            `(batch, ..., num_classes)`.
        sample_weight: Optional weights of the examples.

    Raises:
        ValueError: If an argument is invalid, or the shapes of a call do not
            fit. A label that names no class raises in a NumPy array or list.
            In a tensor, thus in `fit`, it makes the loss NaN instead, even
            with a sample weight of 0.

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
        positive_margin=0.9,
        negative_margin=0.1,
        down_weight=0.5,
        form="paper",
        reduction="sum_over_batch_size",
        name="margin_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.positive_margin, self.negative_margin, self.down_weight = (
            _check_arguments(
                positive_margin, negative_margin, down_weight, form
            )
        )
        self.form = form

    def __call__(self, y_true, y_pred, sample_weight=None):
        check_numbers(y_pred, "y_pred")
        # Before Keras casts the labels: in 16 bits, label 257 becomes 256.
        y_true = to_presences(y_true, np.shape(y_pred), "y_true")
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        return margin_loss(
            y_true,
            y_pred,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            down_weight=self.down_weight,
            form=self.form,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "positive_margin": self.positive_margin,
            "negative_margin": self.negative_margin,
            "down_weight": self.down_weight,
            "form": self.form,
            "dtype": self.dtype,
        }


@keras.saving.register_keras_serializable(package="keras_capsules")
def margin_loss(
    y_true,
    y_pred,
    positive_margin=0.9,
    negative_margin=0.1,
    down_weight=0.5,
    form="paper",
):
    """Computes the margin loss of each example.

    Formula:

    ```python
    present = y_true * maximum(0, positive_margin - y_pred) ** 2
    absent = (1 - y_true) * maximum(0, y_pred - negative_margin) ** 2
    loss = sum(present + down_weight * absent, axis=-1)
    ```

    Notation: `positive_margin` is m+, `negative_margin` m-, `down_weight`
    lambda, `y_true` T_k and `y_pred` |v_k| in equation 4 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The authors'
    released code instead halves the loss and takes the mean over the classes:
    `form="sabour_code"`.

    Args:
        y_true: The classes that are present, of any numeric dtype. Either
            integer labels, of shape `(batch, ...)` or `(batch, ..., 1)`, or
            presences between 0 and 1 (one-hot, multi-hot or soft), of shape
            `(batch, ..., num_classes)`. With a single class, `(batch, 1)`
            means presences. A label that names no class, and a presence
            outside [0, 1], gives that example a loss of NaN.
        y_pred: Lengths of the class capsules, of shape
            `(batch, ..., num_classes)`.
        positive_margin: Float in [0, 1], the length from which on a present
            class costs nothing. Defaults to `0.9`.
        negative_margin: Float in [0, 1] and below `positive_margin`, the
            length up to which an absent class costs nothing. Defaults to
            `0.1`.
        down_weight: Float, at least 0, the weight of absent classes. Defaults
            to `0.5`.
        form: `"paper"` or `"sabour_code"`. Defaults to `"paper"`.

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
    positive_margin, negative_margin, down_weight = _check_arguments(
        positive_margin, negative_margin, down_weight, form
    )
    check_numbers(y_pred, "y_pred")
    y_pred = ops.convert_to_tensor(y_pred)
    dtype = at_least_float32(y_pred.dtype)
    y_pred = ops.cast(y_pred, dtype)
    y_true = ops.cast(to_presences(y_true, y_pred.shape, "y_true"), dtype)
    present = ops.square(ops.relu(positive_margin - y_pred))
    absent = ops.square(ops.relu(y_pred - negative_margin))
    losses = y_true * present + down_weight * (1.0 - y_true) * absent
    losses = ops.sum(losses, axis=-1)
    return losses if form == "paper" else losses * (0.5 / y_pred.shape[-1])


@keras.saving.register_keras_serializable(package="keras_capsules")
class SpreadLoss(keras.losses.Loss):
    """Wants the capsule of the true class more active than every other.

    Only differences count: a wrong class costs something as long as it is not
    less active than the true one by the margin. A margin that is small at
    first and grows in training keeps the capsules of earlier layers from
    dying: see `keras_capsules.callbacks.SpreadMarginSchedule`.

    Formula:

    ```python
    target = sum(y_true * y_pred, axis=-1) / sum(y_true, axis=-1)
    shortfall = maximum(0, margin - (target - y_pred))
    loss = sum((1 - y_true) * shortfall**2, axis=-1)
    ```

    Notation: `margin` is m, `target` a_t and `y_pred` a_i in equation 3 of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb) (matrix
    capsules with EM routing). The paper's margin grows from 0.2 to 0.9; the
    default here is the last. The authors' released code takes the mean over
    the classes instead of the sum, which divides the loss by their number.

    Args:
        margin: Float in [0, 1], by how much the true class should be more
            active than each of the others. It may be set later, but compiled
            functions keep what it was when they were made:
            `SpreadMarginSchedule` takes care of that. Defaults to `0.9`.
        reduction: How the losses of a batch are reduced, as in `MarginLoss`.
            Defaults to `"sum_over_batch_size"`.
        name: Optional name of the loss. Defaults to `"spread_loss"`.
        dtype: The dtype of the predictions and the loss. The terms are
            computed in at least float32. Defaults to `None`, which means
            `keras.config.floatx()`.

    Call arguments:
        y_true: The class that is present, see `spread_loss`.
        y_pred: Activations of the class capsules, of shape
            `(batch, ..., num_classes)`.
        sample_weight: Optional weights of the examples.

    Raises:
        ValueError: If an argument is invalid, or the shapes of a call do not
            fit. Labels that name no class raise in a NumPy array or list. In
            a tensor, thus in `fit`, they make the loss NaN instead, even with
            a sample weight of 0.

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
        margin=0.9,
        reduction="sum_over_batch_size",
        name="spread_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = margin

    @property
    def margin(self):
        return self._margin

    @margin.setter
    def margin(self, margin):
        self._margin = check_number(margin, "margin", 0, 1)

    def __call__(self, y_true, y_pred, sample_weight=None):
        check_numbers(y_pred, "y_pred")
        # Before Keras casts the labels: in 16 bits, label 257 becomes 256.
        y_true = _to_targets(y_true, np.shape(y_pred))
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        return spread_loss(y_true, y_pred, margin=self.margin)

    def get_config(self):
        return {
            **super().get_config(),
            "margin": self.margin,
            "dtype": self.dtype,
        }


@keras.saving.register_keras_serializable(package="keras_capsules")
def spread_loss(y_true, y_pred, margin=0.9):
    """Computes the spread loss of each example.

    Formula:

    ```python
    target = sum(y_true * y_pred, axis=-1) / sum(y_true, axis=-1)
    shortfall = maximum(0, margin - (target - y_pred))
    loss = sum((1 - y_true) * shortfall**2, axis=-1)
    ```

    Notation: `margin` is m, `target` a_t and `y_pred` a_i in equation 3 of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), which
    knows one true class per example. Where several are present, or present in
    part, `target` is their mean activation, and a class is spread from it as
    far as it is absent.

    Args:
        y_true: The class that is present, of any numeric dtype. Either
            integer labels, of shape `(batch, ...)` or `(batch, ..., 1)`, or
            presences between 0 and 1 (one-hot, multi-hot or soft), of shape
            `(batch, ..., num_classes)`. With a single class, `(batch, 1)`
            means presences. A label that names no class, a presence outside
            [0, 1], and presences that are all 0, give that example a loss of
            NaN.
        y_pred: Activations of the class capsules, of shape
            `(batch, ..., num_classes)`.
        margin: Float in [0, 1], by how much the true class should be more
            active than each of the others. Defaults to `0.9`.

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
    """Presences, of which those of an example are NaN if they are all 0."""
    visible = isinstance(y_true, np.ndarray) or not hasattr(y_true, "shape")
    presences = to_presences(y_true, shape, "y_true")
    if visible and np.ndim(y_true) == len(shape):
        missing = ~np.any(np.asarray(y_true), axis=-1)
        if missing.any() and np.shape(y_true)[-1] == shape[-1]:
            first = np.argwhere(missing)[0].tolist()
            raise ValueError(
                "`y_true` has presences that name no class. Expected a class "
                "that is present in every example. Received: all 0 in "
                f"{int(missing.sum())} of {missing.size} examples, such as "
                f"y_true{first or ''}={[0] * shape[-1]}"
            )
    some = ops.any(presences > 0, axis=-1, keepdims=True)
    return ops.where(some, presences, np.nan)


def _check_arguments(positive_margin, negative_margin, down_weight, form):
    """Returns the three numbers as floats, or raises if one is invalid."""
    positive = check_number(positive_margin, "positive_margin", 0, 1)
    negative = check_number(negative_margin, "negative_margin", 0, 1)
    if negative >= positive:
        raise ValueError(
            "Invalid value for argument `negative_margin`. Expected a number "
            f"less than positive_margin={positive_margin!r}. "
            f"Received: negative_margin={negative_margin!r}"
        )
    check_choice(form, "form", FORMS)
    return positive, negative, check_number(down_weight, "down_weight", 0)
