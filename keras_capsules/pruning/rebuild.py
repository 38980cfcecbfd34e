"""A network again, with some layers changed and the same weights."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules import routing as routings
from keras_capsules.inspection.graph import Graph
from keras_capsules.layers.capsule_selection import CapsuleSelection
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.models import saving
from keras_capsules.models.capsule_network import CapsuleNetwork


class Changes(NamedTuple):
    """What is different in the new network.

    Attributes:
        configs: New entries of the configurations of layers, by their names.
        kept: For layers with smaller weights, by their names, a function from
            the size of an axis that became smaller to the indices that it
            keeps.
        weights: For layers with other weights, by their names, a function that
            assigns them, from the old and the new layer.
        options: New arguments of the constructor of the network, which make the
            same changes; or `None` if there are none.
        selection: A `CapsuleSelection` and the name of the layer above it; or
            `None`.
    """

    configs: dict[str, dict[str, Any]]
    kept: Mapping[str, Callable[[int], np.ndarray]] = {}
    weights: Mapping[str, Callable[[Any, Any], None]] = {}
    options: dict[str, Any] | None = None
    selection: tuple[CapsuleSelection, str] | None = None


def rebuild(model: keras.Model, changes: Changes) -> keras.Model:
    """Makes a network with changes, and gives it the weights of another.

    Args:
        model: A functional model. It stays as it is.
        changes: What is different.

    Returns:
        A network of the same class, if it has the arguments for the changes.
        Otherwise a `CapsuleNetwork` if `model` is one, or a functional model.
    """
    check_not_quantized(model)
    source = model
    if not isinstance(model, CapsuleNetwork):
        if isinstance(model, keras.Sequential):
            inputs, outputs = model.inputs[0], model.outputs[0]
        else:
            inputs, outputs = model.input, model.output
        source = keras.Model(inputs, outputs, name=model.name)
        new = target = _clone(source, changes)
    elif changes.options is not None:
        source = model.encoder
        config = {**model.get_config(), **changes.options}
        new = type(model).from_config(config)
        target = new.encoder
    else:
        source = model.encoder
        target = _clone(source, changes)
        new = _network(model, target)
    for layer in source.layers:
        if layer.weights:
            _assign(layer, target.get_layer(layer.name), changes)
    if getattr(model, "decoder", None) is not None:
        new.decoder.set_weights(model.decoder.get_weights())
    saving.freeze_layers(new, saving.frozen_layers(model))
    if not model.trainable:
        new.trainable = False
    return new


def check_not_quantized(model: keras.Model) -> None:
    """Raises if weights of a model are quantized."""
    quantized = [
        path
        for path, layer in saving.walk(model)
        if getattr(layer, "quantization_mode", None)
    ]
    if quantized:
        raise ValueError(
            "A quantized network cannot be changed. Expected `quantize` to be "
            "called afterwards. Received: a network with the quantized layers "
            f"{quantized}"
        )


def routing_options(
    model: keras.Model, graph: Graph, new: Mapping[str, routings.Routing]
) -> dict[str, Any] | None:
    """The argument of a network's constructor that gives layers new routings.

    Args:
        model: The network.
        graph: Its graph.
        new: Routings, by the names of their layers.

    Returns:
        The argument; or `None` if the network has no such argument, or not all
        of its layers get the same routing.
    """
    configs = [routings.serialize(each) for each in new.values()]
    routed = {x.name for x in graph.calls if hasattr(x.layer, "routing")}
    if not new:
        return {}
    known = saving.argument_names(type(model))
    if "routing" not in known or routed != set(new):
        return None
    if any(config != configs[0] for config in configs):
        return None
    return {"routing": configs[0]}


def _clone(source, changes):
    """A copy of a functional model, with changes but other weights."""

    def made_again(layer):
        config = {**layer.get_config(), **changes.configs.get(layer.name, {})}
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        if changes.selection is not None:
            selection, above = changes.selection
            if layer.name == above:
                args = (selection(args[0]), *args[1:])
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        source, clone_function=made_again, call_function=call
    )


def _network(model, encoder):
    """A capsule network of the layers of this encoder."""
    capsules = keras.tree.flatten(encoder.output)
    for layer in reversed(encoder.layers):
        if not isinstance(layer, PropagateNaN):
            break
        # It is at the end of all encoders, and will be added again.
        _, *capsules = keras.tree.flatten(layer.input)
    decoder = model.decoder
    return CapsuleNetwork(
        encoder.input,
        capsules[0] if len(capsules) == 1 else tuple(capsules),
        decoder if decoder is None else keras.models.clone_model(decoder),
        model.reconstruction_weight,
        name=model.name,
        dtype=model.dtype_policy,
        trainable=model.trainable,
    )


def _assign(old, new, changes):
    """Gives a layer the weights of the old one, as far as it keeps them."""
    if old.name in changes.weights:
        changes.weights[old.name](old, new)
        return
    for ours, theirs in zip(old.weights, new.weights, strict=True):
        array = ops.convert_to_numpy(ours)
        for axis, size in enumerate(ours.shape):
            if size != theirs.shape[axis]:
                indices = changes.kept[old.name](size)
                array = np.take(array, indices, axis)
        theirs.assign(array)
