"""What the pictures and charts take."""

import reprlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules.inspection.data_diagnosis import LARGEST_PIXEL
from keras_capsules.types import Tensor


def as_images(value: Tensor, name: str, first_axes: int = 1) -> np.ndarray:
    """Images as an array, or raises.

    Args:
        value: Array or tensor `(..., height, width, channels)` with one
            channel or three, or `(..., height, width)`. Values are between 0
            and 1, or around it, as networks may draw them.
        name: String, the argument's name, for messages.
        first_axes: Positive integer, the number of axes before the height.

    Returns:
        An array of floats `(..., height, width, channels)`.
    """
    images = as_numbers(value, name)
    shape = images.shape
    if images.ndim == first_axes + 2:
        images = images[..., None]
    if images.ndim != first_axes + 3 or images.shape[-1] not in (1, 3):
        axes = ("images, " if first_axes else "") + "..., " * (first_axes > 1)
        raise ValueError(
            f"Expected `{name}` of shape ({axes}height, width, channels) with "
            f"1 or 3 channels. Received: {name}.shape={shape}"
        )
    if not images.size:
        raise ValueError(
            f"There is nothing to draw. Expected at least one image in "
            f"`{name}`. Received: {name}.shape={images.shape}"
        )
    # Whole numbers are of another scale as soon as one is neither 0 nor 1.
    is_whole = not np.issubdtype(images.dtype, np.floating)
    largest = np.max(images, initial=0, where=np.isfinite(images))
    if largest > (1 if is_whole else LARGEST_PIXEL):
        raise ValueError(
            f"Expected `{name}` with values between 0 and 1, such as "
            f"{name} / 255 for pixels from 0 to 255. Received: {name} of dtype "
            f"{images.dtype} with values up to {largest:g}"
        )
    return images.astype("float32") if is_whole else images


def as_numbers(value: Tensor, name: str) -> np.ndarray:
    """An array of numbers, or raises.

    Args:
        value: Array, tensor or nested list.
        name: String, the argument's name, for messages.
    """
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value))
        if array.dtype.kind in "cSU":
            raise ValueError
        if array.dtype.kind in "biu" or array.dtype in ("float32", "float64"):
            return array
        return array.astype("float32")
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected `{name}` to be an array of numbers. Received: "
            f"{name}={reprlib.repr(value)}"
        ) from None


def check_names(
    names: Sequence[Any] | None, number: int, name: str
) -> list[str]:
    """Names as strings; numbers from 0 on if there are none.

    Args:
        names: Sequence of names, or `None`.
        number: Integer, how many are needed.
        name: String, the argument's name, for the message.
    """
    if names is None:
        return [str(each) for each in range(number)]
    found = as_list(names)
    if found is None or len(found) != number:
        raise ValueError(
            f"Expected {number} names in `{name}`. Received: {name}={names!r}"
        )
    return [str(each) for each in found]


def as_list(values: Any) -> list[Any] | None:
    """The elements of a sequence; `None` if it is none, or one text."""
    if isinstance(values, str | bytes | Mapping | set | frozenset):
        return None
    try:
        return list(values)
    except TypeError:
        return None
