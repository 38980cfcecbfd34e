"""Coordinates of input capsules, added to their votes.

A vote with the position of its input capsule added to it is still linear in
the input pose, if the position is part of that pose and goes into the vote
unchanged.

The coordinates are x, y, z in this order: x along the last axis of the grid
(the width or the length), y along the axis before it, z along the first of
three. They run from 0 to 1 over the whole grid. Each cell has the coordinates
of its center. Number n of them is added to number n of a vector, or to
the number in row n of the last column of a matrix.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_capsules.layers.base import RoutedLayer
from keras_capsules.layers.windowed import GRIDS
from keras_capsules.utils.validation import check_boolean


class LocatedLayer(RoutedLayer):
    """A layer that may add the position of an input capsule to its votes.

    Args:
        coordinate_addition: Boolean, whether it does. Defaults to `False`.
        **kwargs: See `RoutedLayer`.
    """

    def __init__(
        self, *, coordinate_addition: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.coordinate_addition = check_boolean(
            coordinate_addition, "coordinate_addition"
        )

    def _check_coordinates(self, rank):
        """Raises if a grid with `rank` axes cannot have coordinates."""
        if not self.coordinate_addition:
            return
        pose = f"capsule_dim={self.capsule_dim!r}, coordinate_addition=True"
        if rank not in GRIDS:
            raise ValueError(
                "Coordinates are for capsules on a grid. Expected one to "
                "three axes of positions before the types, as in (batch, "
                f"height, width, types, ...). Received: {rank} such axes, "
                f"{pose}"
            )
        if self._pose_shape[0 if self._is_matrix else 1] < rank:
            raise ValueError(
                f"Coordinates on this grid are added to {rank} numbers of a "
                f"pose. Expected a capsule_dim of at least {rank}, or with at "
                f"least {rank} rows. Received: {pose}"
            )

    def _build_routed(self, kernel_shape, num_inputs, input_dim, rank):
        pose_dim = input_dim
        if self.coordinate_addition:
            pose_dim += 1 if self._is_matrix else rank
        return super()._build_routed(
            kernel_shape, num_inputs, input_dim, pose_dim
        )

    def _located(self, poses):
        """Appends its coordinates to each pose `[b, *grid, types, p, d]`."""
        if not self.coordinate_addition:
            return poses
        batch, *grid, types, rows, _ = ops.shape(poses)
        centers = [_centers(length, poses.dtype) for length in grid]
        places = list(ops.meshgrid(*centers, indexing="ij"))[::-1]  # x, y, z
        if self._is_matrix:
            places += [ops.zeros_like(places[0])] * (rows - len(places))
        places = ops.stack(places, axis=-1)
        # To [1, *grid, 1, p, 1] or, for vectors, [1, *grid, 1, 1, d].
        places = ops.expand_dims(places, (0, -3, -1 if self._is_matrix else -2))
        shape = (batch, *grid, types, rows, places.shape[-1])
        places = ops.broadcast_to(places, shape)
        return ops.concatenate([poses, places], axis=-1)

    def _route(self, poses, activations, kernel, rank, **options):
        if self.coordinate_addition:
            kernel = self._handing_on(kernel, rank)
        return super()._route(poses, activations, kernel, **options)

    def _handing_on(self, kernel, rank):
        """A kernel `[k, d, j, e]` that hands the coordinates on to votes."""
        inputs, _, number, out_dim = kernel.shape
        columns = [out_dim - 1] if self._is_matrix else list(range(rank))
        extra = np.zeros((len(columns), 1, out_dim))
        extra[range(len(columns)), 0, columns] = 1.0
        extra = np.tile(extra, (inputs, 1, number, 1))
        extra = ops.convert_to_tensor(extra, dtype=kernel.dtype)
        return ops.concatenate([kernel, extra], axis=1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "coordinate_addition": self.coordinate_addition,
        }


def _centers(number, dtype):
    """The middle of each of a row of cells, from 0 to 1."""
    # Cast, a number is no longer one that JAX knows when it compiles.
    cells = ops.cast(ops.arange(number), "float32") + 0.5
    return ops.cast(cells / ops.cast(number, "float32"), dtype)
