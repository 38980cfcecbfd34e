"""Arguments of `load`, and images as arrays."""

import importlib
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_capsules
from keras_capsules import datasets
from tests.helpers.datasets import arrays
from tests.helpers.datasets import assert_same_pairs

# Invalid arguments. "cifar10" is not there, yet they are noticed at once.


@pytest.mark.parametrize("name", ["digits", "cifar10"])
@pytest.mark.parametrize(
    "split",
    [
        "",
        "all",
        "Train",
        "training",
        "train ",
        "train[",
        "train[]",
        "train[5]",
        "train[%:]",
        "train[a:b]",
        "train[1:2:3]",
        "train[:1shard]",
        "train[:1.5]",
        "train[..:]",
        "train+",
        "train,test",
        None,
        5,
        ["train", "test"],
    ],
)
def test_invalid_split(name, split, tmp_path):
    message = (
        "Invalid value for argument `split`. Expected 'train', 'test' or "
        "'validation', a slice such as 'train[:90%]' or 'test[-100:]', or a "
        f"sum of such parts with '+'. Received: split={split!r}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        datasets.load(name, split, data_dir=tmp_path)


@pytest.mark.parametrize(
    "part, size",
    [
        ("train[:1438]", 1437),
        ("train[-1438:]", 1437),
        ("train[:101%]", 1437),
        ("test[-100.5%:]", 360),
        ("validation[145:]", 144),
    ],
)
def test_split_out_of_bounds(part, size):
    message = f"There are {size} images to slice. Received: split='test+{part}'"
    with pytest.raises(ValueError, match=re.escape(message)):
        datasets.load("digits", f"test+{part}")


@pytest.mark.parametrize(
    "split",
    [
        "train[5:5]",
        "train[9:5]",
        "test[:0%]",
        "train[1437:]",
        "test[:0]+test[0:0]",
    ],
)
def test_empty_split(split):
    message = f"This one holds no images. Received: split={split!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        datasets.load("digits", split)


@pytest.mark.parametrize(
    "image_size", [0, -8, 28.0, "28", (28,), (28, 0), (28, 28, 1), True]
)
def test_invalid_image_size(image_size):
    message = (
        "Invalid value for argument `image_size`. Expected a positive integer "
        f"or a tuple of 2 of them. Received: image_size={image_size!r}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        datasets.load("digits", image_size=image_size)


# Image sizes.


@pytest.mark.parametrize(
    "image_size, shape",
    [(28, (28, 28)), ((13, 11), (13, 11)), ([4, 3], (4, 3))],
)
def test_image_size(image_size, shape):
    dataset = datasets.load("digits", "test", image_size=image_size)
    assert dataset.element_spec[0] == tf.TensorSpec((*shape, 1), "float32")
    images, labels = arrays(dataset)
    original, expected_labels = arrays(datasets.load("digits", "test"))
    expected = tf.image.resize(original, shape, "bilinear", antialias=True)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, expected_labels)
    assert images.min() >= 0.0 and images.max() <= 1.0


@pytest.mark.parametrize("image_size", [8, (8, 8)])
def test_image_size_of_the_data_set_changes_nothing(image_size):
    dataset = datasets.load("digits", "test", image_size=image_size)
    assert_same_pairs(dataset, *arrays(datasets.load("digits", "test")))


# Packages that are not installed.


def test_digits_do_not_need_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert len(datasets.load("digits", "train[:10%]+test")) == 504


@pytest.mark.parametrize(
    "name, module, package",
    [
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("mnist", "tensorflow_datasets", "tensorflow-datasets"),
    ],
)
def test_missing_package(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    message = (
        f"The data set '{name}' needs {package}. "
        "Install the extra for data sets: `pip install "
        "'keras-capsules[datasets]'`, or in a clone `pip install "
        "'.[datasets]'`."
    )
    with pytest.raises(ImportError, match=re.escape(message)):
        datasets.load(name)


def test_import_needs_no_extras(monkeypatch):
    # Restored afterwards, because the import sets it.
    monkeypatch.setattr(keras_capsules, "datasets", datasets)
    for module in ("sklearn", "tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in list(sys.modules):
        if module.startswith("keras_capsules.datasets"):
            monkeypatch.delitem(sys.modules, module)
    anew = importlib.import_module("keras_capsules.datasets")
    assert anew is not datasets
    assert anew.info("cifar10").num_classes == 10


# Arrays.


@pytest.mark.parametrize("image_size", [None, 5])
def test_load_arrays(image_size):
    found = datasets.load_arrays("digits", "test[:7]", image_size=image_size)
    images, labels = found
    assert type(images) is np.ndarray and type(labels) is np.ndarray
    assert images.shape == (7, image_size or 8, image_size or 8, 1)
    assert (images.dtype, labels.dtype) == ("float32", "int32")
    dataset = datasets.load("digits", "test[:7]", image_size=image_size)
    assert_same_pairs(dataset, images, labels)


def test_load_arrays_of_the_training_split():
    images, labels = datasets.load_arrays("digits")
    assert len(images) == len(labels) == 1437
    assert images.min() == 0 and images.max() == 1


def test_load_arrays_from_a_folder(prepared):
    images, labels = datasets.load_arrays("cifar10", data_dir=prepared)
    assert images.shape == (61, 32, 32, 3)
    dataset = datasets.load("cifar10", data_dir=prepared)
    assert_same_pairs(dataset, images, labels)


@pytest.mark.parametrize("data_dir", [5, ["folder"]], ids=repr)
def test_data_dir_that_is_no_path(data_dir):
    with pytest.raises(
        ValueError, match="path of a folder.*Received: data_dir"
    ):
        datasets.load("mnist", data_dir=data_dir)
