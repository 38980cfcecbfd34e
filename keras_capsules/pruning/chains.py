"""From the capsules that are pruned to the layer that they vote in."""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_capsules.inspection.graph import Call
from keras_capsules.inspection.graph import Graph
from keras_capsules.layers.capsule_dropout import CapsuleDropout
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.capsule_selection import CapsuleSelection
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.layers.pose_normalization import PoseNormalization
from keras_capsules.layers.primary_capsules import PrimaryCapsules

PRIMARY = PrimaryCapsules | MatrixPrimaryCapsules
ROUTED = CapsuleLayer | ConvCapsules
# Layers that treat each capsule type by itself.
_BETWEEN = CapsuleDropout | CapsuleSelection | PoseNormalization
# Layers that treat each channel by itself, if their options do.
_PER_CHANNEL = (
    keras.layers.Activation
    | keras.layers.AveragePooling1D
    | keras.layers.AveragePooling2D
    | keras.layers.BatchNormalization
    | keras.layers.Dropout
    | keras.layers.GroupNormalization
    | keras.layers.LeakyReLU
    | keras.layers.MaxPooling1D
    | keras.layers.MaxPooling2D
    | keras.layers.ReLU
)
# Of Keras's activations, those that treat each number by itself. Others do not,
# such as softmax, or may not, such as functions of a user.
_ELEMENTWISE = [
    getattr(keras.activations, name)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid"),
        *("hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid"),
        *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
        *("softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
        *("squareplus", "tanh", "tanh_shrink"),
    )
]


class Chain(NamedTuple):
    """Capsules, and what becomes of them.

    Attributes:
        made: The call of the layer that makes the capsules.
        between: The calls that hand them on, one after the other.
        routed: The call of the layer in which they vote.
    """

    made: Call
    between: Sequence[Call]
    routed: Call

    @property
    def selection(self) -> Call | None:
        """The selection among the capsules, if there is one already."""
        for call in self.between:
            if isinstance(call.layer, CapsuleSelection):
                return call
        return None


def find_chain(graph: Graph, model: keras.Model, name: str | None) -> Chain:
    """Finds the capsules to prune and the layer in which they vote.

    Args:
        graph: The graph of the model.
        model: The model.
        name: The name of the layer that makes the capsules; `None` for the
            primary capsules.

    Raises:
        ValueError: If there is no such layer, or it cannot be pruned.
    """
    made = _find(graph, name)
    call = made
    between: list[Call] = []
    while True:
        call = _only_consumer(graph, model, made, call)
        if isinstance(call.layer, ROUTED):
            return Chain(made, between, call)
        if not isinstance(call.layer, _BETWEEN):
            raise ValueError(
                "Capsules can be pruned where a CapsuleLayer or ConvCapsules "
                "takes them, with nothing between but PoseNormalization, "
                "CapsuleDropout or CapsuleSelection; class capsules cannot. "
                f"Received: capsules of {made.name!r}, which go to "
                f"{_described(call)}"
            )
        between.append(call)


def find_convolution(graph: Graph, made: Call) -> list[Call]:
    """The convolution in front of depthwise capsules, and what follows it.

    Raises:
        ValueError: If there is none.
    """
    found: list[Call] = []
    call = graph.maker(made.inputs[0])
    while call is not None and len(_consumers(graph, call)) == 1:
        _check(graph, call)
        found.append(call)
        if not _mixes_no_channels(call.layer):
            break
        if _is_convolution(call.layer):
            return found
        if not isinstance(call.layer, _PER_CHANNEL):
            break
        call = graph.maker(call.inputs[0])
    received = "the input" if call is None else _described(call)
    raise ValueError(
        "With depthwise=True each number of a capsule is a channel, so "
        "channels are pruned with capsule types. Expected a convolution in "
        f"front of {made.name!r}, with nothing between but layers that treat "
        "each channel by itself, with activations of Keras that treat each "
        "number by itself, and no other layer that takes its channels; "
        f"or unit='capsule'. Received: {received}"
    )


def _is_convolution(layer):
    return (
        isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D)
        and layer.groups == 1
    )


def _mixes_no_channels(layer):
    """Whether the options of a layer let each channel be by itself."""
    return (
        getattr(layer, "data_format", "channels_last") == "channels_last"
        and _is_elementwise(getattr(layer, "activation", None))
        and (
            not isinstance(layer, keras.layers.GroupNormalization)
            or layer.axis in (-1, layer.input_spec.ndim - 1)
        )
    )


def _is_elementwise(activation):
    known = keras.layers.ReLU | keras.layers.LeakyReLU
    return (
        activation is None
        or activation in _ELEMENTWISE
        or isinstance(activation, known)
    )


def _find(graph, name):
    """The call of the layer that makes the capsules."""
    if name is None:
        calls = [x for x in graph.calls if isinstance(x.layer, PRIMARY)]
        names = [call.name for call in calls]
        if not names:
            raise ValueError(
                "The network has no primary capsules. Expected a layer "
                "PrimaryCapsules or MatrixPrimaryCapsules, or the name of "
                "another one as `layer`. Received: a network with the layers "
                f"{[call.name for call in graph.calls]}"
            )
        if len(names) > 1:
            raise ValueError(
                "The network has several layers of primary capsules. Expected "
                f"`layer`, the name of the one to prune, of {names}. Received: "
                "layer=None"
            )
    else:
        calls = [
            call
            for call in graph.calls
            if isinstance(call.layer, PRIMARY | ROUTED)
        ]
        names = [call.name for call in calls]
        calls = [call for call in calls if call.name == name]
        if not calls:
            raise ValueError(
                "Invalid value for argument `layer`. Expected the name of a "
                f"layer that makes capsules, of {names}. Received: "
                f"layer={name!r}"
            )
    _check(graph, calls[0])
    return calls[0]


def _only_consumer(graph, model, made, call):
    """The call that takes the capsules, if it is one alone."""
    outputs = {id(graph.resolve(x)) for x in model.outputs}
    consumers = _consumers(graph, call)
    is_output = any(id(x) in outputs for x in call.outputs)
    if is_output or len(consumers) != 1:
        names = [each.name for each in consumers]
        raise ValueError(
            "Capsules can be pruned if one layer takes them. Class capsules "
            "cannot, nor those of a residual cell, which are added to others. "
            f"Received: capsules of {made.name!r}, which go to "
            f"{names}{' and are an output' if is_output else ''}"
        )
    _check(graph, consumers[0])
    return consumers[0]


def _consumers(graph, call):
    made = {id(x) for x in call.outputs}
    return [
        other
        for other in graph.calls
        if any(id(graph.resolve(x)) in made for x in other.inputs)
    ]


def _check(graph, call):
    """Raises if a layer cannot be changed."""
    number = sum(each.layer is call.layer for each in graph.calls)
    if number > 1:
        raise ValueError(
            "A layer that is called several times cannot be pruned. Received: "
            f"{number} calls of {call.name!r}"
        )
    if "/" in call.name:
        raise ValueError(
            "A layer within a model that is part of the model cannot be "
            "pruned. Expected the layers to be in one functional model. "
            f"Received: the layer {call.name!r}"
        )


def _described(call):
    activation = getattr(call.layer, "activation", None)
    options = ""
    if not _is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        options = f", activation={name}"
    return f"{call.name!r} ({type(call.layer).__name__}{options})"
