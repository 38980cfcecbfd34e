"""`examples/scaling/records.py`."""

import json

import numpy as np
import pytest

from tests.helpers.scaling import EXAMPLES
from tests.helpers.scaling import numbered
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from scaling import records

    return records


@pytest.fixture
def folder(records, tmp_path):
    contents = records.write(tmp_path / "images", numbered(47), 6, 5)
    assert sum(contents["files"].values()) == 47
    assert contents == records.contents_of(tmp_path / "images")
    return tmp_path / "images"


def read(records, folder, *arguments, **options):
    """The numbers of the images, in order."""
    numbers = []
    for images, labels in records.read(folder, 4, *arguments, **options):
        images = np.round(255 * images.numpy()).astype(int)
        found = images[:, 1, 1, 0]
        np.testing.assert_array_equal(images[:, 0, 0, 0], found // 2)
        np.testing.assert_array_equal(labels, found % 5)
        numbers += found.tolist()
    return numbers


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_every_image_once_in_each_epoch(parts, records, folder):
    orders = []
    for epoch in range(2):
        shares = [
            read(records, folder, part, parts, epoch) for part in range(parts)
        ]
        assert min(map(len, shares)) > 0
        assert sorted(sum(shares, [])) == list(range(47))
        orders.append(shares)
    # Processes keep their files, in another order.
    assert orders[0] != orders[1]
    assert [set(x) for x in orders[0]] == [set(x) for x in orders[1]]


def test_orders(records, folder):
    first = read(records, folder, epoch=1)
    assert first == read(records, folder, epoch=1)
    assert first != read(records, folder, epoch=1, seed=1)
    assert first != list(range(47))
    assert sorted(read(records, folder, shuffle=1)) == list(range(47))
    # Also that of the first epoch with the first seed.
    assert read(records, folder) == read(records, folder)


def test_orders_do_not_depend_on_the_global_seed(records, folder):
    import tensorflow as tf

    orders = []
    try:
        for seed in (1, 2):
            tf.random.set_seed(seed)
            orders.append(read(records, folder, shuffle=9))
    finally:
        tf.random.set_seed(None)
    assert orders[0] == orders[1]


def test_steps(records, folder):
    contents = records.contents_of(folder)
    assert records.steps(contents, 4, 1) == 11
    assert records.steps(contents, 4, 2) == 5  # 24 and 23 images
    with pytest.raises(ValueError, match="at most 23. Received: batch_size=24"):
        records.steps(contents, 24, 2)
    with pytest.raises(ValueError, match="at least 7 files.*Received: 6 files"):
        records.steps(contents, 1, 7)


def test_wrong_folders(records, folder, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", folder / records.CONTENTS):
        with pytest.raises(ValueError, match="There are no images. Expected a"):
            records.contents_of(path)
    with pytest.raises(ValueError, match="Expected at least 7 files"):
        records.read(folder, 4, 0, 7)
    (folder / "images-00002-of-00006.tfrecord").unlink()
    with pytest.raises(ValueError, match="without images-00002-of-00006"):
        records.read(folder, 4)


def test_a_file_that_was_cut(records, folder):
    """Not after hours of training, when it is read."""
    path = folder / "images-00003-of-00006.tfrecord"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    message = (
        f"as they were written: {path.name} of {size} bytes. Received: "
        f"folder=.*images' with {size - 1}"
    )
    with pytest.raises(ValueError, match=message):
        records.read(folder, 4)


def changed(**entries):
    """A function that changes the text of `contents.json`."""
    return lambda text: json.dumps({**json.loads(text), **entries})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{}",
        lambda text: "[]",
        lambda text: "{",
        lambda text: "7",
        changed(files={}, bytes={}),
        changed(files={"thesis.txt": 7}, bytes={"thesis.txt": 13}),
        changed(files=["thesis.txt"]),
        changed(bytes=None),
        changed(image_shape=None),
        changed(num_classes="5"),
    ],
)
def test_contents_of_something_else(change, records, folder):
    path = folder / records.CONTENTS
    path.write_text(change(path.read_text()))
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="There are no images. Expected a fol"):
        records.contents_of(folder)
    names = sorted(each.name for each in folder.iterdir())
    with pytest.raises(ValueError, match="would be lost.* with contents.json"):
        records.write(folder, numbered(9), 2, 5)
    assert names == sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": 2, "parts": 2}, "part from 0 to 1, .*Received: part=2"),
        ({"part": -1, "parts": 2}, "integer of at least 0. Received: part=-1"),
        ({"part": 0.5}, "an integer of at least 0. Received: part=0.5"),
        ({"parts": 0}, "an integer of at least 1. Received: parts=0"),
        ({"batch_size": 0}, "of at least 1. Received: batch_size=0"),
        ({"epoch": -1}, "of at least 0. Received: epoch=-1"),
        ({"seed": None}, "of at least 0. Received: seed=None"),
        ({"shuffle": 0}, "of at least 1. Received: shuffle=0"),
    ],
)
def test_options_of_reading(options, message, records, folder):
    with pytest.raises(ValueError, match=message):
        records.read(folder, **{"batch_size": 4, **options})


