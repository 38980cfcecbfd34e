"""Windows of a grid of capsules, along any number of axes.

Axes of shapes: b batch, P windows of one grid, k places of one window.
"""

import functools
import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_capsules.types import Shape
from keras_capsules.types import Tensor


class Windows:
    """Where the windows of a convolution lie on a grid.

    To a routing, every window is an example of its own, but an input capsule
    lies in several windows. Some routings normalize over all windows that
    contain an input capsule: `sum` and `logsumexp` reduce over those windows.

    Args:
        size: Sizes of the grid along its axes, integers or scalar tensors.
        kernel_size: Sizes of a window along these axes, integers.
        strides: Steps from one window to the next along these axes, integers.
        padding: `"valid"`, or `"same"` for zeros around the grid.
    """

    def __init__(
        self,
        size: Sequence[Any],
        kernel_size: Sequence[int],
        strides: Sequence[int],
        padding: str,
    ) -> None:
        self.kernel_size = kernel_size
        self.strides = strides
        self.output_size = [
            _number(*each, padding)
            for each in zip(size, kernel_size, strides, strict=True)
        ]
        self._margins = None
        if padding == "same":
            self._margins = [
                _margins(length, window, stride, number)
                for length, window, stride, number in zip(
                    size, kernel_size, strides, self.output_size, strict=True
                )
            ]

    def unfold(self, grid: Tensor) -> Tensor:
        """Gathers windows: `[b, *size, ...]` to `[b P, k, ...]`.

        The places of a window are in the order of the axes, the last axis
        fastest: row by row in two dimensions.
        """
        # All numbers at a place in one row: LiteRT pads few axes only.
        rank = len(self.kernel_size)
        rest = grid.shape[1 + rank :]
        sizes = ops.shape(grid)[1 : 1 + rank]
        grid = ops.reshape(grid, (-1, *sizes, math.prod(rest)))
        if self._margins is not None:
            grid = ops.pad(grid, [(0, 0), *self._margins, (0, 0)])
        places = math.prod(self.kernel_size)
        return ops.reshape(self._gather(grid), (-1, places, *rest))

    @property
    def number(self) -> Any:
        """The number of windows of one grid."""
        return math.prod(self.output_size)

    def group(self, values: Tensor) -> Tensor:
        """Groups the windows of a grid: `[b P, ...]` to `[b, P, ...]`."""
        return ops.reshape(values, (-1, self.number, *values.shape[1:]))

    def ungroup(self, values: Tensor) -> Tensor:
        """Undoes `group`."""
        return ops.reshape(values, (-1, *values.shape[2:]))

    def sum(self, values: Tensor) -> Tensor:
        """Adds up the values of each input capsule over all its windows.

        Args:
            values: `[b P, k * types]`, a value for each window and each input
                capsule in it.

        Returns:
            The totals, of the same shape: the same in all windows.
        """
        return self._reduced(values, ops.add, 0.0)

    def logsumexp(self, values: Tensor) -> Tensor:
        """The logarithm of `sum` of the exponentials, without overflow."""
        # For an input capsule in a single window, this is the value itself.
        highest = self._reduced(
            ops.stop_gradient(values), ops.maximum, -math.inf
        )
        return highest + ops.log(self.sum(ops.exp(values - highest)))

    def _reduced(self, values, combine, fill):
        """Combines the values of an input capsule, for each of its windows.

        One axis after the other: a window has places in common with up to
        `kernel_size / strides` windows before and after it.
        """
        shape = ops.shape(values)
        number, places = self.output_size, self.kernel_size
        types = shape[1] // math.prod(places)
        for axis, stride in enumerate(self.strides):
            # Later windows and earlier places lie between those of this axis.
            between = math.prod(number[axis + 1 :]) * math.prod(places[:axis])
            after = math.prod(places[axis + 1 :]) * types
            values = ops.reshape(
                values, (-1, number[axis], between, places[axis], after)
            )
            reach = -(-places[axis] // stride)
            parts = [
                _moved(values, step, step * stride, fill)
                for step in range(1 - reach, reach)
            ]
            values = functools.reduce(combine, parts)
        return ops.reshape(values, shape)

    def _gather(self, grid):
        """The values of each window, `[b, *output_size, k, c]`, from a grid.

        The grid is `[b, ..., c]`, with its margins.
        """
        parts = []
        for place in itertools.product(*map(range, self.kernel_size)):
            slices = [
                slice(start, start + (number - 1) * stride + 1, stride)
                for start, number, stride in zip(
                    place, self.output_size, self.strides, strict=True
                )
            ]
            parts.append(grid[(slice(None), *slices)])
        return ops.stack(parts, axis=1 + len(self.kernel_size))


def _moved(values, windows, places, fill):
    """Shifts values, so that windows see those of others at shared places.

    Args:
        values: `[b, windows, ..., places, c]`.
        windows: Integer, how many windows further on; below zero, before.
        places: Integer, how many places these are.
        fill: For places that they do not share.
    """
    if windows == 0:
        return values
    forward, back = max(windows, 0), max(-windows, 0)
    right, left = max(places, 0), max(-places, 0)
    values = ops.pad(
        values,
        [(0, 0), (back, forward), (0, 0), (right, left), (0, 0)],
        constant_values=fill,
    )
    end = ops.shape(values)[1] - back
    last = values.shape[3] - right
    return values[:, forward:end, :, left:last]


def output_length(length: Any, window: int, stride: int, padding: str) -> Any:
    """The number of windows along an axis; `None` if it is unknown."""
    return None if length is None else _number(length, window, stride, padding)


def output_grid(
    input_shape: Sequence[Any],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: str,
) -> list[Any]:
    """The sizes of the grid that the windows of another grid make.

    Args:
        input_shape: The shape of the other grid, `(batch, *size, ...)`; sizes
            may be `None` or scalar tensors.
        kernel_size: See `Windows`.
        strides: See `Windows`.
        padding: See `Windows`.

    Returns:
        A list of sizes, each as known as the size of the input.

    Raises:
        ValueError: If no window fits.
    """
    size = input_shape[1 : 1 + len(kernel_size)]
    grid = [
        output_length(*each, padding)
        for each in zip(size, kernel_size, strides, strict=True)
    ]
    if any(isinstance(size, numbers.Integral) and size < 1 for size in grid):
        raise ValueError(
            "The input is smaller than the window. Expected a grid of at least "
            f'kernel_size={tuple(kernel_size)}, or padding="same". '
            f"Received: input_shape={tuple(input_shape)}"
        )
    return grid


def convolve(
    inputs: Tensor,
    kernel: Tensor,
    strides: Sequence[int],
    padding: str,
    shape: Shape,
    depthwise: bool = False,
) -> Tensor:
    """Convolves, and reshapes the output channels to capsules.

    Args:
        inputs: `(batch, *size, channels)`.
        kernel: As `keras.ops.conv` or `keras.ops.depthwise_conv` takes it.
        strides: See `Windows`.
        padding: See `Windows`.
        shape: Tuple of integers, the shape of the output channels.
        depthwise: Boolean, which of the two convolutions it is.

    Returns:
        `(batch, *new_size, *shape)`.

    Raises:
        ValueError: If no window fits, as far as sizes are known.
    """
    rank = len(strides)
    grid = output_grid(inputs.shape, kernel.shape[:rank], strides, padding)
    result = (ops.depthwise_conv if depthwise else ops.conv)(
        inputs,
        kernel,
        strides=strides,
        padding=padding,
        data_format="channels_last",
    )
    # For an empty input, or one smaller than a window, some backends return a
    # wrong size. So only unknown sizes are read from the result.
    grid = [
        known if isinstance(known, numbers.Integral) else size
        for known, size in zip(grid, ops.shape(result)[1:-1], strict=True)
    ]
    return ops.reshape(result, (ops.shape(inputs)[0], *grid, *shape))


def dilate(grid: Tensor, strides: Sequence[int]) -> Tensor:
    """Inserts zeros after every position of a grid, for transposed convolution.

    Args:
        grid: `[b, *size, c]`.
        strides: The number of positions that one becomes, along each axis.

    Returns:
        `[b, *(size * strides), c]`.
    """
    batch, *size, channels = ops.shape(grid)
    for axis, stride in enumerate(strides):
        # Few axes at a time: LiteRT pads few axes only.
        after = math.prod(size[axis + 1 :]) * channels
        grid = ops.reshape(grid, (-1, 1, after))
        grid = ops.pad(grid, [(0, 0), (0, stride - 1), (0, 0)])
        size[axis] = size[axis] * stride
    return ops.reshape(grid, (batch, *size, channels))


def _number(length, window, stride, padding):
    covered = window if padding == "valid" else 1
    return (length - covered) // stride + 1


def _margins(length, window, stride, number):
    """The numbers of zeros to put before and after an axis of the grid."""
    missing = (number - 1) * stride + window - length
    if isinstance(missing, int):
        missing = max(missing, 0)
    else:
        missing = ops.maximum(missing, 0)
    return missing // 2, missing - missing // 2
