"""scikit-learn's digits, and splits of them."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets as sklearn_datasets

from keras_capsules import datasets
from keras_capsules.datasets import digits
from tests.helpers.datasets import arrays
from tests.helpers.datasets import assert_same_pairs


@pytest.mark.parametrize(
    "split, size", [("train", 1437), ("test", 360), ("validation", 144)]
)
def test_digits(split, size):
    dataset = datasets.load("digits", split)
    assert len(dataset) == size
    assert dataset.element_spec == (
        tf.TensorSpec((8, 8, 1), "float32"),
        tf.TensorSpec((), "int32"),
    )
    images, labels = arrays(dataset)
    assert images.shape == (size, 8, 8, 1)
    assert images.min() == 0.0 and images.max() == 1.0
    # Sixteenths, so that nothing of the scans is lost.
    np.testing.assert_array_equal(images * 16, np.round(images * 16))
    assert set(labels) == set(range(10))


def test_digits_train_is_the_default():
    dataset = datasets.load("digits")
    assert_same_pairs(dataset, *arrays(datasets.load("digits", "train")))


def test_digits_splits_share_nothing_and_lose_nothing():
    labels = sklearn_datasets.load_digits().target
    indices = digits.split_indices(labels)
    assert set(indices) == {"train", "test"}
    together = np.concatenate([indices["train"], indices["test"]])
    np.testing.assert_array_equal(np.sort(together), np.arange(1797))
    for name, chosen in indices.items():
        _, loaded = arrays(datasets.load("digits", name))
        np.testing.assert_array_equal(loaded, labels[chosen])


def test_digits_images_belong_to_their_labels():
    scans = sklearn_datasets.load_digits()
    images, labels = arrays(datasets.load("digits", "train+test"))
    actual = np.column_stack([images.reshape(-1, 64) * 16, labels])
    expected = np.column_stack([scans.data, scans.target])
    np.testing.assert_array_equal(
        actual[np.lexsort(actual.T)], expected[np.lexsort(expected.T)]
    )


def test_digits_classes_are_balanced():
    _, train = arrays(datasets.load("digits", "train"))
    _, test = arrays(datasets.load("digits", "test"))
    np.testing.assert_array_equal(np.bincount(test), 36)
    assert np.bincount(train).min() >= 138
    assert np.bincount(train).max() <= 147
    # The order is no order: every part has all the digits.
    for part in np.array_split(train, 10):
        assert np.bincount(part, minlength=10).min() >= 4


def test_digits_are_the_same_everywhere():
    # Golden values: another machine or version has to find the same splits.
    for split, expected in [("train", 2660304754), ("test", 3854073945)]:
        images, labels = arrays(datasets.load("digits", split))
        pixels = (images * 16).astype("uint8").tobytes()
        checksum = zlib.crc32(labels.astype("uint8").tobytes() + pixels)
        assert checksum == expected


@pytest.mark.parametrize(
    "split, expected",
    [
        ("train[:80%]", slice(0, 1150)),  # 1149.6 images
        ("train[80%:]", slice(1150, 1437)),
        ("train[:90%]", slice(0, 1293)),
        ("validation", slice(1293, 1437)),
        ("validation[:50%]", slice(1293, 1365)),
        ("validation[-10:]", slice(1427, 1437)),
        ("train[1000:]", slice(1000, None)),
        ("train[:-1000]", slice(None, -1000)),
        ("train[-10%:]", slice(-144, None)),
        ("train[-20%:-10%]", slice(-287, -144)),
        ("train[12.5%:25%]", slice(180, 359)),
        ("train[10:20]", slice(10, 20)),
        ("train[1_000:1_010]", slice(1000, 1010)),
        ("train[:]", slice(None)),
        ("train[0:1437]", slice(None)),
    ],
)
def test_digits_slices(split, expected):
    images, labels = arrays(datasets.load("digits", "train"))
    dataset = datasets.load("digits", split)
    assert len(dataset) == len(labels[expected])
    assert_same_pairs(dataset, images[expected], labels[expected])


def test_digits_sum_of_splits():
    train = arrays(datasets.load("digits", "train"))
    test = arrays(datasets.load("digits", "test"))
    dataset = datasets.load("digits", "train[:100] + test[50%:]+train[5:3]")
    assert len(dataset) == 280
    assert_same_pairs(
        dataset,
        *(
            np.concatenate([a[:100], b[180:]])
            for a, b in zip(train, test, strict=True)
        ),
    )
