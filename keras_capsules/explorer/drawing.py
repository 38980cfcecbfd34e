"""Drawings: read with care, and prepared as the digits of MNIST were.

A picture is a float32 array `(height, width)` of grey, from 0, black, to 1.
"""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageOps

# What is read at most. A photograph of a phone has about 12 million pixels.
MAX_BYTES = 10 * 2**20
MAX_PIXELS = 25_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

# Height and width of the drawing pad.
PAD = 280
# MNIST's images, and the box in them that a digit fills.
SIZE, BOX = 28, 20
# Two digits, one on top of the other: MultiMNIST's images.
PAIR_SIZE = 36
MAX_APART = 12

# Fainter marks count as paper: shadows, and the noise of cameras.
_FAINT = 0.1
# The strength of a line is that of its strong marks. The very strongest are
# where lines cross.
_STRONG = 0.9
# Digits of fewer pixels are not even drawn on screens.
_SMALLEST = 5
_PREFIX = "data:image/png;base64,"


class Unreadable(ValueError):
    """A file is no picture to be read. The message is for its owner."""


def read(content: bytes) -> np.ndarray:
    """Reads the file of a picture, or says why it cannot.

    Args:
        content: Bytes.

    Returns:
        A picture.

    Raises:
        Unreadable: If it is too large, or no picture of a known format.
    """
    if len(content) > MAX_BYTES:
        raise Unreadable(
            f"This file is too large. At most {MAX_BYTES // 2**20} MB are read."
        )
    try:
        # Opening reads the size alone. Decoding comes later.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft("L", (4 * PAD, 4 * PAD))  # JPEG decodes to less
            return _as_grey(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable(
            "This picture has too many pixels. At most "
            f"{MAX_PIXELS // 10**6} million are read."
        ) from None
    # What decoders raise at damaged files has no common class.
    except Exception as error:
        raise Unreadable(
            "This file is no picture that can be read. Expected a file of "
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        ) from error


def _as_grey(image):
    if image.mode.startswith("I"):  # 16 bits
        return np.asarray(image, "float32") / 65535
    grey, alpha = (
        np.asarray(band, "float32") / 255
        for band in image.convert("RGBA").convert("LA").split()
    )
    # Where it is transparent, paper that the ink stands out from.
    ink = np.average(grey, weights=alpha) if alpha.any() else 1.0
    return alpha * grey + (1 - alpha) * (ink < 0.5)


def ink(picture: np.ndarray) -> np.ndarray | None:
    """Takes the ink off its paper: from 0, paper, to 1, the strongest mark.

    The margin shows the paper. If that is bright, the ink is dark.

    Args:
        picture: A picture.

    Returns:
        An array of the same shape, cropped to the ink; `None` without any.
    """
    margin = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    paper = np.median(np.concatenate(margin))
    marks = paper - picture if paper > 0.5 else picture - paper
    strongest = marks.max()
    if strongest <= 2 * _FAINT:
        return None
    marks = np.clip((marks / strongest - _FAINT) / (1 - _FAINT), 0, 1)
    rows, columns = (np.flatnonzero(marks.any(axis)) for axis in (1, 0))
    return marks[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def as_mnist(marks: np.ndarray) -> np.ndarray:
    """Scales ink into a box of 20 by 20, centred by its mass in 28 by 28.

    Args:
        marks: What `ink` returns.

    Returns:
        A picture of white ink on black.
    """
    digit = _scaled(marks, BOX)
    total = digit.sum()
    image = np.zeros((SIZE, SIZE), "float32")
    place = []
    for axis, length in enumerate(digit.shape):
        centre = digit.sum(1 - axis) @ np.arange(length) / total
        first = round(SIZE / 2 - centre)
        first = min(max(first, 0), SIZE - length)  # all of it stays inside
        place.append(slice(first, first + length))
    image[tuple(place)] = digit
    return image


def _scaled(marks, longest):
    """Ink whose longer side has the given number of pixels, as strong."""
    scale = longest / max(marks.shape)
    height, width = (max(1, round(scale * each)) for each in marks.shape)
    image = Image.fromarray(marks.astype("float32"))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    digit = np.clip(np.asarray(image), 0, 1)
    if scale >= 1:
        return digit
    # A thin line has become a faint one.
    visible = digit[digit > 1 / 255]
    if not visible.size:
        raise Unreadable("The marks are too small for the picture around them.")
    return np.minimum(digit / np.quantile(visible, _STRONG), 1)


def framed(digit: np.ndarray, height: int, width: int) -> np.ndarray:
    """Puts a picture into a frame: in the middle, or scaled to a smaller one.

    Args:
        digit: A picture.
        height: Integer.
        width: Integer.

    Returns:
        A picture `(height, width)`.
    """
    smaller = min(height / digit.shape[0], width / digit.shape[1])
    if smaller < 1:
        digit = _scaled(digit, round(smaller * max(digit.shape)))
    top, left = (height - digit.shape[0]) // 2, (width - digit.shape[1]) // 2
    image = np.zeros((height, width), "float32")
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return image


def one_on_another(
    first: np.ndarray, second: np.ndarray, apart: int
) -> np.ndarray:
    """Lays one digit on another, as in MultiMNIST: the sum, cut off at 1.

    Args:
        first: A picture as `as_mnist` makes it. It moves up and to the left.
        second: Another, which moves down and to the right.
        apart: Integer, by how many pixels in all along each axis, from 0 to
            `MAX_APART`.

    Returns:
        A picture `(36, 36)`.
    """
    image = np.zeros((PAIR_SIZE, PAIR_SIZE), "float32")
    for digit, shift in ((first, -(apart // 2)), (second, apart - apart // 2)):
        moved = np.zeros((SIZE + 2 * MAX_APART,) * 2, "float32")
        begin = MAX_APART + shift
        moved[begin : begin + SIZE, begin : begin + SIZE] = digit
        rim = (len(moved) - PAIR_SIZE) // 2
        image += moved[rim:-rim, rim:-rim]
    return np.minimum(image, 1)


def to_pad(marks: np.ndarray) -> str:
    """Draws ink on the pad: black on white, with a margin.

    Args:
        marks: What `ink` returns.

    Returns:
        The picture as the pad has it: the address that holds its data.

    Raises:
        Unreadable: If the ink is no more than some specks.
    """
    # A line has as many pixels as the longer side, or half as many with gaps.
    longest = max(marks.shape)
    if longest < _SMALLEST or np.count_nonzero(marks) < longest / 2:
        raise Unreadable(
            "There is too little in this picture: some specks, and no line. "
            "Expected one digit, of dark ink on bright paper or the reverse."
        )
    digit = _scaled(marks, PAD * BOX // SIZE)
    return as_address(1 - framed(digit, PAD, PAD))


def from_pad(address: Any) -> np.ndarray | None:
    """What is drawn on a pad.

    Args:
        address: String, as the pad sends it; or `None`, if it is new.

    Returns:
        The digit as MNIST would have it; `None` if nothing is drawn.

    Raises:
        Unreadable: If it is something else.
    """
    if not address:
        return None
    # It comes from a browser, and so may be anything.
    if not isinstance(address, str) or not address.startswith(_PREFIX):
        raise Unreadable("This is no drawing.")
    try:
        content = base64.b64decode(address[len(_PREFIX) :], validate=True)
    except ValueError:  # not of this alphabet, or broken
        raise Unreadable("This is no drawing.") from None
    marks = ink(read(content))
    return None if marks is None else as_mnist(marks)


def as_address(picture: np.ndarray) -> str:
    """A picture as an address that holds its data, as a PNG file.

    Args:
        picture: A picture, or an array `(height, width, 3)` of colours.

    Returns:
        String.
    """
    pixels = (255 * np.clip(picture, 0, 1)).round().astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _PREFIX + base64.b64encode(file.getvalue()).decode()
