"""A layer that keeps some capsules and drops the others."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.poses import first_mask
from keras_capsules.layers.poses import fits_pair
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.poses import shapes_of
from keras_capsules.types import Capsules


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleSelection(keras.layers.Layer):
    """Keeps some capsules, the same for every input, and drops the others.

    `keras_capsules.pruning.prune` puts such a layer below a `CapsuleLayer`, so
    that only the capsules that matter vote.

    Args:
        indices: Sequence of different integers of at least 0, the capsules that
            are kept, in this order. Capsules are counted as `CapsuleLayer`
            flattens them: row by row, and the types of a position one after the
            other.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.

    Input shape:
        Vector capsules `(batch, ..., dim)`; or a pair of poses, of this shape
        or `(batch, ..., rows, dim)`, and activations `(batch, ...)`. Only the
        batch size may be unknown.

    Output shape:
        The same, with one axis of capsules, such as `(batch, len(indices),
        dim)`.

    Raises:
        ValueError: If `indices` are not as described, or the input does not
            have this shape or has fewer capsules.

    Example:

    ```python
    import keras
    from keras_capsules.layers import CapsuleSelection

    capsules = keras.random.normal((2, 6, 6, 32, 8))
    kept = CapsuleSelection([0, 3, 1151])(capsules)  # (2, 3, 8)
    ```
    """

    def __init__(self, indices: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.indices = _check_indices(indices)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self._check_input_shape(input_shape)

    def call(self, inputs: Capsules) -> Capsules:
        axes, _ = self._check_input_shape(shapes_of(inputs))
        return keras.tree.map_structure(lambda x: self._take(x, axes), inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the capsules that are kept."""
        mask = first_mask(previous_mask)
        if mask is None:
            return None
        axes, shapes = self._check_input_shape(shapes_of(inputs))
        # It may be one of positions, and hold for all types there.
        mask = ops.expand_dims(mask, tuple(range(len(mask.shape), 1 + axes)))
        sizes = shapes[0][1 : 1 + axes]
        mask = self._take(ops.logical_and(mask, np.ones(sizes, bool)), axes)
        return (mask, mask) if len(shapes) > 1 else mask

    def _take(self, x, axes):
        rest = x.shape[1 + axes :]
        x = ops.reshape(x, (-1, math.prod(x.shape[1 : 1 + axes]), *rest))
        return ops.take(x, list(self.indices), axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        axes, shapes = self._check_input_shape(input_shape)
        new = [
            (shape[0], len(self.indices), *shape[1 + axes :])
            for shape in shapes
        ]
        return tuple(new) if len(new) > 1 else new[0]

    def _check_input_shape(self, input_shape):
        """The number of axes of capsules, and one shape or two."""
        if is_pair(input_shape):
            shapes = [tuple(each) for each in input_shape]
            axes = len(shapes[-1]) - 1
            valid = fits_pair(shapes)
        else:
            shapes = [tuple(input_shape)]
            axes = len(shapes[0]) - 2
            valid = True
        valid = valid and axes > 0
        if not valid or any(None in shape[1:] for shape in shapes):
            raise ValueError(
                f"{type(self).__name__} takes vector capsules (batch, ..., "
                "dim), or a pair of poses and activations (batch, ...), of "
                "which only the batch size may be unknown. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        number = math.prod(shapes[0][1 : 1 + axes])
        if max(self.indices) >= number:
            raise ValueError(
                f"There are too few capsules. Expected more than "
                f"{max(self.indices)}, the largest index. Received: {number} "
                f"capsules, input_shape={tuple(input_shape)}"
            )
        return axes, shapes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "indices": list(self.indices)}


def _check_indices(value):
    """Returns different integers of at least 0 as a tuple, or raises."""
    try:
        indices = tuple(value)
    except TypeError:
        indices = ()
    valid = all(
        isinstance(each, numbers.Integral)
        and not isinstance(each, bool)
        and each >= 0
        for each in indices
    )
    if not valid or not indices or len(set(indices)) < len(indices):
        raise ValueError(
            "Invalid value for argument `indices`. Expected a sequence of "
            "different integers of at least 0, at least one. Received: "
            f"indices={value!r}"
        )
    return tuple(int(each) for each in indices)
