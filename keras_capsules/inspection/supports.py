"""Which input capsules support an output capsule, through several layers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules.engine.votes import count_votes
from keras_capsules.engine.votes import make_votes
from keras_capsules.inspection.fields import follow
from keras_capsules.inspection.fields import places_of
from keras_capsules.inspection.graph import Call
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import Untraceable
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.places import Places
from keras_capsules.inspection.places import scattered
from keras_capsules.inspection.places import unfolded
from keras_capsules.inspection.pointwise import SAME
from keras_capsules.inspection.pointwise import operation_of
from keras_capsules.inspection.routes import Route
from keras_capsules.inspection.routes import axes_of
from keras_capsules.inspection.routes import capsule_axes
from keras_capsules.inspection.routes import is_routing
from keras_capsules.inspection.routes import layers_of
from keras_capsules.inspection.routes import names_of
from keras_capsules.inspection.routes import pose_axes
from keras_capsules.inspection.routes import routes
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.capsule_selection import CapsuleSelection
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.routing.self_attention import SelfAttentionRouting
from keras_capsules.types import Tensor

# Votes that are made at once have at most this many numbers.
_MOST_VOTES = 2**24


class Level(NamedTuple):
    """One layer of capsules above another, for a batch of images.

    Axes: b image, P position of the output grid, i input capsule, j output
    capsule.

    Attributes:
        shares: The share of an input capsule in the support of an output
            capsule, `[b, P, j, i]`. They sum to 1, or are all 0.
        activations: Of the input capsules, `[b, P, i]`.
        sources: Which capsule of the layer below an input capsule is, `[P, i]`;
            -1 for those that padding adds.
        grid: The sizes of the output grid.
    """

    shares: np.ndarray
    activations: np.ndarray
    sources: np.ndarray
    grid: Sequence[int]

    @property
    def outputs(self) -> list[int]:
        """The axes of the output capsules."""
        return [*self.grid, self.shares.shape[2]]

    def below(self, amounts: np.ndarray, number: int) -> np.ndarray:
        """Hands amounts down, from `[b, P * j]` to the `number` below."""
        amounts = amounts.reshape(self.shares.shape[:3])
        parts = np.einsum("bpj,bpji->bpi", amounts, self.shares)
        return scattered(parts, self.sources, number)


class Chain:
    """The layers that route, from the class capsules down.

    Each layer gets its capsules from the one before alone. What is between two
    layers changes each capsule by itself, such as a normalization.

    Args:
        model: A functional model with one input.
        compiled: See `Graph.reader`.

    Raises:
        Untraceable: If its last layer that routes has no class capsules.
    """

    def __init__(self, model: keras.Model, compiled: bool = False):
        self._graph = graph = Graph(model)
        self._calls = [_last_routing(graph, model)]
        # Which capsules of the layer below each gets; `None` for all.
        self._picked: list[np.ndarray | None] = []
        # The layer that makes the lowest capsules that are routed, and its
        # poses; `None` if they are the input of the model.
        self.origin, self.poses = self._source()
        while self.origin is not None and _is_followed(self.origin):
            self._calls.append(self.origin)
            self.origin, self.poses = self._source()
        self.num_classes = layers_of(self._calls[0])[-1].num_capsules
        top = self._calls[0]
        self._scores = model.outputs
        if [tuple(x.shape[1:]) for x in model.outputs] != [(self.num_classes,)]:
            self._scores = top.outputs
        self.is_primary = self.origin is not None and isinstance(
            self.origin.layer, PrimaryCapsules | MatrixPrimaryCapsules
        )
        # Those of the outputs of each layer, from the top; at last those of the
        # lowest capsules.
        self.names: list[str] = []
        self.places: list[Places] = []
        self._add_names_and_places()
        tensors = [x for call in self._calls for x in call.inputs]
        tensors += [*self._scores, self.poses]
        if self.origin is not None:
            tensors += self.origin.inputs
        self.read = graph.reader(tensors, compiled)

    def _source(self):
        """What makes the inputs of the lowest layer, and its poses."""
        call = self._calls[-1]
        tensor = call.inputs[0]
        axes = pose_axes(layers_of(call)[0])
        picked = None
        while (maker := self._graph.maker(tensor)) is not None:
            is_reshaped = isinstance(maker.layer, keras.layers.Reshape)
            if isinstance(maker.layer, CapsuleSelection):
                indices = np.array(maker.layer.indices)
                picked = indices if picked is None else indices[picked]
            elif not isinstance(maker.layer, SAME) and not (
                # The order of capsules stays the same.
                is_reshaped
                and maker.inputs[0].shape[-axes:] == tensor.shape[-axes:]
            ):
                break
            is_second = isinstance(maker.layer, PropagateNaN)
            tensor = self._graph.resolve(maker.inputs[1 if is_second else 0])
        self._picked.append(picked)
        return maker, self._graph.resolve(tensor)

    def _add_names_and_places(self):
        fields = places_of(self._graph)
        for call in self._calls:
            below = fields[id(self._graph.resolve(call.inputs[0]))]
            shape, own = tuple(call.inputs[0].shape), []
            for layer, name in zip(
                layers_of(call), names_of(call), strict=True
            ):
                output = layer.compute_output_shape(shape)
                output = output[0] if is_pair(output) else output
                below = follow(layer, name, [below], [shape], output)
                shape = output
                own.append(below)
            self.names += reversed(names_of(call))
            self.places += reversed(own)
        origin = self.origin
        self.names.append(self.poses.name if origin is None else origin.name)
        self.places.append(fields[id(self.poses)])
        # Where support is painted: at what primary capsules are made of.
        self.painted = self.places[-1]
        if self.is_primary:
            self.painted = fields[id(self._graph.resolve(origin.inputs[0]))]

    def levels(self, values: dict[int, Tensor]) -> list[Level]:
        """The layers from the top, for a batch that was read."""
        levels = []
        for call, picked in zip(self._calls, self._picked, strict=True):
            own = [_level(route) for route in routes(self._graph, call, values)]
            if picked is not None:
                own[0] = own[0]._replace(sources=picked[own[0].sources])
            levels += reversed(own)
        return levels

    def kind_of(self, name: str) -> str:
        """What has this name: a layer or an operation with its class."""
        for call in self._graph.calls:
            if call.name == name and operation_of(call.layer):
                return f"the operation {name!r}"
            if call.name == name:
                return f"the layer {name!r} ({type(call.layer).__name__})"
        return f"the layer {name!r}"

    def value(self, values: dict[int, Tensor], tensor: Tensor) -> np.ndarray:
        """The value of a symbolic tensor, as an array."""
        return as_array(self._graph.value(values, tensor))

    def scores(self, values: dict[int, Tensor]) -> np.ndarray:
        """The scores of the classes: the model's, or their activations."""
        scores = self.value(values, self._scores[-1])
        if scores.ndim > 2:
            rows = scores.reshape(*scores.shape[:2], -1)
            scores = np.linalg.norm(rows, axis=2)
        if not np.isfinite(scores).all():
            raise ValueError(
                "Scores have to be finite. Expected images without NaN, and a "
                "model whose training has not failed. Received: scores that "
                "are not finite"
            )
        return scores

    def lowest_axes(self, values: dict[int, Tensor]) -> list[int]:
        """The axes of the lowest capsules, such as height, width, types."""
        lowest = layers_of(self._calls[-1])[0]
        return capsule_axes(lowest, self.value(values, self.poses).shape)


