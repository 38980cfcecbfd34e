"""The order of examples that are made of images, and what is made of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import datasets
from keras_capsules.datasets import overlapping
from keras_capsules.datasets import splits
from keras_capsules.datasets import viewpoints
from keras_capsules.training import running
from keras_capsules.training import tasks
from keras_capsules.training.settings import Settings
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend
NUMBER = 29


@pytest.fixture
def few(monkeypatch):
    """Squares, whose brightness says which one it is."""
    monkeypatch.setattr(tasks, "_number_of_digits", lambda validated: NUMBER)
    images = np.zeros((NUMBER, 11, 11, 1), "float32")
    images[:, 4:7, 4:7] = np.arange(1, NUMBER + 1)[:, None, None, None] / 64
    labels = np.arange(NUMBER, dtype="int32") % 10
    for module in (overlapping, viewpoints):
        monkeypatch.setattr(
            module, "load_arrays", lambda *_, **__: (images, labels)
        )


def numbers(task, first, last):
    """Which images are first in examples: of pairs, the first target."""
    found = []
    for image, labels in task.train(first, last).as_numpy_iterator():
        if isinstance(labels, dict):
            image = labels["targets"][0]
        found.append(round(64 * float(image.max())) - 1)
    return found


@pytest.mark.parametrize("name", ["affine_mnist", "multi_mnist"])
def test_each_pass_and_each_seed_has_another_order(few, name):
    task = tasks.get(name, 5, validated=False)
    assert task.num_examples == NUMBER
    first = numbers(task, 0, NUMBER)
    second = numbers(task, NUMBER, 2 * NUMBER)
    assert sorted(first) == sorted(second) == list(range(NUMBER))
    other = numbers(tasks.get(name, 6, validated=False), 0, NUMBER)
    for one, two in ((first, second), (first, other)):
        assert np.mean(np.array(one) != two) > 0.7
    # From anywhere, as it would have gone on.
    assert numbers(task, 3, NUMBER + 4) == first[3:] + second[:4]
    assert numbers(tasks.get(name, 5, validated=False), 3, 5) == first[3:5]


def test_any_order(few):
    for make in (datasets.affine_mnist, datasets.multi_mnist):
        chosen = tf.data.Dataset.from_tensor_slices([70, 3, 1_000_000])
        chosen = chosen.map(lambda x: tf.cast(x, "int64"))
        found = [x for x, _ in make(indices=chosen).as_numpy_iterator()]
        assert len(found) == 3
        whole = make(**{_VERSIONS[make]: 3})
        everything = [x for x, _ in whole.as_numpy_iterator()]
        np.testing.assert_array_equal(found[0], everything[70])
        np.testing.assert_array_equal(found[1], everything[3])
        labels = [y for _, y in make(indices=chosen).as_numpy_iterator()]
        all_labels = [y for _, y in whole.as_numpy_iterator()]
        for label, place in zip(labels, (70, 3), strict=False):
            keras.tree.map_structure(
                np.testing.assert_array_equal, label, all_labels[place]
            )


@pytest.mark.parametrize("name", ["affine_mnist", "multi_mnist"])
def test_images_are_loaded_once(few, name, tmp_path, monkeypatch):
    """However many epochs there are, and once for what is validated."""
    loads = []
    for module in (overlapping, viewpoints):

        def load(split, *_, old=module.load_arrays, **__):
            loads.append(split)
            images, labels = old()
            return np.pad(images, [(0, 0), (8, 9), (8, 9), (0, 0)]), labels

        monkeypatch.setattr(module, "load_arrays", lambda _, x, **__: load(x))
    settings = {"network": "conv_net", "task": name, "epochs": 3}
    settings |= {"options": {"filters": [5], "units": [7]}, "batch_size": 13}
    running.train(Settings(**settings), tmp_path)
    assert sorted(loads) == ["train[:90%]", "validation"]


def test_the_number_of_examples():
    numbers = datasets.info("mnist").num_examples
    for validated, split in tasks.SPLITS.items():
        ranges = splits.resolve_split(split, numbers)
        length = sum(stop - start for _, start, stop in ranges)
        assert tasks._number_of_digits(validated) == length


def test_indices_are_a_data_set_of_integers(few):
    for make in (datasets.affine_mnist, datasets.multi_mnist):
        pairs = tf.data.Dataset.from_tensors((1, 2))
        for wrong in ([70, 3], pairs, tf.data.Dataset.from_tensors(0.5)):
            with pytest.raises(ValueError, match="int64 scalars.*: indices="):
                make(indices=wrong)


_VERSIONS = {
    datasets.affine_mnist: "versions",
    datasets.multi_mnist: "pairs_per_image",
}


def test_what_is_only_placed_is_not_turned(few, monkeypatch):
    """It would be the same, but takes as long as all others."""
    options = {"versions": 1, "shear": 0, "scale": (1, 1), "seed": 3}
    placed = datasets.affine_mnist("train", rotation=0, **options)
    turned = datasets.affine_mnist("train", rotation=1e-12, **options)
    for (one, _), (two, _) in zip(placed, turned, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    monkeypatch.setattr(viewpoints, "moved", None)
    again = datasets.affine_mnist("train", rotation=0, **options)
    for (one, _), (two, _) in zip(placed, again, strict=True):
        np.testing.assert_array_equal(one, two)
