"""Layers that several networks have in common.

`dtype` is always the dtype policy of the network.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules.engine.windows import output_length
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.pose_scores import PoseScores
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.routing import Routing
from keras_capsules.types import Capsules
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32


def output_dtype(dtype: Any) -> str:
    """The dtype of scores and pixels.

    They are results, not intermediates: 16 bits would round them to two or
    three digits.
    """
    return at_least_float32(dtype.compute_dtype)


def image_input(image_shape: Sequence[int], dtype: Any) -> Tensor:
    """The symbolic images of a network."""
    return keras.Input(image_shape, dtype=output_dtype(dtype), name="images")


def convolution(
    filters: int, kernel_size: Any, dtype: Any, **kwargs: Any
) -> keras.layers.Conv2D:
    """A convolution of images, by default with a ReLU."""
    options = {"activation": "relu", "kernel_initializer": "he_normal"}
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        data_format="channels_last",
        dtype=dtype,
        **{**options, **kwargs},
    )


def class_capsules(
    x: Capsules,
    num_classes: int,
    capsule_dim: Any,
    routing: Routing,
    dtype: Any,
    **kwargs: Any,
) -> Capsules:
    """The class capsules of a network, as vectors or with activations."""
    # Activations are scores, and a layer returns them in its own dtype.
    in_full = routing.activation_from == "routing"
    x = CapsuleLayer(
        num_classes,
        capsule_dim,
        routing=routing,
        name="class_capsules",
        dtype=output_dtype(dtype) if in_full else dtype,
        **kwargs,
    )(x)
    if routing.activation_from == "nothing":
        x = PoseScores(name="class_scores", dtype=dtype)(x)
    return x


def class_scores(
    images: Tensor,
    features: Tensor,
    num_classes: int,
    activation: str,
    dtype: Any,
) -> Tensor:
    """The scores of a network without capsules."""
    x = PropagateNaN(name="propagate_nan", dtype=dtype)(images, features)
    return keras.layers.Dense(
        num_classes, activation, name="scores", dtype=output_dtype(dtype)
    )(x)


def grid_after(
    image_shape: Sequence[int], windows: Sequence[tuple[Any, Any, str]]
) -> list[int]:
    """Height and width of the grid that convolutions leave of an image.

    Args:
        image_shape: Height, width and channels of the image.
        windows: For each convolution `(kernel_size, strides, padding)`, sizes
            as integers or one for each axis.

    Returns:
        Two integers. A size below 1 means that the image is too small.
    """
    grid = list(image_shape[:2])
    for sizes, strides, padding in windows:
        for axis in range(2):
            window, stride = (
                each if isinstance(each, int) else each[axis]
                for each in (sizes, strides)
            )
            grid[axis] = output_length(grid[axis], window, stride, padding)
    return grid
