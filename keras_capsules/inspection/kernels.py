"""The sizes of kernels, against those that layers usually begin with."""

import math
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.routes import layers_of
from keras_capsules.inspection.routes import names_of
from keras_capsules.layers.base import RoutedLayer


class Kernel(NamedTuple):
    """A kernel of a layer.

    Attributes:
        name: The name of the layer, as a `Call` has it.
        layer: The layer.
        weight: The variable.
    """

    name: str
    layer: Any
    weight: Any

    @property
    def value(self) -> np.ndarray:
        """The kernel as it is now."""
        return as_array(self.weight)

    @property
    def size(self) -> float:
        """The root mean square of the kernel as it is now."""
        return _size(self.value)

    @property
    def usual(self) -> float:
        """The standard deviation that such a kernel usually begins with."""
        shape = tuple(self.weight.shape)
        is_matrices = isinstance(self.layer, RoutedLayer) and (
            self.weight is self.layer.kernel
        )
        if is_matrices:
            *inputs, dim, outputs, out_dim = shape
            if self.layer.routing.averages:
                return 1 / math.sqrt(dim)
            gain = min(outputs / math.sqrt(math.prod(inputs)), 1.0)
            return gain / math.sqrt(out_dim)
        *window, channels, filters = shape
        places = math.prod(window)
        # LeCun's and Glorot's; He's is larger.
        fan_in, fan_out = places * channels, places * filters
        return min(1 / math.sqrt(fan_in), math.sqrt(2 / (fan_in + fan_out)))

    def change_since(self, before: np.ndarray) -> float:
        """How far the kernel has moved, relative to its size.

        A kernel that begins with zeros, or far too small, is taken to be as
        large as usual: of such kernels, every step is a multiple.

        Args:
            before: An earlier `value`.
        """
        return _size(self.value - before) / max(_size(before), self.usual)


def kernels_of(graph: Graph) -> Iterator[Kernel]:
    """The kernels of a model, from its input to its output.

    Args:
        graph: The `Graph` of the model. A decoder is no part of it.

    Yields:
        A `Kernel` for each weight of two or more axes that is named so.
    """
    done = set()
    for call in graph.calls:
        for name, layer in zip(names_of(call), layers_of(call), strict=True):
            for weight in getattr(layer, "weights", []):
                is_kernel = "kernel" in weight.name and len(weight.shape) > 1
                if is_kernel and id(weight) not in done:
                    done.add(id(weight))
                    yield Kernel(name, layer, weight)


def _size(values):
    return float(np.sqrt(np.square(values, dtype="float64").mean()))
