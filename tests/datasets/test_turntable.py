"""COIL-20, from files that the user has."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import datasets
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

LABELS, VIEWS = (x.reshape(-1) for x in np.mgrid[:20, :72])
# Of each object and view, a picture of its own.
IMAGES = np.zeros((1440, 7, 5), "uint8")
IMAGES[:, 2, 1], IMAGES[:, 3, 4] = 10 * LABELS, 3 * VIEWS


def shuffled():
    order = np.random.default_rng(3).permutation(1440)
    return {
        "images": IMAGES[order],
        "labels": LABELS[order],
        "azimuths": 5 * VIEWS[order],
    }


@pytest.fixture(params=["file", "folder"])
def path(request, tmp_path):
    if request.param == "file":
        path = tmp_path / "coil.npz"
        np.savez(path, **shuffled())
        return path
    for image, label, view in zip(IMAGES, LABELS, VIEWS, strict=True):
        name = f"obj{label + 1}__{view}.png"
        png = tf.io.encode_png(image[..., None]).numpy()
        (tmp_path / name).write_bytes(png)
    (tmp_path / "readme.txt").write_text("other files do not matter")
    return tmp_path


def read(dataset):
    images, labels = dataset.batch(len(dataset)).get_single_element()
    return images.numpy(), labels.numpy()


def test_splits_are_views(path):
    for num_views in (8, 1, 72):
        images, labels = read(datasets.coil20(path, num_views=num_views))
        assert images.shape == (20 * num_views, 7, 5, 1)
        assert images.dtype == "float32" and labels.dtype == "int32"
        np.testing.assert_array_equal(labels, np.repeat(range(20), num_views))
        np.testing.assert_allclose(images[:, 2, 1, 0] * 255, 10 * labels)
        views = np.arange(0, 72, 72 // num_views)
        np.testing.assert_allclose(
            images[:, 3, 4, 0] * 255, np.tile(3 * views, 20)
        )
    others, labels = read(datasets.coil20(path, "test"))
    assert len(others) == 1440 - 160
    views = [view for view in range(72) if view % 9]
    np.testing.assert_allclose(others[:, 3, 4, 0] * 255, 3 * np.tile(views, 20))
    np.testing.assert_array_equal(labels, np.repeat(range(20), 64))
    larger = datasets.coil20(path, image_size=(11, 13))
    assert larger.element_spec[0].shape == (11, 13, 1)


def test_real_photographs():
    # Beside the folder with the other real data.
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "tfds"))
    path = folder.parent / "data" / "coil20.npz"
    if not path.exists():
        pytest.skip("there is no file of COIL-20")
    images, labels = read(datasets.coil20(path, "test"))
    assert images.shape == (1280, 32, 32, 1)
    assert images.max() <= 1
    assert np.bincount(labels).tolist() == [64] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "`split`.*Received: split='validation'"),
        ({"num_views": 7}, "a divisor of 72.*Received: num_views=7"),
        ({"num_views": 0}, "`num_views`.*Received: num_views=0"),
        ({"image_size": 0}, "`image_size`.*Received: image_size=0"),
    ],
)
def test_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        datasets.coil20(tmp_path, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.astype("float32")}, "dtype float32"),
        ({"images": IMAGES[:9]}, r"\(9, 7, 5\).*1440 labels"),
        ({"labels": LABELS + 1}, "1368 of the 1440 views"),
        ({"azimuths": np.zeros(1440, int)}, "20 of the 1440 views"),
        ({"labels": None}, "cannot be read so"),
        ({"labels": LABELS[:, None]}, "1440 labels"),
        ({"labels": np.array(3)}, "1 labels"),
        ({"azimuths": np.full(1440, "0")}, "1440 azimuths"),
        ({"azimuths": 5 * VIEWS + 2}, "1440 azimuths"),
    ],
)
def test_files_that_do_not_fit(change, message, tmp_path):
    arrays = {
        "images": IMAGES,
        "labels": LABELS,
        "azimuths": 5 * VIEWS,
    } | change
    arrays = {key: each for key, each in arrays.items() if each is not None}
    path = tmp_path / "coil.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"Received: path=.*{message}"):
        datasets.coil20(path)


def test_other_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        datasets.coil20(tmp_path / "missing.npz")
    with pytest.raises(ValueError, match="Received: path=.*with 0 such"):
        datasets.coil20(tmp_path)
    (tmp_path / "obj1__0.png").write_text("text")
    with pytest.raises(ValueError, match="an image that cannot be read"):
        datasets.coil20(tmp_path)
    path = tmp_path / "half.npz"
    np.savez(path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match="Received: path=.*cannot be read"):
        datasets.coil20(path)
    path = tmp_path / "text.npz"
    path.write_text("text")
    with pytest.raises(ValueError, match="Received: path=.*cannot be read"):
        datasets.coil20(path)
