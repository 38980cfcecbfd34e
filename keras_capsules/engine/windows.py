"""Windows of a grid of capsules, and what their children have in common."""

import functools
import math
import numbers

from keras import ops


class Windows:
    """Where the windows of a convolution lie on a grid.

    Every window is an example of its own to a routing, but a child lies in
    several windows. Routings in which parents compete for children need to
    know that: `sum` and `logsumexp` reduce what windows say of the same child.

    Args:
        size: Height and width of the grid, integers or scalar tensors.
        kernel_size: Height and width of a window.
        strides: Rows and columns from one window to the next.
        padding: `"valid"`, or `"same"` for zeros around the grid.
    """

    def __init__(self, size, kernel_size, strides, padding):
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

    def unfold(self, grid):
        """The children of each window: `[b, h, w, ...]` to `[b P, k k, ...]`.

        P is the number of windows, k k that of the places in one, row by row.
        """
        # All numbers at a place in one row: LiteRT pads few axes only.
        rest = grid.shape[3:]
        sizes = ops.shape(grid)[1:3]
        grid = ops.reshape(grid, (-1, *sizes, math.prod(rest)))
        if self._margins is not None:
            grid = ops.pad(grid, [(0, 0), *self._margins, (0, 0)])
        places = math.prod(self.kernel_size)
        return ops.reshape(self._gather(grid), (-1, places, *rest))

    @property
    def number(self):
        """How many windows an image has."""
        return math.prod(self.output_size)

    def group(self, values):
        """Groups the windows of an image: `[b P, ...]` to `[b, P, ...]`."""
        return ops.reshape(values, (-1, self.number, *values.shape[1:]))

    def ungroup(self, values):
        """Undoes `group`."""
        return ops.reshape(values, (-1, *values.shape[2:]))

    def sum(self, values):
        """Adds up, for each child, what all windows it lies in say of it.

        Args:
            values: `[b P, k k * types]`.

        Returns:
            The totals, of the same shape: the same in all windows.
        """
        return self._reduced(values, ops.add, 0.0)

    def logsumexp(self, values):
        """The logarithm of `sum` of the exponentials, without overflow."""
        # Where a child has no other window, this is the value itself.
        highest = self._reduced(
            ops.stop_gradient(values), ops.maximum, -math.inf
        )
        return highest + ops.log(self.sum(ops.exp(values - highest)))

    def _reduced(self, values, combine, fill):
        """Combines values of the same child, for each of its windows.

        One axis after the other: a window has places in common with those up to
        `kernel_size / strides` windows before and after it.
        """
        shape = ops.shape(values)
        (height, width), (rows, columns) = self.output_size, self.kernel_size
        types = shape[1] // (rows * columns)
        for axis, sizes in enumerate(
            [
                (height, width, rows, columns * types),
                (width, rows, columns, types),
            ]
        ):
            values = ops.reshape(values, (-1, *sizes))
            reach = -(-self.kernel_size[axis] // self.strides[axis])
            parts = [
                _moved(values, step, step * self.strides[axis], fill)
                for step in range(1 - reach, reach)
            ]
            values = functools.reduce(combine, parts)
        return ops.reshape(values, shape)

    def _gather(self, grid):
        """The values of each window, `[b, h, w, k k, c]`, from a grid.

        The grid is `[b, ..., ..., c]`, with its margins.
        """
        height, width = self.output_size
        rows, columns = self.strides
        parts = []
        for row in range(self.kernel_size[0]):
            for column in range(self.kernel_size[1]):
                down = slice(row, row + (height - 1) * rows + 1, rows)
                end = column + (width - 1) * columns + 1
                right = slice(column, end, columns)
                parts.append(grid[:, down, right])
        return ops.stack(parts, axis=3)


def _moved(values, windows, places, fill):
    """What windows so many further on say of the places they share with each.

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


def output_length(length, window, stride, padding):
    """How many windows there are along an axis; `None` if it is unknown."""
    return None if length is None else _number(length, window, stride, padding)


def output_grid(input_shape, kernel_size, strides, padding):
    """The height and width of the grid that windows of another one make.

    Args:
        input_shape: That of the other grid, `(batch, height, width, ...)`;
            sizes may be `None` or scalar tensors.
        kernel_size: See `Windows`.
        strides: See `Windows`.
        padding: See `Windows`.

    Returns:
        List of two sizes, of the same kinds.

    Raises:
        ValueError: If no window fits, as far as sizes are known.
    """
    grid = [
        output_length(size, window, stride, padding)
        for size, window, stride in zip(
            input_shape[1:3], kernel_size, strides, strict=True
        )
    ]
    if any(isinstance(size, numbers.Integral) and size < 1 for size in grid):
        raise ValueError(
            "The input is smaller than the window. Expected a height and width "
            f'of at least kernel_size={kernel_size}, or padding="same". '
            f"Received: input_shape={tuple(input_shape)}"
        )
    return grid


def convolve(inputs, kernel, strides, padding, shape, depthwise=False):
    """A convolution of a grid, whose channels are numbers of capsules.

    Args:
        inputs: `(batch, height, width, channels)`.
        kernel: As `keras.ops.conv` or `keras.ops.depthwise_conv` takes it.
        strides: See `Windows`.
        padding: See `Windows`.
        shape: Tuple of integers, what to make of the output channels.
        depthwise: Boolean, which of the two convolutions it is.

    Returns:
        `(batch, new_height, new_width, *shape)`.

    Raises:
        ValueError: If no window fits, as far as sizes are known.
    """
    grid = output_grid(inputs.shape, kernel.shape[:2], strides, padding)
    result = (ops.depthwise_conv if depthwise else ops.conv)(
        inputs,
        kernel,
        strides=strides,
        padding=padding,
        data_format="channels_last",
    )
    # Of nothing, or of less than a window, some backends' convolutions make
    # other sizes than they should: the result says only what is not known.
    grid = [
        known if isinstance(known, numbers.Integral) else size
        for known, size in zip(grid, ops.shape(result)[1:3], strict=True)
    ]
    return ops.reshape(result, (ops.shape(inputs)[0], *grid, *shape))


def _number(length, window, stride, padding):
    covered = window if padding == "valid" else 1
    return (length - covered) // stride + 1


def _margins(length, window, stride, number):
    """How many zeros to put before and after an axis of the grid."""
    missing = (number - 1) * stride + window - length
    if isinstance(missing, int):
        missing = max(missing, 0)
    else:
        missing = ops.maximum(missing, 0)
    return missing // 2, missing - missing // 2
