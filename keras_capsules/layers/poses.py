"""Shapes of poses: vectors or matrices, with or without activations."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_capsules.types import CapsuleDim
from keras_capsules.types import Capsules
from keras_capsules.types import Shape
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_sizes


def check_capsule_dim(value: CapsuleDim) -> int | tuple[int, int]:
    """Checks the argument `capsule_dim` of a layer.

    Args:
        value: The argument.

    Returns:
        An integer for vectors, or a pair of integers for matrices.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, (list, tuple)):
        return check_sizes(value, "capsule_dim", 2)
    return check_integer(value, "capsule_dim")


def shapes_of(inputs: Capsules) -> Any:
    """The shape of a tensor, or the shapes of a pair."""
    if isinstance(inputs, (list, tuple)):
        return tuple(tuple(each.shape) for each in inputs)
    return tuple(inputs.shape)


def is_pair(input_shape: Any) -> bool:
    """Whether these are the shapes of several tensors."""
    return bool(input_shape) and isinstance(input_shape[0], (list, tuple))


def fits(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes may be the same; `None` may be any size."""
    return len(shape) == len(other) and all(
        None in sizes or sizes[0] == sizes[1]
        for sizes in zip(shape, other, strict=True)
    )


def fits_pair(shapes: Sequence[Any], pose_axes: Sequence[int] = (1, 2)) -> bool:
    """Whether these may be poses, vectors or matrices, and activations."""
    return len(shapes) == 2 and any(
        fits(shapes[0][:-axes], shapes[1]) for axes in pose_axes
    )


def split_shape(
    input_shape: Any, capsule_dim: int | tuple[int, int], name: str
) -> tuple[Shape, Shape | None]:
    """Checks the shape of the input of a layer that routes.

    Args:
        input_shape: The shape of poses, or of poses and activations.
        capsule_dim: The dimension of the output capsules.
        name: Name of the layer, for messages.

    Returns:
        The shapes of the poses and, or `None`, of the activations.

    Raises:
        ValueError: If they do not fit together, or the output capsules.
    """
    is_matrix = isinstance(capsule_dim, tuple)
    poses, activations = input_shape, None
    if is_pair(input_shape):
        if len(input_shape) != 2:
            raise ValueError(
                f"{name} takes one tensor of capsules or a pair (poses, "
                f"activations). Received: input_shape={input_shape}"
            )
        poses, activations = map(tuple, input_shape)
        if not fits(activations, poses[: -2 if is_matrix else -1]):
            raise ValueError(
                "Expected one activation for each pose, and poses that are "
                f"{'matrices' if is_matrix else 'vectors'}, because of "
                f"capsule_dim={capsule_dim}. Received: poses.shape={poses}, "
                f"activations.shape={activations}"
            )
    poses = tuple(poses)
    if isinstance(capsule_dim, tuple) and poses[-2:-1] != capsule_dim[:1]:
        raise ValueError(
            "The poses of input and output capsules must have the same number "
            "of rows, because votes multiply poses by matrices from the right. "
            f"Expected poses of shape (batch, ..., {capsule_dim[0]}, dim). "
            f"Received: input_shape={input_shape}, capsule_dim={capsule_dim}"
        )
    return poses, activations


def input_spec(shapes: Sequence[Shape | None], first_fixed: int = 1) -> Any:
    """The specification of later inputs of a layer.

    Args:
        shapes: Shapes of the first input; `None` is left out.
        first_fixed: The first axis whose size must stay. Defaults to `1`.

    Returns:
        A `keras.layers.InputSpec`, or a list of two.
    """
    specs = [
        keras.layers.InputSpec(
            ndim=len(shape),
            axes={
                axis: shape[axis]
                for axis in range(first_fixed, len(shape))
                if shape[axis] is not None
            },
        )
        for shape in shapes
        if shape is not None
    ]
    return specs if len(specs) > 1 else specs[0]


def first_mask(mask: Any) -> Tensor | None:
    """The mask of an input, or the first of the masks of a pair.

    Args:
        mask: Booleans; a pair of masks, of poses and activations, each of
            which may be `None`; or `None`.

    Returns:
        Booleans, or `None` if there is no mask.
    """
    if isinstance(mask, (list, tuple)):
        mask = next((each for each in mask if each is not None), None)
    return None if mask is None else ops.cast(mask, "bool")


def broadcast_mask(mask: Any, shape: Sequence[Any]) -> Tensor | None:
    """Brings a mask to the shape of the input capsules.

    Args:
        mask: Booleans `(batch, ...)` for the first axes of the input capsules;
            a pair of masks, of poses and activations; or `None`.
        shape: Shape of the input capsules with the batch, known or tensors.

    Returns:
        Booleans of this shape, or `None` if there is no mask.

    Raises:
        ValueError: If the mask does not fit.
    """
    mask = first_mask(mask)
    if mask is None:
        return None
    rank = len(mask.shape)
    static = [each if isinstance(each, int) else None for each in shape]
    if not fits(mask.shape, static[:rank]):
        raise ValueError(
            "A mask marks the input capsules that count. Expected the shape of "
            "the first axes of the input capsules, "
            f"{tuple(static)}. Received: mask.shape={tuple(mask.shape)}"
        )
    axes = tuple(range(rank, len(shape)))
    return ops.broadcast_to(ops.expand_dims(mask, axes), shape)
