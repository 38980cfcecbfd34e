"""Facts that are known without the data."""

import dataclasses
import doctest
import re

import pytest
import tensorflow_datasets as tfds

from keras_capsules import datasets
from keras_capsules.datasets import loading
from tests.helpers.datasets import NAMES
from tests.helpers.datasets import PREPARED_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_info(name):
    info = datasets.info(name)
    assert isinstance(info, datasets.DatasetInfo)
    assert info.name == name
    assert info.num_classes == len(set(info.class_names))
    sizes = info.num_examples
    assert sizes["train"] == info.num_train
    assert sizes["test"] == info.num_test
    assert sizes["validation"] == info.num_train - round(0.9 * info.num_train)
    for text in (info.homepage, info.license, info.citation):
        assert isinstance(text, str) and text


def test_info_cannot_be_changed():
    info = datasets.info("mnist")
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.num_train = 1
    info.num_examples["train"] = 1
    assert datasets.info("mnist").num_examples["train"] == 60000


@pytest.mark.parametrize("name", PREPARED_NAMES)
def test_info_agrees_with_tensorflow_datasets(name, tmp_path):
    info = datasets.info(name)
    builder = tfds.builder(name, data_dir=tmp_path)
    expected = builder.info
    channels = sum(
        feature.shape[-1]
        for feature in expected.features.values()
        if isinstance(feature, tfds.features.Image)
    )
    label = expected.features[expected.supervised_keys[1]]
    assert info.image_shape[:2] == expected.features["image"].shape[:2]
    assert info.image_shape[2] == channels
    assert info.num_classes == label.num_classes
    assert info.homepage == expected.homepage
    sizes = [each.size for each in builder.url_infos.values()]
    assert info.download_size == sum(sizes)
    if name in ("fashion_mnist", "smallnorb"):  # not known before a download
        assert list(info.class_names) == label.names


@pytest.mark.parametrize("function", [datasets.info, datasets.load])
@pytest.mark.parametrize("name", ["emnist", "MNIST", "", None, 3])
def test_unknown_name(function, name):
    message = (
        "Invalid value for argument `name`. Expected one of "
        f"{', '.join(map(repr, NAMES))}. Received: name={name!r}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        function(name)


def test_examples_in_docstrings():
    results = doctest.testmod(loading)
    assert results.attempted > 5
    assert results.failed == 0