def test_options_of_steps(records, folder):
    contents = records.contents_of(folder)
    with pytest.raises(ValueError, match="at least 1. Received: batch_size=0"):
        records.steps(contents, 0, 1)
    with pytest.raises(ValueError, match="at least 1. Received: parts=0"):
        records.steps(contents, 4, 0)


def test_too_few_images_leave_no_folder(records, tmp_path):
    with pytest.raises(ValueError, match="of 6 files. Received: 5 images"):
        records.write(tmp_path / "images", numbered(5), 6, 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((3, 3, 1), "uint8"), 0, "image 2 of shape .3, 3, 1."),
        (np.zeros((3, 2), "uint8"), 0, "image 2 of dtype uint8 and shape"),
        (np.zeros((3, 2, 5), "uint8"), 0, "with 1 to 4 channels"),
        (np.zeros((3, 2, 1)), 0, "image 2 of dtype float64"),
        (np.zeros((3, 2, 1), "uint8"), 5, "0 to 4. Received: label 5 of image"),
        (np.zeros((3, 2, 1), "uint8"), -1, "Received: label -1 of image 2"),
        (np.zeros((3, 2, 1), "uint8"), 0.5, "Received: label 0.5 of image 2"),
        (np.zeros((3, 2, 1), "uint8"), [0], "Received: label .0. of image 2"),
    ],
)
def test_images_that_training_cannot_read(
    image, label, message, records, tmp_path
):
    examples = [*numbered(2), (image, label), *numbered(2)]
    with pytest.raises(ValueError, match=message):
        records.write(tmp_path / "images", examples, 2, 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shards", "num_classes"])
def test_numbers_of_files_and_classes(name, records, tmp_path):
    numbers = {"shards": 2, "num_classes": 5, name: 0}
    with pytest.raises(ValueError, match=f"at least 1. Received: {name}=0"):
        records.write(tmp_path / "images", numbered(5), **numbers)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_lost(records, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    message = "would be lost.* has only contents.json.* with thesis.txt"
    with pytest.raises(ValueError, match=message):
        records.write(tmp_path, [], 1, 3)
    with pytest.raises(ValueError, match="would be lost.* with thesis.txt"):
        records.write(tmp_path / "thesis.txt", [], 1, 3)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["thesis.txt", "work/thesis.txt", ".hidden"])
def test_files_beside_images_are_not_lost(name, records, folder):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")
    before = records.contents_of(folder)
    message = f"would be lost.* with {name.partition('/')[0]}"
    with pytest.raises(ValueError, match=message):
        records.write(folder, numbered(9), 2, 5)
    assert path.read_text() == "years of work"
    assert records.contents_of(folder) == before


def test_files_that_come_while_images_are_written(records, folder):
    def examples():
        yield from numbered(9)
        (folder / "thesis.txt").write_text("years of work")

    with pytest.raises(ValueError, match="would be lost.* with thesis.txt"):
        records.write(folder, examples(), 2, 5)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert sum(records.contents_of(folder)["files"].values()) == 47


def test_images_are_replaced(records, folder):
    (folder / "images-00002-of-00006.tfrecord").unlink()
    contents = records.write(folder, numbered(9), 2, 5)
    assert contents == records.contents_of(folder)
    assert len(list(folder.iterdir())) == 3
