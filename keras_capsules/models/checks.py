"""Checks of data before a network is trained or evaluated with it."""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_capsules.datasets.checked import is_pipeline
from keras_capsules.datasets.checked import with_check
from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss
from keras_capsules.losses.spread_loss import check_some_class
from keras_capsules.models import batches
from keras_capsules.models.reconstruction import TARGET_CLASSES
from keras_capsules.models.reconstruction import objects_of
from keras_capsules.utils.labels import check_labels

# Standardized images stay below this, pixels from 0 to 255 do not.
_MOST = 16.0


@contextlib.contextmanager
def checking(network: keras.Model) -> Iterator[Callable[..., Any]]:
    """Checks labels, and looks at the range of images, before they do harm.

    A loss in a compiled step can only become NaN. Arrays are checked at once.
    The batches of a `tf.data.Dataset` or a generator are checked as they come,
    beside the steps. Those of other data sets are not checked.

    Args:
        network: A network with class scores, and perhaps a `decoder`.

    Yields:
        A function of the first two arguments of `fit` and similar methods. It
        returns the first one, or what is to be used in its place.

    Raises:
        ValueError: If labels do not fit the network.
    """
    # Frameworks raise errors of their own when a pipeline fails.
    found: list[ValueError] = []

    def check_batch(x, y):
        try:
            _check_labels(network, y)
        except ValueError as error:
            found.append(error)
            raise
        _look_at(network, x)

    def check(x, y=None):
        if is_pipeline(x):
            return with_check(x, lambda labels: check_batch(None, labels))
        if inspect.isgenerator(x):
            return _checked_generator(x, check_batch)
        _check_labels(network, y)
        _look_at(network, x)
        return x

    try:
        yield check
    except Exception:
        if found:
            raise found[0] from None
        raise


def _checked_generator(generator, check_batch):
    for batch in generator:
        if isinstance(batch, (list, tuple)) and len(batch) > 1:
            check_batch(batch[0], batch[1])
        yield batch


def _check_labels(network, y):
    """Raises if arrays, lists or tensors hold labels that do not fit."""
    losses = keras.tree.flatten(network.loss)
    # Labels of other losses may be anything.
    if network.decoder is not None or any(
        isinstance(each, (MarginLoss, SpreadLoss)) for each in losses
    ):
        labels = batches.unpack(y, network.output_names[0])
        shape = tuple(network.output_shape)
        _check_values(labels, shape, "y")
        if any(isinstance(each, SpreadLoss) for each in losses):
            check_some_class(_as_array(labels), shape, "y")
    if network.decoder is not None and objects_of(y) is not None:
        classes = y[TARGET_CLASSES]
        shape = (*classes.shape, network.output_shape[-1])
        _check_values(classes, shape, TARGET_CLASSES)


def _check_values(labels, shape, name):
    labels = _as_array(labels)
    if isinstance(labels, (np.ndarray, list, tuple)):
        check_labels(labels, shape, name)


def _as_array(labels):
    if keras.ops.is_tensor(labels):
        return keras.ops.convert_to_numpy(labels)
    return labels


def _look_at(network, x):
    """Warns of images that the decoder cannot reconstruct."""
    images = batches.in_order(network, x)[0]
    if network.decoder is None or not isinstance(images, np.ndarray):
        return
    if not hasattr(network, "image_shape"):
        return  # a network of own layers, which may rescale them
    if images.size and _MOST < np.max(images) < np.inf:
        warnings.warn(
            "Images with large values train badly, and the decoder cannot "
            "reconstruct them. Expected pixels from 0 to 1; divide pixels from "
            "0 to 255 by 255. Received: images with values from "
            f"{np.min(images)} to {np.max(images)}",
            stacklevel=6,
        )
