"""What the layers of a model route, for a batch of images."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.inspection.graph import Call
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.layers.base import RoutedLayer
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.layers.conv_capsules_transpose import (
    ConvCapsules2DTranspose,
)
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D,
)
from keras_capsules.routing.tracing import Trace
from keras_capsules.routing.tracing import tracing
from keras_capsules.types import Tensor


class Route(NamedTuple):
    """What one layer routes.

    Attributes:
        name: The name of the layer; that of a layer in a `CapsuleStack` comes
            after that of the stack: `"stack/layer"`.
        layer: The layer.
        trace: A `Trace`, of its last call.
        coupling: Its coupling after each iteration, tensors `[b, j, i]`.
        input_shape: The shape of its input poses.
    """

    name: str
    layer: Any
    trace: Trace
    coupling: Sequence[Tensor]
    input_shape: tuple[int, ...]


def is_routing(call: Call) -> bool:
    """Whether a layer routes capsules."""
    return isinstance(
        call.layer, RoutedLayer | CapsuleStack | SharedKernelConvCapsules2D
    )


def layers_of(call: Call) -> list[Any]:
    """The layers of a call: several if it is a `CapsuleStack`."""
    is_stack = isinstance(call.layer, CapsuleStack)
    return call.layer.layers if is_stack else [call.layer]


def names_of(call: Call) -> list[str]:
    """The names of `layers_of`."""
    if isinstance(call.layer, CapsuleStack):
        return [f"{call.name}/{each.name}" for each in call.layer.layers]
    return [call.name]


def routes(graph: Graph, call: Call, values: dict[int, Tensor]) -> list[Route]:
    """Calls a layer, and records what it routes.

    Args:
        graph: The `Graph` of the model.
        call: A call for which `is_routing`.
        values: The values of its inputs.

    Returns:
        A list of one `Route`; or of one for each layer of a `CapsuleStack`.
    """
    with tracing() as traces:
        graph.run(call, values)
    shape = tuple(graph.value(values, call.inputs[0]).shape)
    layers, order = layers_of(call), [0]
    if isinstance(call.layer, CapsuleStack):
        order = call.layer.updates
    found = []
    for index, (name, layer) in enumerate(
        zip(names_of(call), layers, strict=True)
    ):
        own = [
            trace
            for each, trace in zip(order, traces, strict=True)
            if each == index
        ]
        coupling = [each for trace in own for each in trace.coupling]
        found.append(Route(name, layer, own[-1], coupling, shape))
        if len(layers) > 1:
            shape = layer.compute_output_shape(shape)
    return found


def pose_axes(layer: Any) -> int:
    """The number of axes of a pose that a layer routes."""
    return 2 if isinstance(layer.capsule_dim, tuple) else 1


def capsule_axes(layer: Any, shape: Sequence[int]) -> list[int]:
    """The axes of the input capsules of a layer, such as height and types."""
    return list(shape[1 : -pose_axes(layer)])


def axes_of(route: Route) -> tuple[list[int], list[int], list[int]]:
    """The axes of a layer's coupling, after that of the images.

    Returns:
        The sizes of the output grid; of the axes of the input capsules that
        vote for one position of it; and of the axes of the output capsules that
        they vote for.
    """
    layer, shape = route.layer, route.input_shape
    if isinstance(layer, SharedKernelConvCapsules2D):
        poses: Any = layer.compute_output_shape(shape)
        return [], [shape[3]], list(poses[1:4])
    inputs, outputs = capsule_axes(layer, shape), [layer.num_capsules]
    if not isinstance(layer, ConvCapsules | ConvCapsules2DTranspose):
        return [], inputs, outputs
    poses = layer.compute_output_shape(shape)
    if is_pair(poses):
        poses, _ = poses
    grid, types = list(poses[1 : 1 + layer.rank]), inputs[-1:]
    if isinstance(layer, ConvCapsules2DTranspose):
        return grid, types, outputs
    return grid, [*layer.kernel_size, *types], outputs


def in_windows(layer: ConvCapsules, grid: np.ndarray) -> np.ndarray:
    """Numbers `(images, *grid, types)`, for each window and place in it."""
    sizes = grid.shape[1 : 1 + layer.rank]
    windows = Windows(sizes, layer.kernel_size, layer.strides, layer.padding)
    return as_array(windows.unfold(ops.convert_to_tensor(grid)))


def voters(trace: Trace) -> np.ndarray:
    """Which input capsules vote: those that are not zeros, `[b, i]`."""
    return (as_array(trace.poses) != 0).any(axis=(2, 3))
