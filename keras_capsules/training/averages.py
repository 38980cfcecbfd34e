"""Averages of weights, in the place of the weights."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_capsules.models import saving

# From which means and variances are measured.
_BATCHES = 100


@contextlib.contextmanager
def averaged(
    examples: Callable[[int], Any], model: keras.Model
) -> Iterator[None]:
    """The model with the averages of its weights, and statistics of theirs.

    Args:
        examples: As that of `resumable.fit`.
        model: A model whose optimizer averages weights. Afterwards it has its
            own weights again.
    """
    values = [keras.ops.convert_to_numpy(each) for each in model.variables]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        _measure_statistics(model, examples(0))
        yield
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)


def _measure_statistics(model, examples):
    """Replaces moving means and variances by those of some batches.

    The moving ones are of other weights than the averaged ones.
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
        for number, (images, _) in enumerate(examples.take(_BATCHES)):
            for layer in layers:
                layer.momentum = number / (number + 1)  # the mean of all so far
            model(keras.ops.convert_to_tensor(images), training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
