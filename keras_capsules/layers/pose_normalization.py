"""Batch normalization of matrix poses."""

from typing import Any

import keras

from keras_capsules.types import Tensor


@keras.saving.register_keras_serializable(package="keras_capsules")
class PoseNormalization(keras.layers.Layer):
    """Normalizes the poses of capsules over the batch.

    One mean and one variance belong to each capsule type. They are those of all
    numbers in the poses of that type, over the batch and the grid, so the
    numbers of a pose keep their proportions. Activations pass unchanged. There
    is no trained scale or offset.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.

    Input shape:
        A pair of poses `(batch, ..., types, rows, dim)` and activations
        `(batch, ..., types)`.

    Output shape:
        The same.

    Example:

    ```python
    import keras
    from keras_capsules.layers import PoseNormalization

    poses = keras.random.normal((2, 5, 5, 8, 4, 4))
    activations = keras.random.uniform((2, 5, 5, 8))
    poses, activations = PoseNormalization()((poses, activations))
    ```
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Batches are small: the usual momentum of 0.99 would lag behind for
        # hundreds of steps.
        self.normalization = keras.layers.BatchNormalization(
            axis=-3,
            momentum=0.9,
            epsilon=1e-3,
            center=False,
            scale=False,
            name="normalization",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: Any) -> None:
        self.normalization.build(tuple(input_shape[0]))

    def call(
        self, inputs: tuple[Tensor, Tensor], training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        poses, activations = inputs
        return self.normalization(poses, training=training), activations

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(map(tuple, input_shape))

    def get_config(self) -> dict[str, Any]:
        # Keras's automatic configuration fails for dtype policies.
        return super().get_config()
