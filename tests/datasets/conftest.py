"""Small data sets that TensorFlow Datasets' own builders make."""

import pytest
import tensorflow_datasets as tfds

from keras_capsules.datasets import prepared as library
from tests.helpers.datasets import examples


@pytest.fixture
def tiny_download(monkeypatch):
    """Makes the real builders find a few examples instead of downloading."""
    monkeypatch.setattr(library, "probe", lambda url: None)
    for name in ("cifar10", "smallnorb"):
        monkeypatch.setattr(
            tfds.builder_cls(name),
            "_split_generators",
            lambda self, manager: {
                "train": examples(self.name, 61, seed=0),
                "test": examples(self.name, 7, seed=1),
            },
        )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a small "cifar10", its training split in three files."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            tfds.builder_cls("cifar10"),
            "_split_generators",
            lambda self, manager: {
                "train": examples(self.name, 61, seed=0),
                "test": examples(self.name, 7, seed=1),
            },
        )
        tfds.builder("cifar10", data_dir=folder).download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=3)
        )
    return folder
