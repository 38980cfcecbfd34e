"""Decoders, from the poses of class capsules to images."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_capsules.models.parts import convolution
from keras_capsules.models.parts import output_dtype
from keras_capsules.types import Capsules
from keras_capsules.types import Tensor

# Channels of the map that a deconvolutional decoder begins with.
_MAP_CHANNELS = 16


def dense_decoder(
    capsules: Capsules,
    image_shape: tuple[int, ...],
    units: Sequence[int] | None,
    dtype: Any,
) -> keras.Model | None:
    """A decoder with hidden dense layers of these sizes, or `None`."""
    if units is None:
        return None
    inputs = decoder_input(capsules, dtype)
    # Not Flatten, which depends on the global image data format.
    x = keras.layers.Reshape((-1,), name="decoder_flatten", dtype=dtype)(inputs)
    for index, number in enumerate(units, 1):
        x = keras.layers.Dense(
            number,
            activation="relu",
            kernel_initializer="he_normal",
            name=f"decoder_hidden_{index}",
            dtype=dtype,
        )(x)
    full = output_dtype(dtype)
    x = keras.layers.Dense(
        math.prod(image_shape),
        activation="sigmoid",
        name="decoder_pixels",
        dtype=full,
    )(x)
    x = keras.layers.Reshape(image_shape, name="decoder_image", dtype=full)(x)
    return keras.Model(inputs, x, name="decoder")


def decoder_input(capsules: Capsules, dtype: Any) -> Tensor:
    """The symbolic poses of class capsules that a decoder takes."""
    poses = capsules[0] if isinstance(capsules, (list, tuple)) else capsules
    return keras.Input(
        poses.shape[1:], dtype=output_dtype(dtype), name="decoder_poses"
    )


def convolutional_decoder(
    capsules: Capsules,
    image_shape: tuple[int, ...],
    filters: Sequence[int],
    dtype: Any,
) -> keras.Model:
    """A decoder that doubles a small map in size and convolves it, repeatedly.

    Args:
        capsules: Symbolic class capsules.
        image_shape: Height, width and channels of the images.
        filters: The filters of each convolution, after which the map is about
            twice as large as before.
        dtype: The dtype policy of the network.
    """
    # From the image backwards: every convolution takes a pixel off each side,
    # so the maps before it are larger than half of those after it.
    size = [length + 2 for length in image_shape[:2]]
    surpluses: list[list[tuple[int, int]]] = []
    for _ in filters:
        doubled = [length + 2 for length in size]
        size = [(length + 1) // 2 for length in doubled]
        surpluses.insert(
            0,
            [
                (0, 2 * small - large)
                for small, large in zip(size, doubled, strict=True)
            ],
        )
    inputs = decoder_input(capsules, dtype)
    x = keras.layers.Reshape((-1,), name="decoder_flatten", dtype=dtype)(inputs)
    # Without activation, as in the code of Efficient-CapsNet's authors.
    x = keras.layers.Dense(size[0] * size[1], name="decoder_map", dtype=dtype)(
        x
    )
    x = keras.layers.Reshape((*size, 1), name="decoder_reshape", dtype=dtype)(x)
    for index, (number, surplus) in enumerate(
        zip(filters, surpluses, strict=True), 1
    ):
        x = keras.layers.UpSampling2D(
            2,
            interpolation="bilinear",
            data_format="channels_last",
            name=f"decoder_upsampling_{index}",
            dtype=dtype,
        )(x)
        if surplus != [(0, 0), (0, 0)]:
            x = keras.layers.Cropping2D(
                surplus,
                data_format="channels_last",
                name=f"decoder_cropping_{index}",
                dtype=dtype,
            )(x)
        x = convolution(
            number,
            3,
            dtype,
            activation="leaky_relu",
            name=f"decoder_convolution_{index}",
        )(x)
    x = convolution(
        image_shape[2],
        3,
        output_dtype(dtype),
        activation="sigmoid",
        kernel_initializer="glorot_uniform",
        name="decoder_image",
    )(x)
    return keras.Model(inputs, x, name="decoder")


def deconvolutional_decoder(
    capsules: Capsules,
    image_shape: tuple[int, ...],
    filters: Sequence[int] | None,
    dtype: Any,
) -> keras.Model | None:
    """A decoder that sums all poses and doubles a small map in size, or `None`.

    Args:
        capsules: Symbolic class capsules.
        image_shape: Height, width and channels of the images.
        filters: The filters of the transposed convolutions, all but the first
            of which double the map; one more makes the image.
        dtype: The dtype policy of the network.
    """
    if filters is None:
        return None
    *image_size, channels = image_shape
    scale = 2 ** max(len(filters) - 1, 0)
    size = [-(-length // scale) for length in image_size]
    poses = decoder_input(capsules, dtype)
    # The poses of all other capsules are zero.
    x = ops.sum(poses, axis=1)
    x = keras.layers.Dense(
        math.prod(size) * _MAP_CHANNELS,
        activation="relu",
        kernel_initializer="he_normal",
        name="decoder_map",
        dtype=dtype,
    )(x)
    shape = (*size, _MAP_CHANNELS)
    x = keras.layers.Reshape(shape, name="decoder_reshape", dtype=dtype)(x)
    x = keras.layers.BatchNormalization(
        momentum=0.8, name="decoder_normalization", dtype=dtype
    )(x)
    for index, number in enumerate(filters, 1):
        strides = 1 if index == 1 else 2
        name = f"decoder_deconvolution_{index}"
        x = _deconvolution(number, strides, name, dtype)(x)
    surplus = [
        (0, large - small)
        for large, small in zip(x.shape[1:3], image_size, strict=True)
    ]
    if surplus != [(0, 0), (0, 0)]:
        x = keras.layers.Cropping2D(
            surplus,
            data_format="channels_last",
            name="decoder_cropping",
            dtype=dtype,
        )(x)
    full = output_dtype(dtype)
    x = _deconvolution(channels, 1, "decoder_pixels", full)(x)
    x = keras.layers.ReLU(name="decoder_image", dtype=full)(x)
    return keras.Model(poses, x, name="decoder")


def _deconvolution(filters, strides, name, dtype):
    return keras.layers.Conv2DTranspose(
        filters,
        3,
        strides,
        padding="same",
        data_format="channels_last",
        name=name,
        dtype=dtype,
    )
