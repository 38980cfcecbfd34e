"""What all pictures share: colours, figures, images on axes."""

import textwrap
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules.types import Tensor

# Okabe and Ito, "Color universal design" (2008): colours that people who do not
# tell red from green can tell apart.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
# For amounts: dark to bright, also in print.
COLOUR_MAP = "viridis"
_LINE = 14  # characters of a title, before it is broken


def grid_of_axes(
    rows: int, columns: int, width: float = 1.1, height: float = 1.2
) -> tuple[Any, Any]:
    """A figure that belongs to nobody, and its axes.

    It is not registered with pyplot, so nothing shows it unasked, and it is
    freed with its last reference.

    Args:
        rows: Positive integer.
        columns: Positive integer.
        width: Inches of one of the axes.
        height: Inches of one of the axes.

    Returns:
        The figure, and an array of its axes of shape `(rows, columns)`.
    """
    from matplotlib.figure import Figure

    size = max(columns * width, 2.5) + 0.4, max(rows * height, 1.5) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def colour(number: int) -> str:
    """The colour of the line or bar of this number."""
    return PALETTE[number % len(PALETTE)]


def broken(text: Any, width: int = _LINE) -> str:
    """A text in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(str(text), width)) or str(text)


def as_images(value: Tensor, name: str, first_axes: int = 1) -> np.ndarray:
    """Images as an array, or raises.

    Args:
        value: Array or tensor `(..., height, width, channels)` with one
            channel or three, or `(..., height, width)`.
        name: String, the argument's name, for messages.
        first_axes: Positive integer, the number of axes before the height.

    Returns:
        An array `(..., height, width, channels)`.
    """
    images = np.asarray(keras.ops.convert_to_numpy(value))
    if images.ndim == first_axes + 2:
        images = images[..., None]
    if images.ndim != first_axes + 3 or images.shape[-1] not in (1, 3):
        axes = ("images, " if first_axes else "") + "..., " * (first_axes > 1)
        raise ValueError(
            f"Expected `{name}` of shape ({axes}height, width, channels) with "
            "1 or 3 channels. Received: "
            f"{name}.shape={tuple(np.shape(value))}"
        )
    if not images.size:
        raise ValueError(
            f"There is nothing to draw. Expected at least one image in "
            f"`{name}`. Received: {name}.shape={images.shape}"
        )
    return images


def show_image(axis: Any, image: np.ndarray, title: Any = None) -> None:
    """Draws an image with values between 0 and 1, grey or in colour.

    Args:
        axis: The axes to draw on.
        image: `(height, width, channels)`. Values outside are clipped.
        title: Optional text above it.
    """
    image = np.clip(np.nan_to_num(image), 0.0, 1.0)
    if image.shape[-1] == 1:
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(image)
    without_ticks(axis)
    if title is not None:
        axis.set_title(broken(title), fontsize="small")


def show_grid(
    axes: np.ndarray, images: np.ndarray, titles: Sequence[Any]
) -> None:
    """Draws rows of images, with titles above the first row.

    Args:
        axes: Array of axes, `(rows, columns)`.
        images: `(rows, columns, height, width, channels)`.
        titles: A title for each column, or `None`.
    """
    for row, of_row in enumerate(images):
        for column, image in enumerate(of_row):
            title = titles[column] if row == 0 else None
            show_image(axes[row, column], image, title)


def without_ticks(axis: Any) -> None:
    """Removes the ticks of both directions."""
    axis.set_xticks([])
    axis.set_yticks([])


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
    if isinstance(names, str) or len(names) != number:
        raise ValueError(
            f"Expected {number} names in `{name}`. Received: {name}={names!r}"
        )
    return [str(each) for each in names]
