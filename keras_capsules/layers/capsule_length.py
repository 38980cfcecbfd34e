"""From capsules to probabilities."""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_capsules.activations import safe_norm
from keras_capsules.layers.poses import first_mask
from keras_capsules.layers.poses import fits_pair
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.poses import shapes_of
from keras_capsules.types import Capsules
from keras_capsules.types import Shape
from keras_capsules.types import Tensor


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLength(keras.layers.Layer):
    """Reduces each capsule to its length, the probability of its entity.

    The length is `sqrt(sum(x**2) + 1e-7)`, so that a capsule of zeros has a
    gradient, and a length of 0.0003. Pairs of poses and activations are reduced
    to their activations, so a network works unchanged with any routing.

    Args:
        axis: The axis or axes that hold a pose, `-1` or, for matrices,
            `(-2, -1)`. Pairs do not need it. Defaults to `-1`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        Poses `(batch, ..., capsule_dim)`, or matrices `(batch, ..., rows,
        columns)` with `axis=(-2, -1)`; or a pair of poses, vectors or matrices,
        and activations `(batch, ...)`.

    Output shape:
        `(batch, ...)`.

    Raises:
        ValueError: If `axis` is neither, or the input does not have this shape.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLength

    lengths = CapsuleLength()(keras.random.normal((4, 10, 16)))  # (4, 10)
    ```
    """

    def __init__(self, axis: int | Sequence[int] = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = _check_axis(axis)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self._output_shape(input_shape)

    def call(self, inputs: Capsules) -> Tensor:
        self._output_shape(shapes_of(inputs))  # which may be others than before
        if isinstance(inputs, (list, tuple)):
            _, activations = inputs
            return ops.cast(activations, self.compute_dtype)
        return safe_norm(inputs, axis=self.axis)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of positions that hold several capsules each."""
        mask = first_mask(previous_mask)
        shape = self._output_shape(shapes_of(inputs))
        # A loss has one value for all lengths of the last axis.
        is_of_positions = mask is not None and len(mask.shape) < len(shape)
        return mask if is_of_positions else None

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return self._output_shape(input_shape)

    def _output_shape(self, input_shape):
        """The shape of the output, if the shape of the input is valid."""
        axes = 1 if self.axis == -1 else 2
        if is_pair(input_shape):
            shapes = tuple(map(tuple, input_shape))
            if fits_pair(shapes):
                return shapes[1]
        elif len(input_shape) > axes:
            return tuple(input_shape[:-axes])
        raise ValueError(
            f"{type(self).__name__} takes capsules of shape (batch, ..., "
            f"{'capsule_dim' if axes == 1 else 'rows, columns'}), or a pair of "
            "poses and activations. Received: "
            f"input_shape={tuple(input_shape)}"
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


def _check_axis(value):
    """Returns -1 or (-2, -1), of integers of any kind, or raises."""
    single = isinstance(value, numbers.Integral)
    try:
        axes = (value,) if single else tuple(value)
        valid = all(isinstance(each, numbers.Integral) for each in axes)
    except TypeError:
        valid = False
    if not valid or axes != ((-1,) if single else (-2, -1)):
        raise ValueError(
            "Invalid value for argument `axis`. Expected -1 or (-2, -1). "
            f"Received: axis={value!r}"
        )
    return -1 if single else (-2, -1)
