"""Texts of pictures: how large they are, and where their lines break."""

import textwrap
from collections.abc import Iterable
from typing import Any


def size_of(text: Any, fontsize: str = "small") -> tuple[float, float]:
    """The inches that a text takes, as `(width, height)`.

    Args:
        text: The text. `None` takes no room.
        fontsize: String, a size as Matplotlib names it. Defaults to `"small"`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if text is None:
        return 0.0, 0.0
    figure = Figure()
    FigureCanvasAgg(figure)  # which knows how large letters are
    box = figure.text(0, 0, text, fontsize=fontsize).get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def largest(
    texts: Iterable[Any], fontsize: str = "small"
) -> tuple[float, float]:
    """The inches in which each of the texts fits, as `(width, height)`.

    Args:
        texts: The texts; see `size_of`.
        fontsize: As in `size_of`.
    """
    sizes = [size_of(text, fontsize) for text in texts]
    widths, heights = zip(*sizes, strict=True)
    return max(widths), max(heights)


def more_lines(texts: Iterable[Any], fontsize: str = "small") -> float:
    """The inches that the highest of the texts takes beyond its first line.

    Args:
        texts: The texts; see `size_of`.
        fontsize: As in `size_of`.
    """
    return max(0.0, largest(texts, fontsize)[1] - size_of("X", fontsize)[1])


def fitted(text: Any, width: float, fontsize: str = "small") -> str:
    """A text in lines that are not wider than there is room.

    Args:
        text: The text, or what is to be written as one.
        width: Inches, the room. One letter fits in any case.
        fontsize: As in `size_of`.
    """
    text = str(text)
    letters = max(len(text), 1)
    while True:
        lines = "\n".join(textwrap.wrap(text, letters)) or text
        needed = size_of(lines, fontsize)[0]
        if needed <= width or letters == 1:
            return lines
        letters = max(1, min(letters - 1, int(letters * width / needed)))
