"""Converts integer, one-hot and multi-hot labels to one form."""

from typing import Any

import numpy as np
from keras import ops

from keras_capsules.types import Shape
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_numbers

# How far multi-hot labels may leave [0, 1]: the error of mixing labels in 16
# bits.
_ROUNDING = 0.01


def to_multi_hot(labels: Tensor, shape: Shape, name: str) -> Tensor:
    """Converts labels to multi-hot labels, numbers between 0 and 1.

    An invalid value raises in a NumPy array or list. In a tensor it becomes
    NaN, because looking at a tensor's values would wait for the device.

    Args:
        labels: Integer labels, of shape `(batch, ...)` or `(batch, ..., 1)`;
            or multi-hot labels, of shape `(batch, ..., num_classes)`. With a
            single class, both shapes are multi-hot labels.
        shape: `(batch, ..., num_classes)`.
        name: String, the argument's name, for messages.

    Returns:
        A tensor of the given shape, in at least float32.

    Raises:
        ValueError: If the labels are no numbers, do not fit the shape, or are
            an array or list with an invalid value.
    """
    shape = tuple(shape)
    labels, are_integers = check_labels(labels, shape, name)
    labels = ops.convert_to_tensor(labels)
    # Floats represent integers up to 2**24 exactly. An int8 could not be
    # compared with the last of 200 classes.
    dtype = at_least_float32(labels.dtype)
    labels = ops.cast(labels, dtype)
    if len(labels.shape) < len(shape):
        labels = ops.expand_dims(labels, axis=-1)
    if not are_integers:
        valid = ops.abs(labels - 0.5) <= 0.5 + _ROUNDING
        return ops.where(valid, labels, np.nan)
    hits = ops.equal(labels, ops.arange(shape[-1], dtype=dtype))
    valid = ops.any(hits, axis=-1, keepdims=True)
    return ops.where(valid, ops.cast(hits, dtype), np.nan)


def check_labels(labels: Tensor, shape: Shape, name: str) -> tuple[Any, bool]:
    """Checks labels, and the values of those that are no tensors.

    Args:
        labels: See `to_multi_hot`.
        shape: See `to_multi_hot`; sizes but the last may be unknown.
        name: See `to_multi_hot`.

    Returns:
        The labels, lists as arrays, and whether they are integer labels.

    Raises:
        ValueError: See `to_multi_hot`.
    """
    if not shape or shape[-1] is None:
        raise ValueError(
            "Expected class scores of shape (batch, ..., num_classes) with a "
            f"known num_classes. Received: shape={shape}"
        )
    last = shape[-1] - 1
    expected = f"integers from 0 to {last}, or multi-hot labels from 0 to 1"
    check_numbers(labels, name, expected)
    visible = isinstance(labels, np.ndarray) or not hasattr(labels, "shape")
    if visible:
        labels = np.asarray(labels)
    are_integers = _check_shapes(labels, shape, name)
    if visible:
        _check_values(labels, shape[-1] if are_integers else None, name)
    return labels, are_integers


def _check_shapes(labels, shape, name):
    """Returns whether the labels are integers, or raises if they do not fit."""
    given = tuple(labels.shape)
    kind = _kind_of(given, shape)
    # One-hot labels have the shape of integer labels of a sequence if capsules
    # take the place of scores.
    is_short = 1 < len(given) == len(shape) - 1
    is_unclear = kind == "integer" and is_short and "float" in str(labels.dtype)
    if kind is not None and not is_unclear:
        return kind == "integer"
    hint = ""
    # The shape of class capsules, vectors or matrices, instead of scores?
    if any(_kind_of(given, shape[:end]) for end in (-1, -2) if shape[:end][1:]):
        hint = (
            " These scores have the shape of capsules: CapsuleLength, the "
            "layer that turns class capsules into class scores, was probably "
            "forgotten."
        )
    if kind is not None:
        hint += " Integer labels of sequences need an integer dtype."
    raise ValueError(
        f"Expected `{name}` to hold integer labels of shape (batch, ...) "
        "or (batch, ..., 1), or multi-hot labels of shape (batch, ..., "
        f"num_classes), for class scores of shape {shape}.{hint} "
        f"Received: {name}.shape={given}"
    )


def _kind_of(given, shape):
    """Returns "integer" or "multi-hot", or `None` if labels do not fit."""
    short = len(given) == len(shape) - 1
    # With a single class, labels say whether it is present.
    are_integers = shape[-1:] != (1,) and (short or given[-1:] == (1,))
    full = (*given, 1) if short else given
    expected = (*shape[:-1], 1) if are_integers else shape
    if (
        len(full) != len(expected)
        or full[-1] != expected[-1]
        # An unknown size, which a batch often has, fits any other.
        or any(
            None not in sizes and sizes[0] != sizes[1]
            for sizes in zip(full, expected, strict=True)
        )
    ):
        return None
    return "integer" if are_integers else "multi-hot"


def _check_values(labels, num_classes, name):
    """Raises if a NumPy array holds an invalid value."""
    values = labels.astype("float64")
    if num_classes is None:
        kind, expected = "multi-hot labels", "numbers from 0 to 1"
        valid = np.abs(values - 0.5) <= 0.5 + _ROUNDING
    else:
        kind, expected = "labels", f"integers from 0 to {num_classes - 1}"
        valid = np.isin(values, np.arange(num_classes))
    if not valid.all():
        # Only invalid ones, because there may be many others.
        raise ValueError(
            f"`{name}` has {kind} out of range. Expected {expected}. "
            f"Received: {name}={labels[~valid][:5].tolist()}"
        )
