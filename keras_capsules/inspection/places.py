"""Where in an image the capsules and features of a grid lie."""

import functools
import math
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import TypeAlias

import numpy as np
from keras import ops

from keras_capsules.engine.windows import Windows

Box: TypeAlias = tuple[int, int, int, int]


class Axis(NamedTuple):
    """Positions along one axis of a grid, and the pixels that they see.

    Attributes:
        low: Integers, the first pixel that each position sees.
        high: Integers, the first pixel that it no longer sees. What sees only
            padding has a `high` that is not above `low`.
        first: Number, the middle of what the first position sees, with padding
            as if it were part of the image.
        stride: Integer, how many pixels the middle of the next one is away.
    """

    low: np.ndarray
    high: np.ndarray
    first: float
    stride: int


class Grid(NamedTuple):
    """Positions of a grid.

    Attributes:
        axes: Two `Axis`, of y and x.
        types: Integer, how many capsules there are at each position. Defaults
            to `1`.
    """

    axes: tuple[Axis, ...]
    types: int = 1

    @property
    def size(self) -> tuple[int, ...]:
        """How many positions there are along each axis."""
        return tuple(len(axis.low) for axis in self.axes)

    @property
    def number(self) -> int:
        """How many capsules there are."""
        return math.prod(self.size) * self.types


# The grids of a tensor, whose capsules come one grid after the other; or the
# name of a layer after which nothing is known.
Places: TypeAlias = tuple[Grid, ...] | str


def pick(grids: Sequence[Grid], index: int) -> Grid:
    """The place of one capsule, by its index among all capsules."""
    for grid in grids:
        if index < grid.number:
            break
        index -= grid.number
    positions = divmod(index // grid.types, grid.size[1])
    axes = (
        Axis(
            axis.low[position : position + 1],
            axis.high[position : position + 1],
            axis.first + position * axis.stride,
            axis.stride,
        )
        for axis, position in zip(grid.axes, positions, strict=True)
    )
    return Grid(tuple(axes))


def box_of(grids: Sequence[Grid], index: int) -> Box:
    """The pixels that a capsule sees, by its index among all capsules.

    Returns:
        `(top, left, bottom, right)`; zeros if it sees only padding.
    """
    (top, bottom), (left, right) = (
        (int(axis.low[0]), int(axis.high[0]))
        for axis in pick(grids, index).axes
    )
    is_empty = top >= bottom or left >= right
    return (0, 0, 0, 0) if is_empty else (top, left, bottom, right)


def scattered(parts: np.ndarray, index: np.ndarray, number: int) -> np.ndarray:
    """Adds up amounts for each index.

    Args:
        parts: `[b, ...]`.
        index: `[...]`, integers below `number`, or -1 for amounts that are left
            out.
        number: Integer.

    Returns:
        `[b, number]`.
    """
    flat = index.ravel() + 1
    totals = [
        np.bincount(flat, weights=row.ravel(), minlength=number + 1)
        for row in parts
    ]
    return np.reshape(totals, (-1, number + 1))[:, 1:]


def unfolded(size: Sequence[int], layer: Any, types: int = 1) -> np.ndarray:
    """For each window, the indices of its places on a grid, `[P, i]`; or -1."""
    kernel_size, strides = layer.sizes_for(len(size))
    sizes = map(tuple, (size, kernel_size, strides))
    return _unfolded(*sizes, layer.padding, types)


@functools.lru_cache(maxsize=8)
def _unfolded(size, kernel_size, strides, padding, types):
    """Kept, because cutting out each place of a window is slow."""
    number = math.prod(size) * types
    grid = ops.reshape(ops.arange(1, number + 1), (1, *size, types))
    windows = Windows(size, kernel_size, strides, padding)
    found = ops.convert_to_numpy(windows.unfold(grid))
    found = found.reshape(len(found), -1) - 1
    found.flags.writeable = False  # all callers share it
    return found


def paint(
    grids: Sequence[Grid], amounts: np.ndarray, image_size: Sequence[int]
) -> np.ndarray:
    """Paints amounts onto images, where the capsules lie.

    Each is spread around the middle of what the capsule sees, and reaches the
    middles of the next ones.

    Args:
        grids: The places of the capsules.
        amounts: `(batch, capsules)`.
        image_size: Height and width.

    Returns:
        `(batch, height, width)`, with the same sums.
    """
    images = np.zeros((len(amounts), *image_size))
    first = 0
    for grid in grids:
        part = amounts[:, first : first + grid.number]
        first += grid.number
        part = part.reshape(-1, *grid.size, grid.types).sum(axis=3)
        rows, columns = map(_spread, grid.axes, image_size)
        images += np.einsum(
            "bhw,hy,wx->byx", part, rows, columns, optimize=True
        )
    return images


def _spread(axis, length):
    """For each position along an axis, shares of pixels that sum to 1."""
    middles = axis.first + np.arange(len(axis.low)) * axis.stride
    # With padding, the middle may lie outside of the image.
    middles = np.clip(middles, 0, length - 1)[:, None]
    distances = np.abs(np.arange(length) - middles) / axis.stride
    shares = np.maximum(1 - distances, 0)
    return shares / shares.sum(axis=1, keepdims=True)
