"""What the layers of a model make of images, as sums over batches.

Axes of shapes: n images, i input capsules, j output capsules or types.
"""

import contextlib
import functools
import inspect
import math
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_capsules.inspection.entropy import entropy_of
from keras_capsules.inspection.graph import Call
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.routes import in_windows
from keras_capsules.inspection.routes import names_of
from keras_capsules.inspection.routes import pose_axes
from keras_capsules.layers.base import RoutedLayer
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.layers.conv_capsules_transpose import (
    ConvCapsules2DTranspose,
)
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.layers.pose_scores import PoseScores
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D,
)

_PRIMARY = PrimaryCapsules | MatrixPrimaryCapsules | PoseScores
_ROUTED = RoutedLayer | SharedKernelConvCapsules2D


class Made(NamedTuple):
    """What one layer of capsules makes of a batch.

    Attributes:
        name: The name of the layer; that of a layer in a `CapsuleStack` comes
            after that of the stack: `"stack/layer"`.
        layer: The layer.
        inputs: Its input capsules; `None` if it does not route.
        outputs: Its output capsules, poses or a pair of poses and activations.
        coupling: Its coupling, as the layer returns it, or `None`.
    """

    name: str
    layer: Any
    inputs: Any
    outputs: Any
    coupling: Any


def makes_capsules(call: Call) -> bool:
    """Whether this is the call of a layer of capsules."""
    return isinstance(call.layer, _PRIMARY | _ROUTED | CapsuleStack)


def run(
    graph: Graph, call: Call, values: dict[int, Any]
) -> tuple[Any, list[Made]]:
    """Calls a layer; if it routes capsules, also for the coupling.

    Args:
        graph: The `Graph` of the model.
        call: The call of a layer or of another operation.
        values: The values of its inputs.

    Returns:
        What the layer returns, and a `Made`, if it makes capsules; or one for
        each layer of a `CapsuleStack`.
    """
    name, layer = call.name, call.layer
    if not makes_capsules(call):
        return graph.run(call, values), []
    if isinstance(layer, _PRIMARY):
        outputs = graph.run(call, values)
        return outputs, [Made(name, layer, None, outputs, None)]
    inputs: Any = tuple(graph.value(values, x) for x in call.inputs[:2])
    inputs = inputs[0] if len(inputs) == 1 else inputs
    if isinstance(layer, CapsuleStack):
        made = _made_by_stack(call, inputs)
        return ops.cast(made[-1].outputs, layer.compute_dtype), made
    args, given = call.arguments

    def route(**options):
        return graph.run(
            call._replace(arguments=(args, {**given, **options})), values
        )

    outputs, coupling = _with_coupling(layer, route)
    made = [Made(name, layer, inputs, outputs, coupling)]
    asked = given.get("return_coupling", False)
    return (outputs, coupling) if asked else outputs, made


def _made_by_stack(call, inputs):
    levels, found = {-1: inputs}, {}
    for index in call.layer.updates:
        name, layer = names_of(call)[index], call.layer.layers[index]
        given = levels[index - 1]
        earlier = {"outputs": levels[index]} if index in levels else {}
        route = functools.partial(layer, given, **earlier)
        levels[index], coupling = _with_coupling(layer, route)
        found[index] = Made(name, layer, given, levels[index], coupling)
    return [found[index] for index in sorted(found)]


def _with_coupling(layer, route):
    """The outputs of a layer that routes, and its coupling or `None`."""
    if "return_coupling" in inspect.signature(layer.call).parameters:
        with contextlib.suppress(ValueError):  # of routings without coupling
            return route(return_coupling=True)
    return route(), None


