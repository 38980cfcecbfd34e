"""Averages of weights, and what normalization knows of all images."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_capsules.models import saving

# The most batches that means and variances are measured from.
_BATCHES = 100


@contextlib.contextmanager
def as_it_is_used(
    examples: Callable[[int], Any], steps: int, model: keras.Model
) -> Iterator[None]:
    """The model with averages of its weights, and with statistics of theirs.

    Args:
        examples: As that of `resumable.fit`.
        steps: Integer, the batches of an epoch.
        model: A compiled model. If its optimizer averages no weights, it keeps
            them. Afterwards it is in training again.
    """
    values = [keras.ops.convert_to_numpy(each) for each in model.variables]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        _measure_statistics(model, examples, min(steps, _BATCHES))
        yield
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)


def _measure_statistics(model, examples, steps):
    """Replaces moving means and variances by those of some batches.

    The moving ones are of earlier weights and, after few steps, still near the
    values that they began with.
    """
    layers = [
        layer
        for _, layer in saving.walk(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    try:
        for number, (images, _) in enumerate(examples(0).take(steps)):
            for layer in layers:
                layer.momentum = number / (number + 1)  # the mean of all so far
            model(keras.ops.convert_to_tensor(images), training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
