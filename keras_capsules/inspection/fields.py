"""Which part of an image the tensors of a model look at.

The receptive field of a layer follows from those of its inputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.places import Axis
from keras_capsules.inspection.places import Grid
from keras_capsules.inspection.places import Places
from keras_capsules.inspection.places import pick
from keras_capsules.inspection.pointwise import SAME
from keras_capsules.inspection.pointwise import is_concatenated
from keras_capsules.inspection.pointwise import is_merged
from keras_capsules.inspection.pointwise import is_same
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.capsule_selection import CapsuleSelection
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.layers.conv_capsules import ConvCapsules2D
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D,
)
from keras_capsules.layers.windowed import WindowedLayer

_WINDOWED = (
    keras.layers.AveragePooling2D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.MaxPooling2D,
    keras.layers.SeparableConv2D,
    ConvCapsules2D,
    MatrixPrimaryCapsules,
    PrimaryCapsules,
    SharedKernelConvCapsules2D,
)

# The first pixel that padding sees.
_FAR = 10**9


def places_of(graph: Graph) -> dict[int, Places]:
    """Finds the places of all tensors of a model, by their ids."""
    (image,) = graph.inputs
    found: dict[int, Places] = {id(image): image.name}
    if len(image.shape) == 4 and None not in image.shape[1:3]:
        axes = (
            Axis(np.arange(size), np.arange(size) + 1, 0.0, 1)
            for size in image.shape[1:3]
        )
        found[id(image)] = (Grid(tuple(axes)),)
    for call in graph.calls:
        inputs = [x for x in call.inputs if x.dtype != "bool"]  # no masks
        if isinstance(call.layer, PropagateNaN):
            inputs = inputs[1:]
        places = [found[id(graph.resolve(x))] for x in inputs]
        shapes = [tuple(x.shape) for x in inputs]
        for output in call.outputs:
            found[id(output)] = follow(
                call.layer,
                call.name,
                places,
                shapes,
                tuple(output.shape),
                call.arguments,
            )
    return found


def follow(
    layer: Any,
    name: str,
    places: Sequence[Places],
    shapes: Sequence[Any],
    output_shape: Any,
    arguments: Any = ((), {}),
) -> Places:
    """Finds the places of a layer's output.

    Args:
        layer: A layer, or another operation.
        name: Its name.
        places: The places of each of its inputs.
        shapes: Their shapes.
        output_shape: The shape of its output.
        arguments: The arguments of its call, `(args, kwargs)`.

    Returns:
        The places of the output, or the name of this or an earlier layer.
    """
    inputs: list[tuple[Grid, ...]] = []
    for each in places:
        if isinstance(each, str):
            return each
        inputs.append(each)
    if not inputs:
        return name
    grids, shape = inputs[0], shapes[0]
    found: Places | None = None
    if isinstance(layer, SAME):
        found = grids
    elif is_merged(layer):
        found = _merged(layer, inputs, shapes, output_shape)
    elif is_same(layer, arguments, len(shape)):
        found = _kept(grids, shape, output_shape)
    elif isinstance(layer, CapsuleLayer):
        found = (Grid(_seen_by_all(grids), layer.num_capsules),)
    elif isinstance(layer, CapsuleSelection):
        found = tuple(pick(grids, index) for index in layer.indices)
    elif isinstance(layer, CapsuleStack):
        found = _through_stack(layer, name, grids, shape)
    elif isinstance(layer, keras.layers.Reshape):
        found = _reshaped(grids, shape, output_shape)
    elif len(grids) == 1 and grids[0].size == shape[1:3]:
        if isinstance(layer, keras.layers.ZeroPadding2D):
            found = _padded(layer, grids[0])
        elif isinstance(layer, _WINDOWED):
            found = _windowed(layer, grids[0], output_shape)
    return name if found is None else found


def _seen_by_all(grids):
    """The axes of a single position, which sees what all positions see."""
    axes = []
    for axis in range(2):
        low = min(grid.axes[axis].low.min() for grid in grids)
        high = max(grid.axes[axis].high.max() for grid in grids)
        axes.append(
            Axis(
                np.array([low]),
                np.array([high]),
                (low + high - 1) / 2,
                max(high - low, 1),
            )
        )
    return tuple(axes)


def _through_stack(stack, name, places, shape):
    for layer in stack.layers:
        output = layer.compute_output_shape(shape)
        output = output[0] if is_pair(output) else output
        places = follow(layer, name, [places], [shape], output)
        shape = output
    return places


def _reshaped(grids, shape, output_shape):
    if None in output_shape[1:]:
        return None
    if len(grids) == 1 and output_shape[1:3] == grids[0].size:
        types = output_shape[3] if len(output_shape) > 4 else 1
        return (grids[0]._replace(types=types),)
    if len(output_shape) != 3 or output_shape[-1] != shape[-1]:
        return None
    if len(grids) == 1:  # all capsules in a row
        types, rest = divmod(output_shape[1], math.prod(grids[0].size))
        return None if rest else (grids[0]._replace(types=types),)
    return grids


def _merged(layer, inputs, shapes, output_shape):
    rank = len(output_shape)
    if any(len(shape) != rank for shape in shapes):
        return None
    if is_concatenated(layer):
        if layer.axis is None:  # of flat inputs
            return None
        axis = layer.axis % rank
        if (rank, axis) == (3, 1):  # capsules in rows, one behind the other
            return tuple(grid for grids in inputs for grid in grids)
        if axis < 3:
            return None
    if len(inputs) == 1:  # with a number, or with itself
        return _kept(inputs[0], shapes[0], output_shape)
    if any(len(grids) > 1 for grids in inputs):
        return None
    alike = [grids[0] for grids in inputs]
    axes = []
    for each in zip(*(grid.axes for grid in alike), strict=True):
        if len({(len(one.low), one.stride) for one in each}) > 1:
            return None
        axes.append(
            Axis(
                np.min([one.low for one in each], axis=0),
                np.max([one.high for one in each], axis=0),
                sum(one.first for one in each) / len(each),
                each[0].stride,
            )
        )
    grid = Grid(tuple(axes), max(each.types for each in alike))
    if rank == 3 and output_shape[1] != grid.number:
        return None
    return _kept((grid,), output_shape, output_shape)


def _kept(grids, shape, output_shape):
    """The same places, unless an output has others; then `None`."""
    end = min(len(shape) - 1, 3)  # of the axes of places
    if len(output_shape) <= end or shape[1:end] != output_shape[1:end]:
        return None
    if len(shape) < 5:
        return grids
    types = output_shape[3] if len(output_shape) > 4 else 1
    return (grids[0]._replace(types=types),)


def _padded(layer, grid):
    if layer.data_format != "channels_last":
        return None
    axes = []
    for axis, margins in zip(grid.axes, layer.padding, strict=True):
        axes.append(
            Axis(
                np.pad(axis.low, margins, constant_values=_FAR),
                np.pad(axis.high, margins),
                axis.first - margins[0] * axis.stride,
                axis.stride,
            )
        )
    return (grid._replace(axes=tuple(axes)),)


def _windowed(layer, grid, output_shape):
    if isinstance(layer, WindowedLayer):
        kernel_size, strides = layer.sizes_for(2)
    else:
        kernel_size = getattr(layer, "pool_size", None) or layer.kernel_size
        strides = layer.strides
        if layer.data_format != "channels_last":
            return None
    dilation = getattr(layer, "dilation_rate", (1, 1))
    axes = tuple(
        _windows(*each, layer.padding)
        for each in zip(
            grid.axes,
            output_shape[1:3],
            kernel_size,
            strides,
            dilation,
            strict=True,
        )
    )
    return (Grid(axes, getattr(layer, "num_capsules", 1)),)


def _windows(axis, number, window, stride, dilation, padding):
    """The axis of the windows of another axis."""
    length, reach = len(axis.low), (window - 1) * dilation
    margin = 0
    if padding == "same":
        margin = max((number - 1) * stride + reach + 1 - length, 0) // 2
    # What the places of each window see; nothing in the margins.
    places = np.arange(number)[:, None] * stride - margin
    places = places + np.arange(window) * dilation
    is_inside = (places >= 0) & (places < length)
    places = np.clip(places, 0, length - 1)
    return Axis(
        np.where(is_inside, axis.low[places], _FAR).min(axis=1),
        np.where(is_inside, axis.high[places], 0).max(axis=1),
        axis.first + (reach / 2 - margin) * axis.stride,
        axis.stride * stride,
    )
