"""What changes in a network if some capsules are removed."""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_capsules import routing as routings
from keras_capsules.inspection.graph import Graph
from keras_capsules.layers.capsule_selection import CapsuleSelection
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.models import saving
from keras_capsules.pruning.chains import Chain
from keras_capsules.pruning.chains import find_convolution
from keras_capsules.pruning.rebuild import Changes
from keras_capsules.pruning.rebuild import routing_options
from keras_capsules.pruning.sample import has_mask


def check_prunable(chain: Chain, unit: str) -> None:
    """Raises if capsules of this chain cannot be removed.

    Args:
        chain: The capsules.
        unit: `"type"` or `"capsule"`.
    """
    if has_mask(chain.routed):
        raise ValueError(
            "Capsules that a mask excludes in some examples cannot be pruned. "
            "Expected a layer whose input has no mask. Received: the layer "
            f"{chain.routed.name!r}, whose input has one"
        )
    layer: Any
    for layer in (chain.made.layer, chain.routed.layer):
        routing = getattr(layer, "routing", None)
        if getattr(routing, "batch_normalization", False):
            raise ValueError(
                "This routing normalizes with the mean and the variance of "
                "what all capsules together made in training. They would be "
                "wrong for fewer capsules. Expected another routing, such as "
                "VariationalBayesRouting(batch_normalization=False). Received: "
                f"the layer {layer.name!r} with routing={routing!r}"
            )
    if unit == "type":
        return
    if isinstance(layer, ConvCapsules):
        reason = "the layer above is a convolution, which needs a full grid"
    elif layer.share_over_positions:
        reason = (
            "share_over_positions=True: all capsules of a type have the same "
            "matrices, which stay if single ones go"
        )
    elif layer.coordinate_addition:
        reason = (
            "coordinate_addition=True: the coordinates of a capsule are those "
            "of its place on the grid"
        )
    elif isinstance(layer.capsule_dim, tuple) and len(chain.routed.inputs) == 1:
        reason = "the capsules are matrices without activations"
    else:
        return
    raise ValueError(
        "Single capsules of this layer cannot be removed. Expected "
        f"unit='type'. Received: unit='capsule' for {chain.made.name!r}, whose "
        f"capsules vote in {layer.name!r}, and {reason}"
    )


def without_types(
    model: keras.Model,
    graph: Graph,
    chain: Chain,
    kept: np.ndarray,
    num_inputs: int,
) -> Changes:
    """The changes that leave some capsule types.

    Args:
        model: The network.
        graph: Its graph.
        chain: The capsules.
        kept: The types that are left, sorted.
        num_inputs: How many capsules vote for one output capsule before.
    """
    made: Any = chain.made.layer
    types, number = made.num_capsules, len(kept)
    of_channels = _of_channels(kept, types)
    of_capsules = _of_capsules(kept, types)
    configs = {made.name: {"num_capsules": number}}
    keeps = {call.name: of_capsules for call in (*chain.between, chain.routed)}
    keeps[made.name] = of_channels
    if chain.selection is not None:
        indices = np.array(chain.selection.layer.indices)
        rows = np.flatnonzero(np.isin(indices % types, kept))
        places, types_of = np.divmod(indices[rows], types)
        indices = places * number + np.searchsorted(kept, types_of)
        configs[chain.selection.name] = {"indices": indices.tolist()}
        keeps[chain.routed.name] = lambda size: rows
    if getattr(made, "depthwise", False):
        channels = types * made.capsule_dim
        for call in find_convolution(graph, chain.made):
            configs[call.name] = _smaller(
                call.layer, channels, number * made.capsule_dim
            )
            keeps[call.name] = of_channels
    pinned = _pinned(chain, num_inputs)
    options = _number_options(model, made, number)
    others = routing_options(model, graph, pinned)
    if options is not None:
        options = None if others is None else {**options, **others}
    return Changes({**configs, **_routing_configs(pinned)}, keeps, {}, options)


def without_capsules(
    chain: Chain, kept: np.ndarray, num_inputs: int
) -> Changes:
    """The changes that leave single capsules.

    Args:
        chain: The capsules.
        kept: The capsules that are left, sorted.
        num_inputs: How many there are before.
    """
    above: Any = chain.routed.layer
    configs = _routing_configs(_pinned(chain, num_inputs))
    keeps = {above.name: lambda size: kept}
    if chain.selection is not None:
        indices = np.array(chain.selection.layer.indices)[kept]
        configs[chain.selection.name] = {"indices": indices.tolist()}
        return Changes(configs, keeps)
    selection = CapsuleSelection(
        kept.tolist(),
        name=f"{chain.made.name}_selection",
        dtype=above.dtype_policy,
    )
    return Changes(configs, keeps, selection=(selection, above.name))


def _of_channels(kept: np.ndarray, types: int) -> Callable[[int], np.ndarray]:
    """What is kept of an axis where the numbers of a type are together."""

    def indices(size):
        width = size // types
        return (kept[:, None] * width + np.arange(width)).ravel()

    return indices


def _of_capsules(kept: np.ndarray, types: int) -> Callable[[int], np.ndarray]:
    """What is kept of an axis where the types of a place are together."""

    def indices(size):
        return (np.arange(size // types)[:, None] * types + kept).ravel()

    return indices


def _smaller(layer, channels, number):
    """The configuration of a layer for fewer channels."""
    if hasattr(layer, "filters"):
        return {"filters": number}
    if not isinstance(layer, keras.layers.GroupNormalization):
        return {}
    if layer.groups != channels:
        raise ValueError(
            "Channels that are normalized in groups cannot be pruned. Expected "
            "groups=-1, each by itself. Received: the layer "
            f"{layer.name!r} with groups={layer.groups}"
        )
    return {"groups": -1}


def _pinned(chain, num_inputs):
    """Routings that compute the same with fewer input capsules."""
    layer = chain.routed.layer
    routing = layer.routing
    if getattr(routing, "cost_scale", None) != "normalized":
        return {}
    # Otherwise the costs of all output capsules would grow at once.
    scale = 100.0 * layer.num_capsules / num_inputs
    config = {**routing.get_config(), "cost_scale": scale}
    return {layer.name: type(routing).from_config(config)}


def _routing_configs(new):
    return {
        name: {"routing": routings.serialize(each)}
        for name, each in new.items()
    }


def _number_options(model, made, number):
    """The argument of a network for so many types of a layer, or `None`."""
    known = saving.argument_names(type(model))
    if made.name == "primary_capsules" and "num_primary_capsules" in known:
        return {"num_primary_capsules": number}
    found = re.fullmatch(r"conv_capsules_(\d+)", made.name)
    if found and "num_conv_capsules" in known:
        numbers = list(model.num_conv_capsules)
        numbers[int(found[1]) - 1] = number
        return {"num_conv_capsules": numbers}
    return None
