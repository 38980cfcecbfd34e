import dataclasses
import doctest
import http.server
import importlib.util
import os
import pathlib
import re
import sys
import threading
import zlib

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn import datasets as sklearn_datasets

from keras_capsules import datasets
from keras_capsules.datasets import loading

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "smallnorb")
PREPARED_NAMES = NAMES[1:]


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


@pytest.fixture
def tiny_download(monkeypatch):
    """Makes the real builders find a few examples instead of downloading."""
    monkeypatch.setattr(loading, "_probe", lambda url: None)
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


def real_data_dir(name):
    """Returns a folder with the real data set, or skips the test."""
    beside_checkout = pathlib.Path(__file__).parents[3] / "shared" / "tfds"
    for folder in (os.environ.get("TFDS_DATA_DIR"), beside_checkout):
        if folder and any(pathlib.Path(folder).glob(f"{name}/*/features.json")):
            return folder
    pytest.skip(f"{name} is not in the folder that TFDS_DATA_DIR names")


# What can be known without the data.


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
    expected = tfds.builder(name, data_dir=tmp_path).info
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
    if name in ("fashion_mnist", "smallnorb"):  # not known before a download
        assert list(info.class_names) == label.names


@pytest.mark.parametrize("function", [datasets.info, datasets.load])
@pytest.mark.parametrize("name", ["emnist", "MNIST", "", None, 3])
def test_unknown_name(function, name):
    message = (
        "Invalid value for argument `name`. Expected one of 'digits', "
        "'mnist', 'fashion_mnist', 'cifar10', 'smallnorb'. "
        f"Received: name={name!r}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        function(name)


def test_examples_in_docstrings():
    results = doctest.testmod(loading)
    assert results.attempted > 5
    assert results.failed == 0


# Digits.


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
    indices = loading._digits_indices(labels)
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
        f"or a pair of them. Received: image_size={image_size!r}"
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
        "Install what all data sets need with `pip install "
        "tensorflow-datasets importlib_resources scikit-learn`."
    )
    with pytest.raises(ImportError, match=re.escape(message)):
        datasets.load(name)


def test_import_needs_no_extras(monkeypatch):
    for module in ("sklearn", "tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    spec = importlib.util.spec_from_file_location("anew", loading.__file__)
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    assert anew.info("cifar10").num_classes == 10


# TensorFlow Datasets: its own builders, with a few made-up images.


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
    monkeypatch.setattr(loading, "_probe", lambda url: "no network")
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

    monkeypatch.setattr(loading, "_probe", probe)
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
    monkeypatch.setattr(loading, "_probe", lambda url: "no network")
    assert len(datasets.load("cifar10", "train", data_dir=tmp_path)) == 61


def test_failed_download_keeps_its_error(monkeypatch, tmp_path):
    def download_and_prepare(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(loading, "_probe", lambda url: None)
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
    assert loading._probe(f"http://{host}:{port}/{path}") is None


def test_probe_of_a_closed_port(server):
    host, port = server.server_address
    server.shutdown()
    server.server_close()
    assert "refused" in loading._probe(f"http://{host}:{port}/")


def test_probe_gives_up_in_time(monkeypatch):
    done = threading.Event()

    def look_up_forever(url, timeout):
        done.wait(10)
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", look_up_forever)
    problem = loading._probe("http://example.org", seconds=0.1)
    done.set()
    assert problem == "timed out after 0.1 seconds"


# The real ones.


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
