"""Drawings, from files and from the pad."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL import ImageDraw

from keras_capsules import datasets
from keras_capsules.explorer import drawing
from keras_capsules.explorer import samples
from tests.helpers.datasets import real_data_dir
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def as_file(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def grey(height=5, width=7):
    """A picture whose pixels all differ."""
    pixels = np.linspace(0, 255, height * width).round().astype("uint8")
    return pixels.reshape(height, width)


# Reading.


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_read_makes_pictures_grey(mode):
    image = Image.fromarray(grey()).convert(mode)
    np.testing.assert_allclose(
        drawing.read(as_file(image)), grey() / 255, atol=1 / 255
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_read_knows_formats(kind):
    image = Image.new("L", (70, 50), 100)
    picture = drawing.read(as_file(image, kind))
    assert picture.shape == (50, 70)
    np.testing.assert_allclose(picture, 100 / 255, atol=0.02)


def test_read_knows_sixteen_bits():
    pixels = 257 * grey().astype("uint16")
    picture = drawing.read(as_file(Image.fromarray(pixels)))
    np.testing.assert_allclose(picture, grey() / 255, atol=1e-4)


def test_read_turns_photographs_upright():
    image = Image.fromarray(grey())
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    picture = drawing.read(as_file(image, exif=exif))
    np.testing.assert_allclose(picture, np.rot90(grey(), -1) / 255, atol=1e-6)


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_nothing_is_seen(ink):
    pixels = np.zeros((20, 20, 4), "uint8")
    pixels[5:15, 8:11] = (ink, ink, ink, 255)
    marks = drawing.ink(drawing.read(as_file(Image.fromarray(pixels))))
    np.testing.assert_array_equal(marks, np.ones((10, 3)))


def test_read_limits_bytes(monkeypatch):
    content = as_file(Image.fromarray(grey()))
    monkeypatch.setattr(drawing, "MAX_BYTES", len(content) - 1)
    with pytest.raises(drawing.Unreadable, match="too large. At most 0 MB"):
        drawing.read(content)


@pytest.mark.parametrize("size", [(6000, 6000), (12000, 12000), (60000, 60000)])
def test_read_refuses_bombs_before_they_are_decoded(size):
    """A file of a few bytes that says it has very many pixels."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(drawing.Unreadable, match="At most 25 million"):
        drawing.read(content)


@pytest.mark.parametrize(
    "content",
    {
        "nothing": b"",
        "text": b"seven",
        "another format": as_file(Image.new("L", (9, 9)), "EPS"),
        "cut off": as_file(Image.fromarray(np.tile(grey(99, 99), 9)))[:200],
        "damaged": as_file(Image.fromarray(grey())).replace(b"IDAT", b"IDAX"),
    }.values(),
    ids=["nothing", "text", "another format", "cut off", "damaged"],
)
def test_read_refuses_what_is_no_picture(content):
    with pytest.raises(drawing.Unreadable, match="Expected a file of PNG, J"):
        drawing.read(content)


# Preparing.


def test_ink_is_the_same_on_bright_and_dark_paper():
    picture = np.full((30, 40), 0.2)
    picture[10:20, 15] = 0.8
    picture[10, 15:22] = 0.5
    marks = drawing.ink(picture)
    assert marks.shape == (10, 7)
    assert marks.max() == 1 and marks[0, 3] < 0.5
    np.testing.assert_allclose(drawing.ink(1 - picture), marks, atol=1e-6)


def test_paper_without_ink():
    noise = np.random.default_rng(0).uniform(0.8, 0.9, (30, 40))
    assert drawing.ink(noise) is None
    assert drawing.ink(np.zeros((1, 1))) is None
    # Noise beside ink is not part of it.
    noise[10:20, 15] = 0.1
    assert drawing.ink(noise).shape == (10, 1)


@pytest.mark.parametrize(
    "shape", [(7, 3), (3, 7), (300, 11), (11, 300), (1, 1), (100, 100)]
)
def test_digits_fill_the_box_and_are_centred(shape):
    digit = drawing.as_mnist(np.ones(shape, "float32"))
    assert digit.shape == (28, 28) and digit.dtype == "float32"
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    assert max(len(rows), len(columns)) == 20
    expected = max(1, round(20 * min(shape) / max(shape)))
    assert min(len(rows), len(columns)) == expected
    for axis in (0, 1):
        centre = digit.sum(1 - axis) @ np.arange(28) / digit.sum()
        assert abs(centre - 14) <= 0.5


