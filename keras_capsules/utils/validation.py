"""Checks of arguments, which give all messages the same form."""

import math
import numbers
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def check_integer(
    value: Any, name: str, minimum: int = 1, maximum: int | None = None
) -> int:
    """Returns `value` as an `int`, or raises if it is not a whole number.

    Args:
        value: The argument.
        name: String, the argument's name, for the message.
        minimum: Integer, the least valid value. Defaults to `1`.
        maximum: Optional integer, the largest valid value.
    """
    # bool is an Integral in Python, but True capsules is surely a mistake.
    valid = (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and int(value) >= minimum
        and (maximum is None or int(value) <= maximum)
    )
    if not valid:
        expected = "a positive integer"
        if maximum is not None:
            expected = f"an integer from {minimum} to {maximum}"
        elif minimum != 1:
            expected = f"an integer of at least {minimum}"
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def check_number(
    value: Any,
    name: str,
    minimum: float | None = None,
    maximum: float | None = None,
    open_minimum: bool = False,
) -> float:
    """Returns `value` as a `float`, or raises if it is not a finite number.

    Args:
        value: The argument.
        name: String, the argument's name, for the message.
        minimum: Optional number, the least valid value.
        maximum: Optional number, the largest valid value.
        open_minimum: Boolean, whether `minimum` itself is invalid. Defaults to
            `False`.
    """
    valid = (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (minimum is None or float(value) >= minimum)
        and not (open_minimum and value == minimum)
        and (maximum is None or float(value) <= maximum)
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


def check_boolean(value: Any, name: str) -> bool:
    """Returns `value` as a `bool`, or raises if it is neither 0 nor 1.

    Args:
        value: The argument: a Python or NumPy boolean, 0 or 1.
        name: String, the argument's name, for the message.
    """
    if not isinstance(value, np.bool_ | numbers.Integral) or (
        value not in (0, 1)
    ):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected True or False. "
            f"Received: {name}={value!r}"
        )
    return bool(value)


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Returns `value`, or raises if it is none of `choices`.

    Args:
        value: The argument.
        name: String, the argument's name, for the message.
        choices: The valid strings.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of "
            f"{', '.join(repr(choice) for choice in choices)}. "
            f"Received: {name}={value!r}"
        )
    return value


def check_sizes(value: Any, name: str, rank: int | None = None) -> Any:
    """Returns the sizes along the axes of a grid, or raises.

    Args:
        value: The argument: a positive integer, or one for each axis.
        name: String, the argument's name, for the message.
        rank: The number of axes. `None`, the default, means that it is not
            known yet.

    Returns:
        A tuple of `rank` integers; or, if `rank` is `None`, an integer or a
        tuple of one to three integers.
    """
    sizes: tuple[int, ...] = ()
    try:
        if isinstance(value, numbers.Integral):
            size = check_integer(value, name)
            return size if rank is None else (size,) * rank
        sizes = tuple(check_integer(each, name) for each in value)
    except (TypeError, ValueError):
        pass
    if not sizes or len(sizes) not in ((1, 2, 3) if rank is None else (rank,)):
        number = "" if rank is None else f"{rank} of "
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a positive "
            f"integer or a tuple of {number}them. Received: {name}={value!r}"
        )
    return sizes


def check_numbers(value: Any, name: str, expected: str = "numbers") -> None:
    """Raises if `value` is not a list, array or tensor of numbers.

    Args:
        value: The argument.
        name: String, the argument's name, for the message.
        expected: String, the valid values, for the message. Defaults to
            `"numbers"`.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        try:
            dtype = np.asarray(value).dtype
        except ValueError:  # rows of different lengths
            pass
        except (TypeError, NotImplementedError, RuntimeError):
            return  # tensors that have no values yet
    if not holds_numbers(dtype):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={reprlib.repr(value)}"
        )


def holds_numbers(dtype: Any) -> bool:
    """Whether a dtype is one of real numbers or booleans.

    Args:
        dtype: A dtype of NumPy or of any backend, or its name.
    """
    # Dtypes of PyTorch and Keras have no name.
    kind = getattr(dtype, "name", str(dtype)).lower()
    return any(each in kind for each in ("bool", "int", "float"))


def check_integers(
    value: Any, name: str, number: int | None = None, optional: bool = False
) -> Any:
    """Returns `value` as a tuple of positive integers, or raises.

    Args:
        value: The argument.
        name: Its name, for the message.
        number: How many integers there have to be. `None` means any number.
        optional: Whether `value` may also be `None`.
    """
    if optional and value is None:
        return None
    values: tuple[int, ...] | None
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


def check_for_each(value: Any, name: str, number: int) -> tuple[int, ...]:
    """Returns a positive integer for each of several layers, or raises.

    Args:
        value: The argument: one positive integer for all, or one for each.
        name: Its name, for the message.
        number: How many layers there are.
    """
    if isinstance(value, numbers.Integral):
        return (check_integer(value, name),) * number
    return check_integers(value, name, number)


def check_padding(value: Any) -> str:
    """Returns `"valid"` or `"same"`, or raises; the case does not matter.

    Args:
        value: The argument `padding`.
    """
    lower = value.lower() if isinstance(value, str) else value
    return check_choice(lower, "padding", ("valid", "same"))
