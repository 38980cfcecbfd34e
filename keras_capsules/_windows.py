"""Windows of a grid of capsules, and what their children have in common."""

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
        rest = [(0, 0)] * (len(grid.shape) - 3)
        if self._margins is not None:
            grid = ops.pad(grid, [(0, 0), *self._margins, *rest])
        return self._gather(grid)

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
        """Folds values onto the grid, and says the result to each window."""
        height, width = self.output_size
        rows, columns = self.kernel_size
        places = rows * columns
        shape = ops.shape(values)
        values = ops.reshape(
            values,
            (-1, height, width, rows * columns, shape[1] // (rows * columns)),
        )
        grid = None
        for place in range(places):
            row, column = divmod(place, columns)
            part = self._spread(values[:, :, :, place], fill)
            part = ops.pad(
                part,
                [
                    (0, 0),
                    (row, rows - 1 - row),
                    (column, columns - 1 - column),
                    (0, 0),
                ],
                constant_values=fill,
            )
            grid = part if grid is None else combine(grid, part)
        return ops.reshape(self._gather(grid), shape)

    def _spread(self, part, fill):
        """Puts a row of fill between rows that are a stride apart."""
        if self.strides == (1, 1):
            return part
        height, width = self.output_size
        down, right = self.strides
        types = part.shape[-1]
        part = ops.reshape(part, (-1, height, 1, width, 1, types))
        part = ops.pad(
            part,
            [(0, 0), (0, 0), (0, down - 1), (0, 0), (0, right - 1), (0, 0)],
            constant_values=fill,
        )
        return ops.reshape(part, (-1, height * down, width * right, types))

    def _gather(self, grid):
        """The values of each window, from a grid with its margins."""
        height, width = self.output_size
        rows, columns = self.strides
        parts = []
        for row in range(self.kernel_size[0]):
            for column in range(self.kernel_size[1]):
                down = slice(row, row + (height - 1) * rows + 1, rows)
                end = column + (width - 1) * columns + 1
                right = slice(column, end, columns)
                parts.append(grid[:, down, right])
        stacked = ops.stack(parts, axis=3)  # [b, h, w, k k, ...]
        return ops.reshape(stacked, (-1, len(parts), *grid.shape[3:]))


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
