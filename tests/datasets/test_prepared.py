"""TensorFlow Datasets: its own builders, with a few made-up images."""

import http.server
import re
import threading

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_capsules import datasets
from keras_capsules.datasets import prepared as library
from tests.helpers.datasets import arrays
from tests.helpers.datasets import assert_same_pairs
from tests.helpers.datasets import examples


def test_cifar10(prepared):
    dataset = datasets.load("cifar10", "train", data_dir=prepared)
    assert len(dataset) == 61
    assert dataset.element_spec == (
        tf.TensorSpec((32, 32, 3), "float32"),
        tf.TensorSpec((), "int32"),
    )
    images, labels = arrays(dataset)
    found = set(zip(map(np.ndarray.tobytes, images), labels, strict=True))
    assert found == {
        ((example["image"] / np.float32(255)).tobytes(), example["label"])
        for _, example in examples("cifar10", 61, seed=0)
    }


def test_smallnorb_views_are_channels(tiny_download, tmp_path):
    dataset = datasets.load("smallnorb", "test", data_dir=tmp_path)
    assert len(dataset) == 7
    assert dataset.element_spec == (
        tf.TensorSpec((96, 96, 2), "float32"),
        tf.TensorSpec((), "int32"),
    )
    expected = {}
    for _, example in examples("smallnorb", 7, seed=1):
        views = np.concatenate([example["image"], example["image2"]], axis=-1)
        image = views / np.float32(255)
        expected[image.tobytes()] = example["label_category"]
    images, labels = arrays(dataset)
    for image, label in zip(images, labels, strict=True):
        assert expected.pop(image.tobytes()) == label
    assert not expected

    small = datasets.load("smallnorb", image_size=48, data_dir=tmp_path)
    assert len(small) == 61
    assert small.element_spec[0].shape == (48, 48, 2)
    images, _ = arrays(small)
    assert 0.0 <= images.min() < images.max() <= 1.0


@pytest.mark.parametrize(
    "split",
    [
        "train",
        "test",
        "train[:80%]",
        "train[-10%:]",
        "train[33%:66%]",
        "train[33:66%]",
        "train[33%:66]",
        "train[2.5%:97.5%]",
        "train[:-40]",
        "train[-40:50]",
        "train[60:]",
        "train[:10]+test[50%:]+train[:3]",
    ],
)
def test_slices_mean_the_same_as_in_tensorflow_datasets(split, prepared):
    builder = tfds.builder("cifar10", data_dir=prepared)
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    images, labels = arrays(
        builder.as_dataset(
            split=split, as_supervised=True, read_config=read_config
        )
    )
    dataset = datasets.load("cifar10", split, data_dir=prepared)
    assert len(dataset) == len(labels)
    assert_same_pairs(dataset, images / np.float32(255), labels)


def test_order_does_not_depend_on_the_number_of_files(prepared):
    images, labels = arrays(datasets.load("cifar10", data_dir=prepared))
    for split, expected in [
        ("train", slice(None)),
        ("train[15:45]", slice(15, 45)),
        ("train[:90%]", slice(0, 55)),
        ("validation", slice(55, 61)),
        ("validation[1:3]", slice(56, 58)),
    ]:
        dataset = datasets.load("cifar10", split, data_dir=prepared)
        assert_same_pairs(dataset, images[expected], labels[expected])


def test_bounds_are_those_of_the_prepared_data(prepared):
    message = "There are 61 images to slice. Received: split='train[:62]'"
    with pytest.raises(ValueError, match=re.escape(message)):
        datasets.load("cifar10", "train[:62]", data_dir=prepared)


def test_data_dir_from_the_environment(prepared, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "probe", lambda url: "no network")
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(datasets.load("cifar10")) == 61
    assert len(datasets.load("cifar10", data_dir=str(prepared))) == 61
    with pytest.raises(ConnectionError, match=re.escape(str(tmp_path))):
        datasets.load("cifar10", data_dir=tmp_path)


def test_data_dir_in_the_home_directory(prepared, monkeypatch):
    monkeypatch.setenv("HOME", str(prepared.parent))
    folder = f"~/{prepared.name}"
    assert len(datasets.load("cifar10", data_dir=folder)) == 61
    monkeypatch.setenv("TFDS_DATA_DIR", folder)
    assert len(datasets.load("cifar10")) == 61


# Data that cannot be had.


@pytest.mark.parametrize(
    "name, host",
    [
        ("mnist", "https://storage.googleapis.com/"),
        ("fashion_mnist", "http://fashion-mnist.s3-website."),
        ("cifar10", "https://www.cs.toronto.edu/"),
        ("smallnorb", "https://cs.nyu.edu/"),
    ],
)
def test_unreachable(name, host, monkeypatch, tmp_path):
    asked = []

    def probe(url):
        asked.append(url)
        return "no route to host"

    def download_and_prepare(self):
        pytest.fail("must not be tried")

    monkeypatch.setattr(library, "probe", probe)
    builder_class = tfds.builder_cls(name)
    monkeypatch.setattr(
        builder_class, "download_and_prepare", download_and_prepare
    )
    with pytest.raises(ConnectionError) as error:
        datasets.load(name, data_dir=tmp_path)
    assert len(asked) == 1 and asked[0].startswith(host)
    message = str(error.value)
    folder = f"{name}/{builder_class.VERSION}"
    for part in (
        f"The data set '{name}' is not in {tmp_path / folder}, and {asked[0]} "
        "cannot be reached (no route to host).",
        "set `data_dir`, or the environment variable TFDS_DATA_DIR, to a "
        f"folder that holds {folder};",
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='DIR').download_and_prepare()\"",
        'use `load("digits")`, which needs no download.',
    ):
        assert part in message
    assert not list(tmp_path.iterdir())


def test_download_is_done_once(tiny_download, monkeypatch, tmp_path):
    assert len(datasets.load("cifar10", "test", data_dir=tmp_path)) == 7
    monkeypatch.setattr(library, "probe", lambda url: "no network")
    assert len(datasets.load("cifar10", "train", data_dir=tmp_path)) == 61


def test_failed_download_keeps_its_error(monkeypatch, tmp_path):
    def download_and_prepare(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(library, "probe", lambda url: None)
    monkeypatch.setattr(
        tfds.builder_cls("cifar10"),
        "download_and_prepare",
        download_and_prepare,
    )
    with pytest.raises(OSError, match="No space left on device") as error:
        datasets.load("cifar10", data_dir=tmp_path)
    assert "The data set 'cifar10' is not in" in error.value.__notes__[0]
    assert 'use `load("digits")`' in error.value.__notes__[0]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404 if "gone" in self.path else 200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["file", "gone"])
def test_probe_takes_any_answer(path, server):
    host, port = server.server_address
    assert library.probe(f"http://{host}:{port}/{path}") is None


def test_probe_of_a_closed_port(server):
    host, port = server.server_address
    server.shutdown()
    server.server_close()
    assert "refused" in library.probe(f"http://{host}:{port}/")


def test_probe_gives_up_in_time(monkeypatch):
    done = threading.Event()

    def look_up_forever(url, timeout):
        done.wait(10)
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", look_up_forever)
    problem = library.probe("http://example.org", seconds=0.1)
    done.set()
    assert problem == "timed out after 0.1 seconds"
