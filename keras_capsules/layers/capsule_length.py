"""From capsules to probabilities."""

import numbers

import keras
from keras import ops

from keras_capsules.activations import safe_norm
from keras_capsules.layers._routed import fits_pair
from keras_capsules.layers._routed import shapes_of


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLength(keras.layers.Layer):
    """Reduces each capsule to its length, the probability of its entity.

    The length is `sqrt(sum(x**2) + 1e-7)`, so that a capsule of zeros has a
    gradient, and a length of 0.0003. Capsules that come with activations, as a
    pair, are reduced to these: a network stays as it is when its routing is
    another.

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
        ValueError: If `axis` is none of these, or the input is not of this
            shape.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLength

    lengths = CapsuleLength()(keras.random.normal((4, 10, 16)))  # (4, 10)
    ```
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = _check_axis(axis)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # for its check

    def call(self, inputs):
        # For its check: the shapes of a later call may be others.
        self.compute_output_shape(shapes_of(inputs))
        if isinstance(inputs, (list, tuple)):
            _, activations = inputs
            return ops.cast(activations, self.compute_dtype)
        return safe_norm(inputs, axis=self.axis)

    def compute_output_shape(self, input_shape):
        axes = 1 if self.axis == -1 else 2
        if input_shape and isinstance(input_shape[0], (list, tuple)):
            shapes = tuple(map(tuple, input_shape))
            if fits_pair(shapes):
                return shapes[1]
        elif len(input_shape) > axes:
            return tuple(input_shape[:-axes])
        raise ValueError(
            "CapsuleLength takes capsules of shape (batch, ..., "
            f"{'capsule_dim' if axes == 1 else 'rows, columns'}), or a pair of "
            "poses and activations. Received: "
            f"input_shape={tuple(input_shape)}"
        )

    def get_config(self):
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
