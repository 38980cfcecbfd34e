"""Checks of arrays before a network is trained or evaluated with them."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss
from keras_capsules.models import batches
from keras_capsules.utils.labels import check_labels

# Standardized images stay below this, pixels from 0 to 255 do not.
_MOST = 16.0


def check_arrays(network: keras.Model, x: Any, y: Any) -> None:
    """Checks labels, and looks at the range of images.

    A loss in a compiled step can only become NaN. Arrays can be looked at
    before. Tensors and data sets are not.

    Args:
        network: A network with class scores, and perhaps a `decoder`.
        x: The first argument of `fit`, `evaluate` and similar methods.
        y: The second one.

    Raises:
        ValueError: If an array or a list holds labels that do not fit.
    """
    y = batches.unpack(y, network.output_names[0])
    # Labels of other losses may be anything.
    has_labels = isinstance(y, (np.ndarray, list, tuple)) and (
        network.decoder is not None
        or isinstance(network.loss, (MarginLoss, SpreadLoss))
    )
    if has_labels:
        check_labels(y, tuple(network.output_shape), "y")
    images = batches.in_order(network, x)[0]
    if network.decoder is None or not isinstance(images, np.ndarray):
        return
    if images.size and _MOST < np.max(images) < np.inf:
        warnings.warn(
            "Images with large values train badly, and the decoder cannot "
            "reconstruct them. Expected pixels from 0 to 1; divide pixels from "
            "0 to 255 by 255. Received: images with values from "
            f"{np.min(images)} to {np.max(images)}",
            stacklevel=4,
        )
