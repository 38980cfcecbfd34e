"""What all pictures share: colours, figures, legends, images on axes."""

from typing import Any

import numpy as np

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
# What tells lines and bars of the same colour apart.
_MARKERS = ("", "o", "s", "^", "D", "v", "P", "X", "<", ">")
_HATCHES = ("", "///", "...", "xxx", "---", "ooo", "+++", "***", "|||", "//..")
# For amounts: dark to bright, also in print.
COLOUR_MAP = "viridis"


def grid_of_axes(
    rows: int,
    columns: int,
    width: float = 1.1,
    height: float = 1.2,
    left: float = 0.0,
    top: float = 0.0,
) -> tuple[Any, Any]:
    """A new figure, and its axes.

    Args:
        rows: Positive integer.
        columns: Positive integer.
        width: Inches of one of the axes.
        height: Inches of one of the axes.
        left: Inches of labels beside all axes. Some are there in any case.
        top: Inches of titles above all axes. Some are there in any case.

    Returns:
        The figure, and an array of its axes of shape `(rows, columns)`.
    """
    from keras_capsules.plots import picture  # as late as matplotlib

    figure = picture.empty(
        max(columns * width, 2.5) + max(0.4, 0.25 + left),
        max(rows * height, 1.5) + max(0.4, 0.25 + top),
    )
    return figure, figure.subplots(rows, columns, squeeze=False)


def colour(number: int) -> str:
    """The colour of the line or bar of this number."""
    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    """The marker of the line of this number; `""` while colours suffice."""
    return _MARKERS[number // len(PALETTE) % len(_MARKERS)]


def hatch(number: int) -> str:
    """The hatch of the bar of this number; `""` while colours suffice."""
    return _HATCHES[number // len(PALETTE) % len(_HATCHES)]


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
        axis.set_title(title, fontsize="small")


def without_ticks(axis: Any) -> None:
    """Removes the ticks of both directions."""
    axis.set_xticks([])
    axis.set_yticks([])


def count_along(axis: Any) -> None:
    """Puts the ticks of the x axis at whole numbers, were it only one."""
    locator = axis.xaxis.get_major_locator()
    locator.set_params(integer=True, min_n_ticks=1)
