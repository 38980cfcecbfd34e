"""Checks of constructor arguments, so that every message reads the same."""

import math
import numbers
import reprlib

import numpy as np


def check_integer(value, name, minimum=1):
    """Returns `value` as an `int`, or raises if it is not a whole number."""
    # bool is an Integral in Python, but True capsules is surely a mistake.
    if (
        not isinstance(value, numbers.Integral)
        or isinstance(value, bool)
        or value < minimum
    ):
        expected = "a positive integer"
        if minimum != 1:
            expected = f"an integer of at least {minimum}"
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def check_number(value, name, minimum=None, maximum=None, open_minimum=False):
    """Returns `value` as a `float`, or raises if it is not a finite number."""
    valid = (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (minimum is None or value >= minimum)
        and not (open_minimum and value == minimum)
        and (maximum is None or value <= maximum)
    )
    if not valid:
        expected = "a finite number"
        if minimum is not None:
            bound = "greater than" if open_minimum else "of at least"
            expected += f" {bound} {minimum}"
        if maximum is not None:
            joint = " and" if minimum is not None else " of"
            expected += f"{joint} at most {maximum}"
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def check_boolean(value, name):
    """Returns `value`, or raises if it is not `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected True or False. "
            f"Received: {name}={value!r}"
        )
    return value


def check_choice(value, name, choices):
    """Returns `value`, or raises if it is none of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of "
            f"{', '.join(repr(choice) for choice in choices)}. "
            f"Received: {name}={value!r}"
        )
    return value


def check_integer_pair(value, name):
    """Returns `value` as a pair of positive integers; one serves for both."""
    pair = (value, value) if isinstance(value, numbers.Integral) else value
    try:
        first, second = pair
        return check_integer(first, name), check_integer(second, name)
    except (TypeError, ValueError):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a positive "
            f"integer or a pair of them. Received: {name}={value!r}"
        ) from None


def check_numbers(value, name, expected="numbers"):
    """Raises if `value` is not a list, array or tensor of numbers."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        try:
            dtype = np.asarray(value).dtype
        except ValueError:  # of rows that are not equally long
            pass
        except (TypeError, NotImplementedError, RuntimeError):
            return  # of tensors that have no values yet
    # Tensors of PyTorch and Keras have dtypes without a name.
    kind = getattr(dtype, "name", str(dtype)).lower()
    if not any(each in kind for each in ("bool", "int", "float")):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={reprlib.repr(value)}"
        )


def check_integers(value, name, number=None, optional=False):
    """Returns `value` as a tuple of positive integers, `number` of them.

    If `optional`, it may also be `None`.
    """
    if optional and value is None:
        return None
    try:
        values = tuple(check_integer(each, name) for each in value)
    except (TypeError, ValueError):
        values = None
    if values is None or number not in (None, len(values)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected "
            f"{'' if number is None else f'{number} '}positive integers"
            f"{' or None' if optional else ''}. Received: {name}={value!r}"
        )
    return values


def check_padding(value):
    """Returns `"valid"` or `"same"`, whatever the case of its letters."""
    lower = value.lower() if isinstance(value, str) else value
    if lower not in ("valid", "same"):
        raise ValueError(
            "Invalid value for argument `padding`. Expected 'valid' or 'same'. "
            f"Received: padding={value!r}"
        )
    return lower
