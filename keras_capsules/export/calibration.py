"""Images for calibration, which have to be those that a network knows."""

from typing import Any

import keras
import numpy as np

from keras_capsules.inspection.images import check_images
from keras_capsules.types import Tensor

# Pixels from 0 to 255 in place of those from 0 to 1 change variances by 65025.
# Other training images, and averages of a short training, by much less.
_FACTOR = 1000


def check_calibration(model: keras.Model, images: Tensor) -> np.ndarray:
    """Returns images for calibration as an array, or raises.

    Args:
        model: A functional model with one input.
        images: The argument.

    Raises:
        ValueError: If these are not images as the model takes them: of its
            shape and kind of numbers, finite, and on the scale of those that
            its batch normalizations have seen.
    """
    array = check_images(model, images, at_least_one=True, name="calibration")
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if "float" in dtype and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            "The ranges of a file are fixed by the images for calibration, so "
            "they have to be on the scale of those that the model takes. "
            "Pixels as they are in files, from 0 to 255, would ruin it for "
            "images from 0 to 1. Expected `calibration` to be numbers of a "
            f"floating-point type, as for `model.predict`, such as {dtype}. "
            f"Received: calibration.dtype={array.dtype}"
        )
    cast = array.astype(dtype)
    if "float" not in dtype and not np.array_equal(cast, array):
        raise ValueError(
            "The model takes integers, and images from 0 to 1 would all be 0. "
            f"Expected `calibration` to be numbers that {dtype} can hold, such "
            "as pixels as they are in files. Received: calibration.dtype="
            f"{array.dtype}, calibration.min()={array.min():.4g}, "
            f"calibration.max()={array.max():.4g}"
        )
    _check_scale(model, cast)
    return cast


def _check_scale(model, images):
    """Raises if batch normalizations know quite other numbers."""
    known = [each for each in map(_normalized, model.layers) if each]
    if not known:
        return
    inner = keras.Model(model.inputs, [inputs for _, inputs in known])
    outputs = keras.tree.flatten(inner.predict(images, verbose=0))
    for (layer, _), values in zip(known, outputs, strict=True):
        axis = layer.axis % values.ndim
        others = tuple(x for x in range(values.ndim) if x != axis)
        found = float(values.var(axis=others, dtype="float64").mean())
        usual = float(
            np.mean(keras.ops.convert_to_numpy(layer.moving_variance))
        )
        if not usual / _FACTOR <= found <= usual * _FACTOR:
            raise ValueError(
                "The images for calibration are on another scale than those "
                f"of the training: before the layer {layer.name!r} their "
                f"variance is {found:.2g}, and that of the training was "
                f"{usual:.2g}. Expected `calibration` to be images as for "
                "`model.predict`. Received: calibration.min()="
                f"{images.min():.4g}, calibration.max()={images.max():.4g}"
            )


def _normalized(layer: Any) -> tuple[Any, Any] | None:
    """A trained batch normalization and its input, if the layer is one."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    if np.all(keras.ops.convert_to_numpy(layer.moving_variance) == 1):
        return None  # as it was made
    try:
        return layer, layer.input
    except (AttributeError, ValueError):
        return None  # it was called several times
