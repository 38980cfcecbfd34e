"""Checks of data before a network is trained or evaluated with it."""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_capsules.datasets.checked import is_pipeline
from keras_capsules.datasets.checked import with_check
from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss
from keras_capsules.losses import margin_loss
from keras_capsules.losses import spread_loss
from keras_capsules.losses.spread_loss import check_some_class
from keras_capsules.models import batches
from keras_capsules.models.reconstruction import TARGET_CLASSES
from keras_capsules.models.reconstruction import TARGETS
from keras_capsules.models.reconstruction import objects_of
from keras_capsules.utils.labels import check_labels
from keras_capsules.utils.validation import check_numbers

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
    # TensorFlow raises errors of its own when a pipeline fails.
    found: list[ValueError] = []
    looked: list[bool] = []

    def check_batch(x, y):
        try:
            _check_labels(network, y)
        except ValueError as error:
            found.append(error)
            raise
        if not looked:  # the first batch is as the others
            looked.append(True)
            _look_at(network, x, y)

    def check(x, y=None):
        if is_pipeline(x):
            return with_check(x, check_batch)
        if inspect.isgenerator(x):
            return _checked_generator(x, check_batch)
        _check_labels(network, y)
        _look_at(network, x, y)
        return x

    try:
        yield check
    except Exception as error:
        # JAX takes the weights out of a model while it works with them.
        getattr(network, "jax_state_sync", lambda: None)()
        if found and type(error).__module__.startswith("tensorflow"):
            raise found[0] from None
        raise


def _checked_generator(generator, check_batch):
    for batch in generator:
        if isinstance(batch, (list, tuple)) and len(batch) > 1:
            check_batch(batch[0], batch[1])
        yield batch


def _check_labels(network, y):
    """Raises if arrays, lists or tensors hold labels that do not fit."""
    decoder = getattr(network, "decoder", None)
    losses = keras.tree.flatten(network.loss)
    spread = any(
        isinstance(each, SpreadLoss) or each is spread_loss for each in losses
    )
    margin = any(
        isinstance(each, MarginLoss) or each is margin_loss for each in losses
    )
    # Labels of other losses may be anything.
    if decoder is not None or spread or margin:
        name = network.output_names[0]
        known = {name, TARGETS, TARGET_CLASSES}
        if isinstance(y, Mapping) and known.isdisjoint(y):
            raise ValueError(
                "Labels in a dictionary have the names of the outputs. "
                f"Expected {name!r}. Received: `y` with the keys {list(y)}"
            )
        labels = _as_array(batches.unpack(y, name))
        shape = tuple(network.output_shape)
        _check_values(labels, shape, "y")
        if spread:
            check_some_class(labels, shape, "y")
    if decoder is not None and objects_of(y, network) is not None:
        classes = _as_array(y[TARGET_CLASSES])
        if not np.issubdtype(getattr(classes, "dtype", None), np.integer):
            raise ValueError(
                f"Expected `{TARGET_CLASSES}` to hold integers. Received: "
                f"{TARGET_CLASSES} of dtype {classes.dtype}"
            )
        shape = (*classes.shape, network.output_shape[-1])
        _check_values(classes, shape, TARGET_CLASSES)


def _check_values(labels, shape, name):
    if isinstance(labels, (np.ndarray, list, tuple)):
        check_labels(labels, shape, name)


def _as_array(values):
    """Tensors, of whatever backend, and tables as arrays."""
    if keras.ops.is_tensor(values):
        return keras.ops.convert_to_numpy(values)
    if isinstance(values, np.ndarray) or not hasattr(values, "__array__"):
        return values
    return np.asarray(values)


def _look_at(network, x, y):
    """Warns of images that ruin the training."""
    images = _as_array(batches.in_order(network, x)[0])
    targets = y.get(TARGETS) if isinstance(y, Mapping) else None
    for name, values in (("images", images), (TARGETS, _as_array(targets))):
        if not isinstance(values, np.ndarray) or not values.size:
            continue
        if np.iscomplexobj(values):
            continue  # refused elsewhere
        check_numbers(values, name)
        # Of NaN, the largest value is NaN.
        least, most = float(np.min(values)), float(np.max(values))
        if not np.isfinite([least, most]).all():
            broken = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            _warn(
                "With values that are not finite the loss is NaN, and in "
                "training all weights become NaN. Expected numbers. Received: "
                f"NaN or infinity in {broken.sum()} of {len(broken)} {name}, "
                f"first in number {broken.argmax()}"
            )
        elif max(most, -least) > _MOST and _has_pixels(network):
            _warn(
                "Images with large values train badly, and the decoder cannot "
                "reconstruct them. Expected pixels from 0 to 1; divide pixels "
                f"from 0 to 255 by 255. Received: {name} with values from "
                f"{least} to {most}"
            )


def _has_pixels(network):
    """Whether the decoder makes numbers from 0 to 1."""
    # A network of own layers may rescale them.
    decoder = getattr(network, "decoder", None)
    return decoder is not None and hasattr(network, "image_shape")


def _warn(message):
    warnings.warn(message, stacklevel=7)
