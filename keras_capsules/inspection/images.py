"""The images that functions of this package take."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.poses import fits
from keras_capsules.models import batches
from keras_capsules.utils.validation import holds_numbers


def check_images(
    model: keras.Model,
    images: Any,
    at_least_one: bool = False,
    name: str = "images",
    finite: bool = True,
) -> np.ndarray:
    """Returns images as an array, or raises if the model does not take them.

    Args:
        model: The argument.
        images: The argument: an array, a list or a tensor.
        at_least_one: Boolean, whether there has to be one. Defaults to
            `False`.
        name: String, the argument's name, for messages. Defaults to
            `"images"`.
        finite: Boolean, whether NaN and infinity are refused. Defaults to
            `True`.

    Raises:
        ValueError: If the model is not functional, has several inputs or takes
            images of another shape; or if the images are no real numbers.
    """
    shape = _shape_of_input(model)
    images = _as_array(images, name)
    batches.check_shape(images, shape, name)
    if at_least_one and not len(images):
        raise ValueError(
            "Expected at least one image. Received: "
            f"{name}.shape={images.shape}"
        )
    if finite:
        _check_finite(images, name)
    return images


def check_image(model: keras.Model, image: Any) -> np.ndarray:
    """Returns one image as a batch of it, or raises; see `check_images`."""
    shape = _shape_of_input(model)
    image = _as_array(image, "image")
    if not fits(image.shape, shape):
        raise ValueError(
            f"Expected `image` to be one image, of shape {shape}. Received: "
            f"image.shape={image.shape}"
        )
    _check_finite(image[None], "image")
    return image[None]


def _shape_of_input(model):
    """The shape of the images that a model takes."""
    inputs = getattr(model, "inputs", None)
    if not isinstance(model, keras.Model) or not inputs:
        raise ValueError(
            "Invalid value for argument `model`. Expected a functional model, "
            "or a Sequential one that is built. Received: "
            f"model={model!r}"
        )
    if len(inputs) > 1:
        raise ValueError(
            "Invalid value for argument `model`. Expected one input. Received: "
            f"a model with the inputs {[each.name for each in inputs]}"
        )
    return tuple(inputs[0].shape[1:])


def _as_array(value, name):
    value = batches.as_array(value, name)
    if not holds_numbers(value.dtype):
        raise ValueError(
            f"Expected `{name}` to be real numbers: booleans, integers or "
            f"floats. Received: {name}.dtype={value.dtype}"
        )
    if isinstance(value, np.ndarray):
        return value
    return ops.convert_to_numpy(value)


def _check_finite(images, name):
    finite = np.isfinite(images)
    if not finite.all():
        first = np.argwhere(~finite)[0][0]
        where = f", in image {first} first" if len(images) > 1 else ""
        raise ValueError(
            f"Expected `{name}` to be finite. Received: {name} with "
            f"{finite.size - finite.sum()} numbers that are NaN or infinite"
            f"{where}"
        )
