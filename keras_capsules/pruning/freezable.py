"""Which layers of a network can be frozen."""

from typing import Any

from keras_capsules.inspection.graph import Call
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.routes import capsule_axes
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import FixedRouting
from keras_capsules.routing import SelfAttentionRouting

# The routings whose poses are an activation of weighted sums of votes.
ACTIVATIONS = {
    DynamicRouting: "squash",
    SelfAttentionRouting: "exponential_squash",
}


def find(
    graph: Graph, names: Any
) -> tuple[dict[str, Call], dict[str, str | None]]:
    """The calls of layers with routing, and why they cannot be frozen.

    Args:
        graph: The graph of the model.
        names: Of the layers to freeze; `None` for all that can be.

    Returns:
        The calls of all layers with routing, by name; and for each that is
        wanted the reason why it cannot be frozen, `None` if it can.

    Raises:
        ValueError: If there is no such layer, or it cannot be frozen.
    """
    routed = {
        call.name: call
        for call in graph.calls
        if isinstance(call.layer, CapsuleLayer | ConvCapsules)
        and not isinstance(call.layer.routing, FixedRouting)
    }
    if not routed:
        raise ValueError(
            "There is no routing to freeze. Expected a network with layers "
            "CapsuleLayer or ConvCapsules. Received: a network with the layers "
            f"{[call.name for call in graph.calls]}"
        )
    wanted = list(routed) if names is None else names
    is_list = isinstance(wanted, (list, tuple)) and len(wanted) > 0
    if not is_list or not all(
        isinstance(name, str) and name in routed for name in wanted
    ):
        raise ValueError(
            "Invalid value for argument `layers`. Expected names of layers "
            f"with routing, of {list(routed)}. Received: layers={names!r}"
        )
    reasons = {
        name: _reason_against(graph, call)
        for name, call in routed.items()
        if name in wanted
    }
    against = [reason for reason in reasons.values() if reason is not None]
    if against and (names is not None or len(against) == len(reasons)):
        raise ValueError(against[0])
    return routed, reasons


def _reason_against(graph, call):
    """Why a layer cannot be frozen, or `None`."""
    routing = call.layer.routing
    if type(routing) not in ACTIVATIONS:
        kinds = ", ".join(each.__name__ for each in ACTIVATIONS)
        return (
            "The poses of this routing are no activation of a sum of votes "
            "with the coupling as weights, or it also makes activations. "
            f"Expected `layers`, names of layers with {kinds}. Received: the "
            f"layer {call.name!r} with routing={routing!r}"
        )
    capsules = capsule_axes(call.layer, call.inputs[0].shape)
    if isinstance(call.layer, CapsuleLayer) and None in capsules:
        return (
            "Fixed coupling is a number for each pair of an input and an "
            "output capsule. Expected a known number of input capsules. "
            f"Received: the layer {call.name!r}, whose input has the shape "
            f"{tuple(call.inputs[0].shape)}"
        )
    same = [each for each in graph.calls if each.layer is call.layer]
    expected = (
        "Expected `layers`, names of layers that are called once, and are no "
        f"part of a model within the model. Received: the layer {call.name!r}"
    )
    if "/" in call.name:
        return f"{expected}, which is part of another model"
    if len(same) > 1:
        return f"{expected}, which is called {len(same)} times"
    return None
