"""From capsules to probabilities."""

import keras

from keras_capsules.activations import safe_norm


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLength(keras.layers.Layer):
    """Reduces each capsule to its length, the probability of its entity.

    The length is `sqrt(sum(x**2) + 1e-7)`, so that a capsule of zeros has a
    gradient, and a length of 0.0003.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        `(batch, ..., capsule_dim)`.

    Output shape:
        `(batch, ...)`.

    Raises:
        ValueError: If the input's rank is less than 2.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLength

    lengths = CapsuleLength()(keras.random.normal((4, 10, 16)))  # (4, 10)
    ```
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def call(self, inputs):
        return safe_norm(inputs)

    def compute_output_shape(self, input_shape):
        if len(input_shape) < 2:
            raise ValueError(
                "CapsuleLength takes capsules of shape (batch, ..., "
                f"capsule_dim). Received: input_shape={tuple(input_shape)}"
            )
        return tuple(input_shape[:-1])
