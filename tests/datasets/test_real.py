"""The real data sets, where `TFDS_DATA_DIR` names a folder with them."""

import numpy as np
import tensorflow_datasets as tfds

from keras_capsules import datasets
from tests.helpers.datasets import arrays
from tests.helpers.datasets import assert_same_pairs
from tests.helpers.datasets import real_data_dir


def test_mnist():
    data_dir = real_data_dir("mnist")
    train = datasets.load("mnist", "train", data_dir=data_dir)
    test = datasets.load("mnist", "test", data_dir=data_dir)
    assert (len(train), len(test)) == (60000, 10000)
    start = datasets.load("mnist", "train[:10]", data_dir=data_dir)
    _, labels = arrays(start)
    assert labels.tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]

    images, labels = arrays(test)
    assert images.shape == (10000, 28, 28, 1)
    assert images.min() == 0.0 and images.max() == 1.0
    assert abs(images.mean() - 0.1325) < 1e-4
    assert np.bincount(labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    part = datasets.load("mnist", "test[-10:]", data_dir=data_dir)
    assert_same_pairs(part, images[-10:], labels[-10:])


def test_fashion_mnist():
    data_dir = real_data_dir("fashion_mnist")
    train = datasets.load("fashion_mnist", data_dir=data_dir)
    test = datasets.load("fashion_mnist", "test", data_dir=data_dir)
    assert (len(train), len(test)) == (60000, 10000)
    _, labels = arrays(test)
    assert np.bincount(labels).tolist() == [1000] * 10
    validation = datasets.load("fashion_mnist", "validation", data_dir=data_dir)
    assert len(validation) == 6000
    builder = tfds.builder("fashion_mnist", data_dir=data_dir)
    names = builder.info.features["label"].names
    assert list(datasets.info("fashion_mnist").class_names) == names


def test_cifar10():
    data_dir = real_data_dir("cifar10")
    images, labels = datasets.load_arrays("cifar10", "test", data_dir=data_dir)
    assert images.shape == (10000, 32, 32, 3)
    assert images.min() == 0.0 and images.max() == 1.0
    assert np.bincount(labels).tolist() == [1000] * 10
    train = datasets.load("cifar10", data_dir=data_dir)
    validation = datasets.load("cifar10", "validation", data_dir=data_dir)
    assert (len(train), len(validation)) == (50000, 5000)
