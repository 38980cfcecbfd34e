"""Ten digits to begin with, drawn by hand, stroke by stroke."""

from typing import cast

import numpy as np
from PIL import Image
from PIL import ImageDraw

from keras_capsules.explorer import drawing

# The strokes of each digit: corners (x, y), in hundredths, of a line that is
# rounded off.
STROKES = {
    "0": [
        [(58, 12), (30, 14), (18, 50), (30, 90), (60, 92), (80, 55), (74, 14)]
        + [(48, 8)]
    ],
    "1": [[(38, 28), (56, 10), (50, 92)]],
    "2": [
        [(22, 30), (34, 6), (72, 6), (80, 38), (46, 66), (12, 94), (50, 84)]
        + [(86, 90)]
    ],
    "3": [
        [(22, 18), (44, 4), (82, 8), (76, 42), (42, 48)],
        [(42, 48), (84, 48), (88, 86), (50, 98), (16, 82)],
    ],
    "4": [[(34, 10), (26, 34), (20, 56), (84, 52)], [(70, 18), (62, 94)]],
    "5": [
        [(76, 10), (32, 12)],
        [(32, 12), (26, 46), (74, 34), (88, 72), (60, 98), (18, 88)],
    ],
    "6": [
        [(68, 6), (38, 22), (16, 62), (30, 98), (72, 94), (76, 62), (44, 52)]
        + [(22, 72)]
    ],
    "7": [[(18, 16), (46, 10), (84, 12)], [(84, 12), (58, 50), (44, 94)]],
    "8": [
        [(78, 14), (48, 2), (20, 18), (34, 42), (66, 56), (82, 82), (50, 100)]
        + [(20, 84), (36, 56), (68, 40), (82, 20), (70, 8)]
    ],
    "9": [
        [(74, 22), (48, 4), (20, 24), (36, 52), (70, 42), (76, 18)],
        [(76, 18), (72, 54), (58, 94)],
    ],
}


def draw(digit: str) -> np.ndarray:
    """Draws a digit.

    Args:
        digit: A key of `STROKES`.

    Returns:
        Its ink, as `drawing.ink` returns it.
    """
    image = Image.new("L", (drawing.PAD, drawing.PAD))
    pen = ImageDraw.Draw(image)
    radius = drawing.PAD / 24
    for corners in STROKES[digit]:
        points = _rounded(np.array(corners) / 100)
        points = drawing.PAD * (0.15 + 0.7 * points)
        pen.line([*map(tuple, points)], 255, round(2 * radius))
        for point in points:
            pen.circle(point, radius, 255)
    marks = drawing.ink(np.asarray(image, "float32") / 255)
    return cast(np.ndarray, marks)  # there is some


def _rounded(points):
    """Cuts the corners of a line, and those that are left, and so on."""
    for _ in range(4):
        before, after = points[:-1], points[1:]
        cut = np.stack(
            [0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after]
        )
        inner = cut.swapaxes(0, 1).reshape(-1, 2)
        points = np.concatenate([points[:1], inner, points[-1:]])
    return points