def _is_followed(call: Call) -> bool:
    """Whether one can tell which input capsules vote for an output capsule."""
    return is_routing(call) and all(
        isinstance(layer, CapsuleLayer | ConvCapsules)
        for layer in layers_of(call)
    )


def _last_routing(graph, model):
    calls = [call for call in graph.calls if is_routing(call)]
    if calls and _is_followed(calls[-1]):
        if isinstance(layers_of(calls[-1])[-1], CapsuleLayer):
            return calls[-1]
    raise Untraceable(
        "Invalid value for argument `model`. Expected a model with class "
        "capsules, whose last layer that routes is a CapsuleLayer, or a "
        "CapsuleStack that ends in one. Received: the model "
        f"{model.name!r} with the layers "
        f"{[call.name for call in graph.calls]}"
    )


def _level(route: Route) -> Level:
    layer, shape = route.layer, route.input_shape
    shares = _shares(route)  # [b P, j, i]
    grid, *_ = axes_of(route)
    places = math.prod(grid)
    capsules = capsule_axes(layer, shape)
    sources = np.arange(math.prod(capsules))[None]
    if isinstance(layer, ConvCapsules):
        sources = unfolded(capsules[:-1], layer, capsules[-1])
    activations = _activations(route)
    return Level(
        shares.reshape(-1, places, *shares.shape[1:]),
        activations.reshape(-1, places, activations.shape[-1]),
        sources,
        grid,
    )


def _activations(route):
    """The activations of input capsules, `[b P, i]`."""
    trace = route.trace
    if trace.activations is not None:
        return as_array(trace.activations)
    # Without coordinates, which may come after the numbers of the pose.
    size = route.layer.kernel.shape[-3]
    return np.linalg.norm(as_array(trace.poses)[..., :size], axis=(2, 3))


def _shares(route):
    """The shares of input capsules in output capsules, `[b P, j, i]`."""
    trace = route.trace
    if trace.coupling[-1] is None:
        raise Untraceable(
            "A routing has no coupling coefficients, so that nothing is known "
            f"of its supports. Received: the layer {route.name!r} with "
            f"routing={route.layer.routing!r}"
        )
    weights = as_array(trace.coupling[-1])
    if route.layer.routing.averages:
        supports = weights * _activations(route)[:, None]
    else:
        if isinstance(route.layer.routing, SelfAttentionRouting):
            bias = trace.weights.get("coupling_bias")
            weights = weights if bias is None else weights + as_array(bias)
        supports = _contributions(trace, weights)
    supports = np.maximum(supports, 0)
    total = supports.sum(axis=2, keepdims=True)
    return supports / np.where(total > 0, total, 1)


def _contributions(trace, weights):
    """How long each weighted vote is along the sum of them, `[b P, j, i]`."""
    found = np.empty_like(weights)
    poses = ops.cast(trace.poses, "float32")
    kernel = ops.cast(trace.kernel, "float32")
    # As many output capsules at once as their votes fit into the bound.
    numbers = len(weights) * count_votes(poses, kernel[:, :, :1])
    size = max(1, _MOST_VOTES // numbers)
    for first in range(0, weights.shape[1], size):
        part = slice(first, first + size)
        votes = as_array(make_votes(poses, kernel[:, :, part]))
        votes = votes * weights[:, part, :, None]  # [b P, j, i, f]
        sums = votes.sum(axis=2)
        lengths = np.linalg.norm(sums, axis=2, keepdims=True)
        directions = sums / np.where(lengths > 0, lengths, 1)
        found[:, part] = np.einsum("bjif,bjf->bji", votes, directions)
    return found
