"""Images in files and in folders, against Pillow."""

import numpy as np
import pytest
from PIL import Image

from keras_capsules.training import folders
from keras_capsules.training import images
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

SHAPE = (7, 5)


def colours(height=7, width=5, channels=3):
    pixels = np.random.default_rng(3).integers(256, size=(height, width, 4))
    return pixels[..., :channels].astype("uint8")


def grey_of(pixels):
    """The luma of ITU-R BT.601."""
    return pixels[..., :3] / 255 @ [0.2989, 0.5870, 0.1140]


def written(pixels, path, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "PNG"])
def test_pixels_are_kept(tmp_path, ending):
    pixels = colours()
    path = written(pixels, tmp_path / f"image.{ending}")
    found = images.read(path, (*SHAPE, 3))
    assert found.dtype == "float32" and found.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(found, pixels.astype("float32") / 255)
    found = images.read(path, (*SHAPE, 1))
    np.testing.assert_allclose(found[..., 0], grey_of(pixels), atol=1e-3)


def test_every_kind_of_png(tmp_path):
    pixels = colours(channels=4)
    transparent = images.read(written(pixels, tmp_path / "a.png"), (*SHAPE, 3))
    np.testing.assert_allclose(transparent, pixels[..., :3] / 255, atol=1e-6)
    grey = pixels[..., 0]
    path = written(grey, tmp_path / "b.png")
    np.testing.assert_allclose(
        images.read(path, (*SHAPE, 1))[..., 0], grey / 255, atol=1e-6
    )
    for channel in np.moveaxis(images.read(path, (*SHAPE, 3)), -1, 0):
        np.testing.assert_allclose(channel, grey / 255, atol=1e-6)
    both = Image.merge("LA", [*map(Image.fromarray, (grey, pixels[..., 1]))])
    both.save(tmp_path / "c.png")
    np.testing.assert_allclose(
        images.read(tmp_path / "c.png", (*SHAPE, 1))[..., 0],
        grey / 255,
        atol=1e-6,
    )
    listed = Image.fromarray(pixels[..., :3]).quantize(17)
    listed.save(tmp_path / "d.png")
    np.testing.assert_allclose(
        images.read(tmp_path / "d.png", (*SHAPE, 3)),
        np.asarray(listed.convert("RGB")) / 255,
        atol=1e-6,
    )
    deep = Image.fromarray(grey.astype("uint16") * 257)
    deep.save(tmp_path / "e.png")
    np.testing.assert_allclose(
        images.read(tmp_path / "e.png", (*SHAPE, 1))[..., 0],
        grey / 255,
        atol=1 / 255,
    )


def test_jpeg_and_the_first_picture_of_a_gif(tmp_path):
    smooth = np.linspace(0, 255, 35).reshape(*SHAPE).astype("uint8")
    path = written(smooth, tmp_path / "a.jpg", quality=100)
    found = images.read(path, (*SHAPE, 1))[..., 0]
    np.testing.assert_allclose(found, smooth / 255, atol=0.02)
    first, second = Image.fromarray(smooth), Image.fromarray(255 - smooth)
    path = tmp_path / "b.gif"
    first.save(path, save_all=True, append_images=[second])
    found = images.read(path, (*SHAPE, 1))[..., 0]
    np.testing.assert_allclose(found, smooth / 255, atol=0.01)


def test_sizes_change_without_moire(tmp_path):
    """Fine stripes become grey, not other stripes."""
    pixels = colours(29, 23)
    path = written(pixels, tmp_path / "image.png")
    found = images.read(path, (*SHAPE, 3))
    expected = Image.fromarray(pixels).resize((5, 7), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.asarray(expected) / 255, atol=0.02)
    stripes = np.zeros((28, 30), "uint8")
    stripes[:, ::2] = 255
    found = images.read(written(stripes, path), (*SHAPE, 1))
    assert abs(found[:, 1:-1] - 0.5).max() < 0.1


def test_files_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path of a file.*none.png.*No such"):
        images.read(tmp_path / "none.png", (*SHAPE, 3))
    path = written(colours(), tmp_path / "half.png")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"that is complete.*half\.png"):
        images.read(path, (*SHAPE, 3))
    with pytest.raises(ValueError, match=r"1 or 3 channels.*\(7, 5, 2\)"):
        images.read(path, (*SHAPE, 2))


@pytest.fixture
def folder(tmp_path):
    """29 images of "b", 11 of "a"; each is of one shade of its own."""
    shade = 0
    for name, number in (("b", 29), ("a", 11)):
        for index in range(number):
            place = tmp_path / name / ("within" if index % 3 == 0 else "")
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.full((3, 2), shade, "uint8")
            written(pixels, place / f"{index}.png")
            shade += 1
    (tmp_path / "b" / "Thumbs.db").write_text("no image")
    (tmp_path / "a" / ".notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file.png").touch()
    return tmp_path


def shades(data):
    """The shades and labels of all examples."""
    pairs = [*data.as_numpy_iterator()]
    return [(round(255 * float(x.max())), int(y)) for x, y in pairs]


def test_files_that_are_not_read_are_named(folder):
    (folder / "a" / "picture.webp").touch()
    with pytest.warns(UserWarning, match=r"\.bmp.*: 1, such as picture\.webp$"):
        found = images.class_folders(folder)
    for name in "bcd":
        (folder / "b" / f"{name}.txt").touch()
    with pytest.warns(UserWarning, match=r": 4, such as .*, b\.txt, c\.txt$"):
        assert images.class_folders(folder) == found


def test_a_tenth_of_each_class_is_kept_out(folder):
    task = folders.get(folder, (3, 2, 1), seed=5)
    assert task.class_names == ("a", "b") and task.num_classes == 2
    assert task.num_examples == 40 - 3 - 1 and task.test is None
    kept = shades(task.validation)
    trained = shades(task.train(0, 36))
    assert sorted(label for _, label in kept) == [0, 1, 1, 1]
    assert sorted(kept + trained) == [
        (shade, int(shade < 29)) for shade in range(40)
    ]
    again = folders.get(folder, (3, 2, 1), seed=5)
    assert shades(again.validation) == kept
    other = folders.get(folder, (3, 2, 1), seed=6)
    assert shades(other.validation) != kept


def test_everything_or_a_few_are_trained_on(folder):
    task = folders.get(folder, (3, 2, 1), validated=False)
    assert task.validation is None and task.num_examples == 40
    assert task.train(0, 40).element_spec[0].shape == (3, 2, 1)
    few = folders.get(folder, (3, 2, 3), per_class=4)
    assert few.num_examples == 8
    labels = [label for _, label in shades(few.train(0, 8))]
    assert sorted(labels) == [0] * 4 + [1] * 4
    kept = {shade for shade, _ in shades(few.validation)}
    assert not kept & {shade for shade, _ in shades(few.train(0, 8))}
    with pytest.raises(ValueError, match="at most 10.*per_class=11"):
        folders.get(folder, (3, 2, 1), per_class=11)


def test_labels_are_those_of_the_names(folder):
    data = folders.read_labelled(folder, (3, 2, 1), ("c", "b", "a"))
    assert sorted(shades(data)) == [
        (shade, 1 if shade < 29 else 2) for shade in range(40)
    ]
