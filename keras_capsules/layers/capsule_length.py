"""From capsules to probabilities."""

import keras
from keras import ops

from keras_capsules.activations import safe_norm


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLength(keras.layers.Layer):
    """Reduces each capsule to its length, the probability of its entity.

    The length is `sqrt(sum(x**2) + 1e-7)`, so that a capsule of zeros has a
    gradient, and a length of 0.0003. Capsules that come with activations, as a
    pair, are reduced to these: a network stays as it is when its routing is
    another.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        Poses `(batch, ..., capsule_dim)`; or a pair of poses, vectors or
        matrices, and activations `(batch, ...)`.

    Output shape:
        `(batch, ...)`.

    Raises:
        ValueError: If the input is not of this shape.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLength

    lengths = CapsuleLength()(keras.random.normal((4, 10, 16)))  # (4, 10)
    ```
    """

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # for its check

    def call(self, inputs):
        if isinstance(inputs, (list, tuple)):
            _, activations = inputs
            return ops.cast(activations, self.compute_dtype)
        return safe_norm(inputs)

    def compute_output_shape(self, input_shape):
        if input_shape and isinstance(input_shape[0], (list, tuple)):
            shapes = tuple(map(tuple, input_shape))
            lengths = [len(shape) for shape in shapes]
            if len(shapes) == 2 and 1 <= lengths[0] - lengths[1] <= 2:
                return shapes[1]
        elif len(input_shape) >= 2:
            return tuple(input_shape[:-1])
        raise ValueError(
            "CapsuleLength takes capsules of shape (batch, ..., capsule_dim), "
            "or a pair of poses and activations. Received: "
            f"input_shape={tuple(input_shape)}"
        )
