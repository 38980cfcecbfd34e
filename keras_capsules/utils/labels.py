"""Labels of every form, brought into one: how present each class is."""

import numpy as np
from keras import ops

from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_numbers

# How far presences may leave [0, 1]: mixing labels in 16 bits rounds that far.
_ROUNDING = 0.01


def to_presences(labels, shape, name):
    """Returns labels as presences between 0 and 1, of the given shape.

    A value that means nothing becomes NaN, but raises in a NumPy array or
    list: only those can be looked at without waiting for a device.

    Args:
        labels: Integer labels, of shape `(batch, ...)` or `(batch, ..., 1)`,
            or presences, of shape `(batch, ..., num_classes)`.
        shape: `(batch, ..., num_classes)`.
        name: The argument's name, for messages.
    """
    shape = tuple(shape)
    if not shape or shape[-1] is None:
        raise ValueError(
            "Expected class scores of shape (batch, ..., num_classes) with a "
            f"known num_classes. Received: shape={shape}"
        )
    last = shape[-1] - 1
    expected = f"integers from 0 to {last}, or presences from 0 to 1"
    check_numbers(labels, name, expected)
    visible = isinstance(labels, np.ndarray) or not hasattr(labels, "shape")
    if visible:
        labels = np.asarray(labels)
    are_integers = _check_shapes(tuple(labels.shape), shape, name)
    if visible:
        _check_values(labels, shape[-1] if are_integers else None, name)

    labels = ops.convert_to_tensor(labels)
    # Also integers, which are exact up to 2**24: an int8 cannot be compared
    # with the last of 200 classes.
    dtype = at_least_float32(labels.dtype)
    labels = ops.cast(labels, dtype)
    if not are_integers:
        valid = ops.abs(labels - 0.5) <= 0.5 + _ROUNDING
        return ops.where(valid, labels, np.nan)
    if len(labels.shape) < len(shape):
        labels = ops.expand_dims(labels, axis=-1)
    hits = ops.equal(labels, ops.arange(shape[-1], dtype=dtype))
    valid = ops.any(hits, axis=-1, keepdims=True)
    return ops.where(valid, ops.cast(hits, dtype), np.nan)


def _check_shapes(given, shape, name):
    """Returns whether the labels are integers, or raises if they do not fit."""
    short = len(given) == len(shape) - 1
    are_integers = short or given[-1:] == (1,) != shape[-1:]
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
        raise ValueError(
            f"Expected `{name}` to hold integer labels of shape (batch, ...) "
            "or (batch, ..., 1), or presences of shape (batch, ..., "
            f"num_classes), for class scores of shape {shape}. "
            f"Received: {name}.shape={given}"
        )
    return are_integers


def _check_values(labels, num_classes, name):
    """Raises if a NumPy array holds a value that means nothing."""
    values = labels.astype("float64")
    if num_classes is None:
        kind, expected = "presences", "numbers from 0 to 1"
        valid = np.abs(values - 0.5) <= 0.5 + _ROUNDING
    else:
        kind, expected = "labels", f"integers from 0 to {num_classes - 1}"
        valid = np.isin(values, np.arange(num_classes))
    if not valid.all():
        # Those alone: others may be many.
        raise ValueError(
            f"`{name}` has {kind} out of range. Expected {expected}. "
            f"Received: {name}={labels[~valid][:5].tolist()}"
        )
