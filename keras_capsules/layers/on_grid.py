"""The base of layers that route from one grid of capsules to another."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_capsules.layers.base import RoutedLayer
from keras_capsules.layers.poses import first_mask
from keras_capsules.layers.windowed import GRIDS
from keras_capsules.layers.windowed import WindowedLayer
from keras_capsules.types import Tensor


class GridLayer(WindowedLayer, RoutedLayer):
    """A layer of windows with capsules on a grid, and masks of that grid.

    Args:
        **kwargs: See `WindowedLayer` and `RoutedLayer`.
    """

    rank: int

    def compute_output_shape(self, input_shape: Any) -> Any:
        poses = self._check_input_shape(input_shape)
        return self._output_shape(poses[0], self._grid(poses))

    def _grid(self, shape):
        """The sizes of the output grid."""
        return self.grid_of(shape, self.rank)

    def _check_input_shape(self, input_shape):
        """The shape of the poses."""
        poses, _ = self._split_shape(input_shape)
        first = 1 + self.rank
        if len(poses) != first + 1 + self._num_pose_axes or not all(
            poses[first:]
        ):
            pose = "rows, dim" if self._is_matrix else "dim"
            raise ValueError(
                f"{type(self).__name__} takes capsules on a grid, (batch, "
                f"{GRIDS[self.rank]}, types, {pose}), with known types and "
                f"poses. Received: input_shape={poses}"
            )
        self._grid(poses)  # raises if no window fits
        return poses

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Finds the positions that there would be without excluded ones.

        Args:
            inputs: Capsules; they are not looked at.
            previous_mask: Booleans for the first axes of capsules, `False` for
                those that do not count; a pair of them; or `None`.

        Returns:
            Booleans `(batch, *new_grid)`, one for poses and one for activations
            if the output is a pair; or `None` if there is no mask.
        """
        del inputs
        mask = self._mask_of_grid(previous_mask)
        if mask is None or not self._returns_pair:
            return mask
        return mask, mask

    def _mask_of_outputs(self, previous_mask, grid):
        """Booleans for each output position, `[b P]`, or `None`.

        Args:
            previous_mask: The mask of the inputs, or `None`.
            grid: Sizes of the output grid, integers or scalar tensors.
        """
        mask = self._mask_of_grid(previous_mask)
        if mask is None:
            return None
        batch = ops.shape(mask)[0]
        mask = ops.expand_dims(
            mask, tuple(range(len(mask.shape), 1 + len(grid)))
        )
        return ops.reshape(ops.broadcast_to(mask, (batch, *grid)), (-1,))

    def _mask_of_grid(self, previous_mask):
        mask = first_mask(previous_mask)
        if mask is None or len(mask.shape) == 1:  # a mask of examples
            return mask
        if len(mask.shape) == 2 + self.rank:  # of capsules: of their positions
            mask = ops.any(mask, axis=-1)
        return self._output_mask(mask)

    def _output_mask(self, mask):
        """From booleans `(batch, *grid)` to `(batch, *new_grid)`."""
        axes = len(mask.shape) - 1
        if self.padding == "same":
            steps = (slice(None, None, stride) for stride in self.strides)
            return mask[(slice(None), *steps)[: 1 + axes]]
        return ops.logical_not(
            any_in_windows(
                ops.logical_not(mask),
                self.kernel_size[:axes],
                self.strides[:axes],
            )
        )


def any_in_windows(
    mask: Tensor, kernel_size: Sequence[int], strides: Sequence[int]
) -> Tensor:
    """Finds the windows with a marked position.

    Args:
        mask: Booleans `(batch, *size)`.
        kernel_size: The sizes of a window along the axes of the grid.
        strides: The steps from one window to the next.

    Returns:
        Booleans `(batch, *new_size)`.
    """
    marked = ops.max_pool(
        ops.cast(mask, "float32")[..., None],
        tuple(kernel_size),
        tuple(strides),
        data_format="channels_last",
    )
    return marked[..., 0] > 0.5
