"""The images that functions of this package take."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.models import batches


def check_images(model: keras.Model, images: Any) -> np.ndarray:
    """Returns images as an array, or raises if the model does not take them.

    Args:
        model: The argument.
        images: The argument: an array, a list or a tensor.

    Raises:
        ValueError: If the model is not functional, has several inputs or takes
            images of another shape.
    """
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
    images = batches.as_array(images)
    if not isinstance(images, np.ndarray):
        images = ops.convert_to_numpy(images)
    batches.check_shape(images, inputs[0].shape[1:], "images")
    return images
