"""The graph of a capsule network, from class capsules to scores."""

from typing import Any

import keras

from keras_capsules.layers.capsule_length import CapsuleLength
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.types import Capsules
from keras_capsules.types import Tensor


def check_capsules(capsules: Any) -> Capsules:
    """Class capsules as one symbolic tensor, or as a tuple of two."""
    tensors = keras.tree.flatten(capsules)
    shapes: list[Any] = [getattr(x, "shape", None) for x in tensors]
    valid = all(isinstance(x, keras.KerasTensor) for x in tensors)
    if valid and len(shapes) == 1:
        valid = len(shapes[0]) == 3
    elif valid and len(shapes) == 2:
        valid = len(shapes[0]) > 2 and shapes[0][:2] == shapes[1]
    else:
        valid = False
    if not valid or any(None in shape[1:] for shape in shapes):
        raise ValueError(
            "Expected `capsules` to be the output of a layer of class "
            "capsules: vectors (batch, num_classes, dim), or a pair of poses "
            "(batch, num_classes, ...) and activations (batch, num_classes). "
            f"Received: capsules={capsules!r}"
        )
    return tuple(tensors) if len(tensors) == 2 else tensors[0]


def add_scores(
    inputs: Any, capsules: Capsules, dtype: Any
) -> tuple[Capsules, Tensor]:
    """Adds the layers from class capsules to scores.

    Args:
        inputs: The symbolic inputs of the network.
        capsules: Its symbolic class capsules, as `check_capsules` returns them.
        dtype: The dtype of the scores.

    Returns:
        The capsules, NaN for each example whose input is not finite, and the
        scores.

    Raises:
        ValueError: If the lengths of the capsules say nothing of presence.
    """
    operations = keras.Model(inputs, capsules, name="encoder").operations
    if not isinstance(capsules, tuple):
        _check_lengths(operations[-1])
    used = {operation.name for operation in operations}
    features = capsules
    for index, each in enumerate(keras.tree.flatten(inputs)):
        name = f"propagate_nan_{index}" if index else "propagate_nan"
        layer = PropagateNaN(name=_free_name(name, used))
        features = layer(each, features)
    layer = CapsuleLength(name=_free_name("scores", used), dtype=dtype)
    return features, layer(features)


def _check_lengths(operation):
    """Raises if the lengths of the capsules of this layer mean nothing."""
    # A stack of layers ends in the one that counts.
    layers = getattr(operation, "layers", None)
    last = layers[-1] if isinstance(layers, list) and layers else operation
    routing = getattr(last, "routing", None)
    if getattr(routing, "activation_from", None) == "nothing":
        raise ValueError(
            "With this routing, the length of a capsule does not say whether "
            "its class is present. Expected `capsules` with activations, such "
            "as keras_capsules.layers.PoseScores()(capsules). Received: "
            f"capsules of the layer {operation.name!r} with routing={routing!r}"
        )


def _free_name(name, used):
    """The name, with a number if another layer has it already."""
    free, number = name, 0
    while free in used:
        number += 1
        free = f"{name}_{number}"
    used.add(free)
    return free