class Sums:
    """What one layer of capsules made of all images.

    Args:
        made: What it made of the first batch, which is not added yet.
    """

    def __init__(self, made: Made):
        self.name, self.layer = made.name, made.layer
        self.highest: Any = 0.0  # the activation of each capsule, [j]
        self._images = self._capsules = self._poses = self._inputs = 0
        self._activations: Any = 0.0  # [j]
        self._norms = np.array([np.inf, 0.0, -np.inf])
        self._numbers: Any = 0.0  # of outputs, and their squares
        self._coupling: Any = 0.0  # [j]
        self._entropy = 0.0

    def add(self, made: Made) -> None:
        """Adds a batch."""
        tensors = made.outputs
        tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
        arrays = [_wide(each) for each in tensors]
        norms, activations = _norms_and_activations(made.layer, arrays)
        activations = activations.reshape(-1, activations.shape[-1])
        numbers = np.concatenate([x.reshape(len(x), -1) for x in arrays], 1)
        self._images += len(numbers)
        self._capsules += len(activations)
        self._poses += norms.size
        with np.errstate(invalid="ignore", over="ignore"):
            self.highest = np.maximum(self.highest, activations.max(axis=0))
            self._activations = self._activations + activations.sum(axis=0)
            self._norms[0] = np.minimum(self._norms[0], norms.min())
            self._norms[1] += norms.sum()
            self._norms[2] = np.maximum(self._norms[2], norms.max())
            self._numbers = self._numbers + np.stack(
                [numbers.sum(axis=0), np.square(numbers).sum(axis=0)]
            )
        if made.coupling is not None:
            self._add_coupling(made)

    def _add_coupling(self, made):
        coupling = _wide(made.coupling)
        if isinstance(made.layer, SharedKernelConvCapsules2D):
            # A type divides itself among all outputs of all positions.
            entropy = entropy_of(coupling.reshape(*coupling.shape[:2], -1))
            coupling = coupling.sum(axis=(2, 3))
        else:
            entropy = entropy_of(coupling)
        counts = _vote(made, entropy.shape) & np.isfinite(entropy)
        self._inputs += counts.sum()
        self._entropy += entropy[counts].sum()
        self._coupling = self._coupling + coupling[counts].sum(axis=0)

    def results(self) -> dict[str, Any]:
        """The arguments of `LayerHealth`, but for `name` and `dead`."""
        norms = self._norms.copy()
        norms[1] /= self._poses
        activation = self._activations / self._capsules
        if not has_activations(self.layer):
            activation = np.full_like(activation, np.nan)
        # A layer whose input capsules are all zeros routes nothing.
        routes = self._inputs > 0
        return {
            "activation": activation,
            "norm": norms,
            "coupling": self._coupling / self._inputs if routes else None,
            "entropy": self._mean_entropy if routes else None,
        }

    @property
    def _mean_entropy(self):
        # Rounding could make it larger.
        return float(min(self._entropy / self._inputs, 1.0))

    @property
    def variation(self) -> float:
        """How much the output differs between images, relative to its size."""
        mean, square = self._numbers / self._images
        variance = np.maximum(square - np.square(mean), 0.0).sum()
        size = square.sum()
        return math.sqrt(variance / size) if size > 0 else 0.0


def has_activations(layer: Any) -> bool:
    """Whether the output capsules of a layer have activations, or lengths."""
    routing = getattr(layer, "routing", None)
    return getattr(routing, "activation_from", "length") != "nothing"


def _wide(tensor):
    """An array whose sums over many images are exact enough."""
    return as_array(tensor).astype("float64")


def _norms_and_activations(layer, arrays):
    """The lengths of poses, and activations, types along the last axis."""
    poses, *activations = arrays
    is_matrix = isinstance(getattr(layer, "capsule_dim", 0), tuple)
    axes = poses.ndim - activations[0].ndim if activations else 1 + is_matrix
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.square(poses)
        norms = np.sqrt(squares.sum(axis=tuple(range(-axes, 0))))
        if getattr(layer, "joint_squash", False):
            # All poses of a type have one length.
            return norms, np.sqrt(squares.sum(axis=(1, 2, 4)))
    # Without activations, the length at least says whether a pose is zero.
    return norms, activations[0] if activations else norms


def _vote(made, shape):
    """Which input capsules vote: those that are not zeros."""
    if isinstance(made.layer, ConvCapsules2DTranspose):
        return np.ones(shape, bool)  # each type is a sum of votes
    poses = made.inputs
    poses = poses[0] if isinstance(poses, (list, tuple)) else poses
    axes = tuple(range(-pose_axes(made.layer), 0))
    votes = (as_array(poses) != 0).any(axis=axes)
    if isinstance(made.layer, SharedKernelConvCapsules2D):
        return votes.any(axis=(1, 2))
    if isinstance(made.layer, ConvCapsules):
        votes = in_windows(made.layer, votes.astype("int32")) > 0
    # A subclass may have other input capsules than its input has.
    fits = votes.size == math.prod(shape)
    return votes.reshape(shape) if fits else np.ones(shape, bool)