def test_no_ink_leaves_the_image():
    marks = np.zeros((20, 20), "float32")
    marks[0, 0] = 0.01  # hardly pulls the centre from the other corner
    marks[17:, 17:] = 1
    digit = drawing.as_mnist(marks)
    np.testing.assert_allclose(digit[:20, :20], marks, atol=1 / 255)


def test_images_of_mnist_stay_as_they_are():
    """They are prepared in this way; rounding moves a few by a pixel."""
    images, _ = datasets.load_arrays(
        "mnist", "test[:100]", data_dir=real_data_dir("mnist")
    )
    changes = [
        np.abs(drawing.as_mnist(drawing.ink(image)) - image).mean()
        for image in images[..., 0]
    ]
    assert np.median(changes) < 0.01


def line_drawing(digit, width, height=1000):
    """A large picture of a digit, of grey lines on bright paper."""
    image = Image.new("L", (2 * height, 2 * height), 235)
    pen = ImageDraw.Draw(image)
    for corners in samples.STROKES[digit]:
        points = height * (0.5 + np.array(corners) / 100)
        pen.line([*map(tuple, points)], 60, width, joint="curve")
    return as_file(image)


def uploaded(content):
    address = drawing.to_pad(drawing.ink(drawing.read(content)))
    return drawing.from_pad(address)


@pytest.mark.parametrize("width", [100, 40, 10, 5, 1])
def test_thin_lines_are_as_strong_as_thick_ones(width, shipped):
    right = 0
    for digit in samples.STROKES:
        image = uploaded(line_drawing(digit, width))
        assert np.quantile(image[image > 0.1], 0.75) > 0.75
        winners = shipped.answer(shipped.frame(image)).winners
        right += winners == (int(digit),)
    assert right >= 9


def test_a_thin_line_beside_a_blot():
    marks = np.zeros((1000, 600), "float32")
    marks[:, 300:302] = 1
    marks[:40, 300:340] = 1
    digit = drawing.as_mnist(marks)
    assert np.median(digit.max(axis=1)[4:24]) > 0.5


@pytest.mark.parametrize("width", [1, 2, 3])
def test_specks_are_no_digit(width):
    image = Image.new("L", (3000, 3000), 255)
    for place in (500, 2500):
        box = (place, place, place + width - 1, place + width - 1)
        ImageDraw.Draw(image).rectangle(box, 0)
        with pytest.raises(drawing.Unreadable, match="is too little in this"):
            uploaded(as_file(image))
    marks = np.zeros((3000, 3000), "float32")
    marks[0, 0] = marks[-1, -1] = 1
    with pytest.raises(drawing.Unreadable, match="too small for the picture"):
        drawing.as_mnist(marks)


def test_framed():
    digit = np.eye(28, dtype="float32")
    larger = drawing.framed(digit, 36, 40)
    np.testing.assert_array_equal(larger, np.pad(digit, ((4, 4), (6, 6))))
    np.testing.assert_array_equal(drawing.framed(digit, 28, 28), digit)
    smaller = drawing.framed(np.ones((28, 28), "float32"), 8, 10)
    np.testing.assert_array_equal(
        smaller, np.pad(np.ones((8, 8)), ((0,), (1,)))
    )


@pytest.mark.parametrize("apart", [0, 1, 7, 12])
def test_one_on_another(apart):
    first, second = np.random.default_rng(0).uniform(size=(2, 28, 28))
    image = drawing.one_on_another(first, second, apart)
    expected = np.zeros((36 + 28, 36 + 28))
    for digit, start in (
        (first, 18 - apart // 2),
        (second, 18 + -(-apart // 2)),
    ):
        expected[start : start + 28, start : start + 28] += digit
    expected = np.minimum(expected, 1)[14:50, 14:50]
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_the_pad_gives_back_what_it_is_given():
    for digit in samples.STROKES:
        marks = samples.draw(digit)
        address = drawing.to_pad(marks)
        assert address.startswith("data:image/png;base64,")
        np.testing.assert_allclose(
            drawing.from_pad(address), drawing.as_mnist(marks), atol=0.15
        )


def test_an_empty_pad():
    white = drawing.as_address(np.ones((280, 280)))
    for address in ("", None, white):
        assert drawing.from_pad(address) is None


@pytest.mark.parametrize(
    "address",
    [
        *("seven", 7, {"a": 1}, "file:///etc/passwd"),
        "data:image/svg+xml,<svg/>",
        *("data:image/png;base64,?", "data:image/png;base64,c2V2ZW4="),
    ],
)
def test_what_no_pad_sends_is_refused(address):
    with pytest.raises(drawing.Unreadable):
        drawing.from_pad(address)
