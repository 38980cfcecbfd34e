"""Batch normalization of matrix poses."""

from typing import Any

import keras
from keras import ops

from keras_capsules.layers.plain import PlainLayer
from keras_capsules.layers.poses import broadcast_mask
from keras_capsules.layers.poses import fits_pair
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.poses import shapes_of
from keras_capsules.types import Tensor


@keras.saving.register_keras_serializable(package="keras_capsules")
class PoseNormalization(PlainLayer):
    """Normalizes the poses of capsules over the batch.

    One mean and one variance belong to each capsule type. They are those of all
    numbers in the poses of that type, over the batch and the grid, so the
    numbers of a pose keep their proportions. Activations pass unchanged. There
    is no trained scale or offset. Positions that a mask excludes do not count,
    and the mask is handed on.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.

    Input shape:
        A pair of poses `(batch, ..., types, rows, dim)` and activations
        `(batch, ..., types)`.

    Output shape:
        The same.

    Raises:
        ValueError: If the input does not have this shape.

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
        self.supports_masking = True
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
        poses, _ = self._check_input_shape(input_shape)
        self.normalization.build(poses)

    def call(
        self,
        inputs: tuple[Tensor, Tensor],
        training: bool | None = None,
        mask: Any = None,
    ) -> tuple[Tensor, Tensor]:
        # The first pair was checked when the layer was built.
        self._check_input_shape(shapes_of(inputs))
        poses, activations = inputs
        # Keras adds the last axis.
        mask = broadcast_mask(mask, ops.shape(poses)[:-1])
        poses = self.normalization(poses, training=training, mask=mask)
        return poses, activations

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._check_input_shape(input_shape)

    def _check_input_shape(self, input_shape):
        """The shapes of poses and activations, as tuples."""
        if is_pair(input_shape):
            shapes = tuple(map(tuple, input_shape))
            if fits_pair(shapes, [2]) and len(shapes[1]) > 1 and shapes[1][-1]:
                return shapes
        raise ValueError(
            f"{type(self).__name__} takes a pair of poses (batch, ..., types, "
            "rows, dim) and activations (batch, ..., types) with a known "
            "number of types. Received: "
            f"input_shape={tuple(input_shape)}"
        )
