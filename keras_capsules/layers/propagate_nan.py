"""Undefined outputs for undefined inputs."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.plain import PlainLayer
from keras_capsules.types import Tensor


@keras.saving.register_keras_serializable(package="keras_capsules")
class PropagateNaN(PlainLayer):
    """Makes features NaN for each example whose input has a NaN or infinity.

    Compiled networks may turn NaN into numbers, because fused operations such
    as the maximum in a ReLU drop it. This layer compares the input of a network
    with its features, so that a broken image never gets plausible scores.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.

    Call arguments:
        inputs: A tensor, the input of a network, `(batch, ...)`.
        features: A tensor with the same batch, or a tuple of them.

    Output shape:
        The shape of `features`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules.layers import PropagateNaN

    images = np.array([[1.0, 2.0], [np.nan, 2.0]], "float32")
    features = keras.ops.relu(images)
    PropagateNaN()(images, features)  # [[1, 2], [nan, nan]]
    ```
    """

    def __init__(self, **kwargs: Any) -> None:
        # Features keep their dtype.
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: Tensor, features: Tensor) -> Tensor:
        if not keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(inputs.dtype)
        ):
            return features
        axes = tuple(range(1, len(inputs.shape)))
        is_finite = ops.all(ops.isfinite(inputs), axis=axes)  # [b]

        def marked(x):
            shape = (-1, *[1] * (len(x.shape) - 1))
            return ops.where(ops.reshape(is_finite, shape), x, np.nan)

        return keras.tree.map_structure(marked, features)

    def compute_output_spec(self, inputs: Any, features: Any) -> Any:
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, x.dtype), features
        )
