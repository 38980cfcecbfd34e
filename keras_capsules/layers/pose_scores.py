"""Activations for capsules that have poses alone."""

import math
from typing import Any

import keras
from keras import ops

from keras_capsules.layers.plain import PlainLayer
from keras_capsules.layers.poses import is_pair
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32


@keras.saving.register_keras_serializable(package="keras_capsules")
class PoseScores(PlainLayer):
    """Adds activations to capsules that have poses alone.

    With some routings, such as inverted attention, neither the length of a
    pose nor the routing says whether an entity is present. A dense layer with
    one output, shared by all capsules, and a sigmoid then compute the
    activation from the pose. Poses pass unchanged.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.

    Input shape:
        `(batch, num_capsules, dim)` or `(batch, num_capsules, rows, dim)`. Only
        the batch size may be unknown.

    Output shape:
        A pair of the poses and of activations `(batch, num_capsules)`, the
        latter in at least float32.

    Raises:
        ValueError: If the input does not have this shape.

    Example:

    ```python
    import keras
    from keras_capsules.layers import PoseScores

    poses, activations = PoseScores()(keras.random.normal((2, 10, 16)))
    activations.shape  # (2, 10)
    ```
    """

    def __init__(self, **kwargs: Any) -> None:
        # Poses keep their dtype, activations are at least float32.
        super().__init__(autocast=False, **kwargs)
        self.dense = keras.layers.Dense(
            1,
            activation="sigmoid",
            name="dense",
            dtype=at_least_float32(self.compute_dtype),
        )

    def build(self, input_shape: Any) -> None:
        if is_pair(input_shape) or not (
            len(input_shape) in (3, 4) and all(input_shape[1:])
        ):
            raise ValueError(
                f"{type(self).__name__} takes poses alone, of shape (batch, "
                "num_capsules, dim) or (batch, num_capsules, rows, dim) with "
                "known sizes. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        self.dense.build((None, input_shape[1], math.prod(input_shape[2:])))

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, inputs.shape[1], math.prod(inputs.shape[2:]))
        return inputs, self.dense(ops.reshape(inputs, shape))[:, :, 0]

    def compute_output_spec(self, inputs: Any) -> Any:
        poses = keras.KerasTensor(inputs.shape, dtype=inputs.dtype)
        scores = keras.KerasTensor(
            inputs.shape[:2], dtype=self.dense.compute_dtype
        )
        return poses, scores
