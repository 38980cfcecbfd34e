"""Pairs of data sets as arrays, and made-up examples."""

import os
import pathlib

import numpy as np
import pytest

from keras_capsules.datasets.catalogue import CATALOGUE
from tests.helpers.testing import skip_unless_ci

NAMES = tuple(CATALOGUE)
PREPARED_NAMES = tuple(name for name in NAMES if name != "digits")


def arrays(dataset):
    """Returns all the images and all the labels of a data set."""
    images, labels = dataset.batch(len(dataset)).get_single_element()
    return images.numpy(), labels.numpy()


def assert_same_pairs(dataset, images, labels):
    actual_images, actual_labels = arrays(dataset)
    np.testing.assert_array_equal(actual_images, images)
    np.testing.assert_array_equal(actual_labels, labels)


def examples(name, count, seed):
    """Yields examples as the builder of `name` would read them from files."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        if name == "cifar10":
            image = rng.integers(0, 256, (32, 32, 3), "uint8")
            yield index, {"id": str(index), "image": image, "label": index % 10}
        else:
            views = rng.integers(0, 256, (2, 96, 96, 1), "uint8")
            yield (
                index,
                {
                    "image": views[0],
                    "image2": views[1],
                    "label_category": index % 5,
                    # Not to be taken for the category.
                    "instance": 9,
                    "label_elevation": 8,
                    "label_azimuth": 17,
                    "label_lighting": 5,
                },
            )


def real_data_dir(name):
    """The folder with the real data set, or else skips the test."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder:
        pytest.skip("TFDS_DATA_DIR names no folder with real data")
    if not any(pathlib.Path(folder).glob(f"{name}/*/features.json")):
        skip_unless_ci(f"{name} is not in TFDS_DATA_DIR={folder}")
    return folder
