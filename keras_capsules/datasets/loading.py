"""The data sets of the capsule literature, as `tf.data.Dataset`s."""

import dataclasses
import os
import re
import threading

import numpy as np

from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer_pair

# TensorFlow, TensorFlow Datasets and scikit-learn are imported where they are
# used: `import keras_capsules` stays light and works without the extras.

_PROBE_SECONDS = 5.0

_REMEDY = (
    "Install what all data sets need with `pip install tensorflow-datasets "
    "importlib_resources scikit-learn`."
)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before it is loaded.

    Attributes:
        name: String, the name that `load` takes.
        image_shape: Tuple of integers, `(height, width, channels)` as stored.
        class_names: Tuple of strings; label `k` means `class_names[k]`.
        num_train: Integer, the number of training images.
        num_test: Integer, the number of test images.
        homepage: String, the address of the data set's own page.
        license: String, the terms that the authors state.
        citation: String, the publication to cite.
    """

    name: str
    image_shape: tuple
    class_names: tuple
    num_train: int
    num_test: int
    homepage: str
    license: str
    citation: str

    @property
    def num_classes(self):
        """Integer, the number of classes."""
        return len(self.class_names)

    @property
    def num_examples(self):
        """Dictionary, the number of images in each split."""
        sizes = {"train": self.num_train, "test": self.num_test}
        start, stop = _validation_range(self.num_train)
        return {**sizes, "validation": stop - start}


_INFOS = (
    DatasetInfo(
        name="digits",
        image_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        num_train=1437,
        num_test=360,
        homepage="https://archive.ics.uci.edu/dataset/80/"
        "optical+recognition+of+handwritten+digits",
        license="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak. Cascading Classifiers. "
        "Kybernetika, 1998.",
    ),
    DatasetInfo(
        name="mnist",
        image_shape=(28, 28, 1),
        class_names=tuple("0123456789"),
        num_train=60000,
        num_test=10000,
        homepage="http://yann.lecun.com/exdb/mnist/",
        license="CC BY-SA 3.0",
        citation="Y. LeCun, C. Cortes, C. J. C. Burges. MNIST handwritten "
        "digit database. 2010.",
    ),
    DatasetInfo(
        name="fashion_mnist",
        image_shape=(28, 28, 1),
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        num_train=60000,
        num_test=10000,
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        license="MIT",
        citation="H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST: a Novel "
        "Image Dataset for Benchmarking Machine Learning Algorithms. "
        "arXiv:1708.07747, 2017.",
    ),
    DatasetInfo(
        name="cifar10",
        image_shape=(32, 32, 3),
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        num_train=50000,
        num_test=10000,
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated",
        citation="A. Krizhevsky. Learning Multiple Layers of Features from "
        "Tiny Images. Technical report, University of Toronto, 2009.",
    ),
    DatasetInfo(
        name="smallnorb",
        image_shape=(96, 96, 2),
        class_names=(
            "four-legged animals",
            "human figures",
            "airplanes",
            "trucks",
            "cars",
        ),
        num_train=24300,
        num_test=24300,
        homepage="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        license="for research purposes; it cannot be sold",
        citation="Y. LeCun, F. J. Huang, L. Bottou. Learning Methods for "
        "Generic Object Recognition with Invariance to Pose and Lighting. "
        "CVPR, 2004.",
    ),
)


def info(name):
    """Returns the facts about a data set, without loading or downloading it.

    Args:
        name: String, one of `"digits"`, `"mnist"`, `"fashion_mnist"`,
            `"cifar10"` and `"smallnorb"`.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: If there is no such data set.

    Example:

    >>> from keras_capsules import datasets
    >>> datasets.info("smallnorb").image_shape
    (96, 96, 2)
    >>> datasets.info("digits").num_examples
    {'train': 1437, 'test': 360, 'validation': 144}
    """
    infos = {facts.name: facts for facts in _INFOS}
    return infos[check_choice(name, "name", tuple(infos))]


def load(name, split="train", *, image_size=None, data_dir=None):
    """Loads a data set as single `(image, label)` pairs.

    The pairs come in a fixed order, the same at every call; cache, shuffle and
    batch them as you like. The shapes are static and the number of pairs is
    known, so that `len(dataset)` works.

    The names are:

    - `"digits"`: 8x8 scans of handwritten digits, the ones of scikit-learn's
        `load_digits`. They come with scikit-learn, so nothing is downloaded.
        The original file has no test images, and runs of neighbours in it are
        by the same writer. Here 36 scans of each digit, drawn at random but
        always the same ones, are the test split and the others the training
        split, both shuffled. A writer is therefore found in both, and test
        accuracy is higher than it would be on unseen writers.
    - `"mnist"`: 28x28 handwritten digits.
    - `"fashion_mnist"`: 28x28 grey pictures of clothing.
    - `"cifar10"`: 32x32 colour photographs of animals and vehicles.
    - `"smallnorb"`: 96x96 grey photographs of toys by two cameras. As in Sabour
        et al. (2017) the two views are the two channels of one image, and the
        label is the toy's category. Works that feed the views as separate
        images count twice as many, and their accuracies are not comparable.
        The toys in the test split are none of those in the training split;
        those in its last tenth are the same toys in other poses.

    All but the first come through TensorFlow Datasets, which downloads a data
    set the first time it is asked for. `info(name)` has classes, sizes,
    licences and citations.

    A validation set has to be held out of the training split, which none of
    the data sets does by itself: train on `"train[:90%]"` and validate on
    `"validation"`, which is short for `"train[90%:]"`. `"train"` is always the
    whole training split, thus contains `"validation"`.

    Args:
        name: String, the name of the data set.
        split: String: `"train"`, `"test"` or `"validation"`, a slice of one in
            the notation of TensorFlow Datasets, such as `"train[:80%]"`,
            `"train[5000:]"` or `"test[-10%:]"`, or a sum of them, such as
            `"train[:100]+test"`. Percentages are rounded to the nearest image.
        image_size: Integer, or pair of integers `(height, width)`, in pixels.
            Images of another size are resized bilinearly, with antialiasing.
            `None` keeps the size as it is. Defaults to `None`.
        data_dir: Path of the folder in which TensorFlow Datasets looks for
            prepared data and puts what it downloads. `None` means the folder
            that the environment variable `TFDS_DATA_DIR` names, and without
            one `~/tensorflow_datasets`. `"digits"` does not use it. Defaults
            to `None`.

    Returns:
        A `tf.data.Dataset` of pairs `(image, label)`: `image` is float32 with
        shape `(height, width, channels)` and values from 0 to 1, `label` is an
        int32 scalar.

    Raises:
        ValueError: If there is no such data set, or the split or the size is
            not valid, or the split holds no images.
        ImportError: If scikit-learn (for `"digits"`) or TensorFlow Datasets
            (for all others) is not installed.
        ConnectionError: If the data set is not in the folder and the server it
            comes from cannot be reached. This takes seconds, not minutes.

    Example:

    >>> from keras_capsules import datasets
    >>> train = datasets.load("digits", "train[:90%]", image_size=28)
    >>> len(train)
    1293
    >>> train.element_spec[0].shape
    TensorShape([28, 28, 1])
    >>> batches = train.cache().shuffle(len(train)).batch(32).prefetch(2)
    >>> validation = datasets.load("digits", "validation", image_size=28)
    >>> len(validation)
    144
    """
    facts = info(name)
    # A slip in the split is better reported before a long download.
    _parse_split(split)
    if image_size is not None:
        image_size = check_integer_pair(image_size, "image_size")

    import tensorflow as tf

    if name == "digits":
        dataset, white = _load_digits(facts, split), 16.0
    else:
        dataset, white = _load_prepared(facts, split, data_dir), 255.0

    def convert(image, label):
        image = tf.cast(image, "float32") / white
        if image_size is not None and image_size != facts.image_shape[:2]:
            image = tf.image.resize(image, image_size, antialias=True)
            # Rounding may carry the interpolated values just over 1.
            image = tf.clip_by_value(image, 0.0, 1.0)
        return image, tf.cast(label, "int32")

    return dataset.map(convert, tf.data.AUTOTUNE)


# Splits.

_PART = re.compile(
    r"""(?P<name>train|test|validation)
    (?:\[
        (?:(?P<start>-?[\d_.]+)(?P<start_unit>%)?)? :
        (?:(?P<stop>-?[\d_.]+)(?P<stop_unit>%)?)?
    \])?""",
    re.VERBOSE,
)


def _parse_split(split):
    """Returns `split` as `(name, start, stop, percent)`s."""
    if not isinstance(split, str):
        raise _split_error(split)
    parts = []
    for text in re.split(r"\s*\+\s*", split):
        match = _PART.fullmatch(text)
        if not match:
            raise _split_error(split)
        # One percent sign is enough, on either side of the colon.
        percent = bool(match["start_unit"] or match["stop_unit"])
        number = float if percent else int
        try:
            start, stop = (
                None if bound is None else number(bound)
                for bound in match.group("start", "stop")
            )
        except ValueError:
            raise _split_error(split) from None
        parts.append((match["name"], start, stop, percent))
    return parts


def _resolve_split(split, sizes):
    """Returns `split` as `(name, start, stop)`s, in TensorFlow Datasets' way.

    `sizes` has the number of images in `"train"` and in `"test"`. The same
    notation has to work for "digits", without TensorFlow Datasets.
    """
    ranges = []
    for name, start, stop, percent in _parse_split(split):
        first, last = 0, sizes.get(name)
        if name == "validation":
            name = "train"
            first, last = _validation_range(sizes["train"])
        size = last - first
        limit = 100 if percent else size
        if max(abs(start or 0), abs(stop or 0)) > limit:
            raise _split_error(split, f" There are {size} images to slice.")
        start = 0 if start is None else _index(start, size, percent)
        stop = size if stop is None else _index(stop, size, percent)
        if start < stop:
            ranges.append((name, first + start, first + stop))
    if not ranges:
        raise _split_error(split, " This one holds no images.")
    return ranges


def _validation_range(num_train):
    """Returns the part of the training images that is "validation"."""
    return _index(90, num_train, percent=True), num_train


def _index(bound, size, percent):
    """Returns the index in a split of `size` images that `bound` stands for."""
    index = round(bound * size / 100.0) if percent else bound
    return index + size if index < 0 else index


def _split_error(split, detail=""):
    return ValueError(
        "Invalid value for argument `split`. Expected 'train', 'test' or "
        "'validation', a slice such as 'train[:90%]' or 'test[-100:]', or a "
        f"sum of such parts with '+'.{detail} Received: split={split!r}"
    )


# scikit-learn's digits.


def _load_digits(facts, split):
    import tensorflow as tf

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"The data set 'digits' needs scikit-learn. {_REMEDY}"
        ) from error

    images, labels = load_digits(return_X_y=True)
    images = images.reshape((-1, *facts.image_shape)).astype("float32")
    indices = _digits_indices(labels)
    chosen = np.concatenate(
        [
            indices[name][start:stop]
            for name, start, stop in _resolve_split(split, facts.num_examples)
        ]
    )
    return tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen]))


def _digits_indices(labels):
    """Returns which scans, in scikit-learn's order, are in which split."""
    # NumPy promises that the stream of this generator never changes.
    generator = np.random.RandomState(0)
    order = generator.permutation(len(labels))
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels[order] == label)[:36]] = True
    # Once more, because the scans above are missing from the beginning only.
    return {
        "train": generator.permutation(order[~is_test]),
        "test": generator.permutation(order[is_test]),
    }


# TensorFlow Datasets.


def _load_prepared(facts, split, data_dir):
    # TensorFlow Datasets reads the variable only once, when it is imported,
    # and would make a folder called "~".
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
    try:
        import tensorflow_datasets as tfds

        # The module that describes the data set is imported only here.
        builder = tfds.builder(facts.name, data_dir=data_dir)
    except ImportError as error:
        raise ImportError(
            f"The data set {facts.name!r} needs tensorflow-datasets. {_REMEDY}"
        ) from error

    import tensorflow as tf

    if not builder.is_prepared():
        _prepare(builder, facts)

    # The folder may hold another number of images than the original data set.
    sizes = {
        name: builder.info.splits[name].num_examples
        for name in ("train", "test")
    }
    dataset = builder.as_dataset(
        split="+".join(
            f"{name}[{start}:{stop}]"
            for name, start, stop in _resolve_split(split, sizes)
        ),
        read_config=tfds.ReadConfig(
            # One file after the other: "train" begins with "train[:10]".
            interleave_cycle_length=1,
            # Not behind the user's back: `take` would warn of a broken cache.
            try_autocache=False,
        ),
    )

    def unpack(example):
        if facts.name == "smallnorb":
            views = example["image"], example["image2"]
            return tf.concat(views, axis=-1), example["label_category"]
        return example["image"], example["label"]

    return dataset.map(unpack)


def _prepare(builder, facts):
    """Downloads the data, or says at once that it cannot be had."""
    missing = f"The data set {facts.name!r} is not in {builder.data_dir}"
    command = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{facts.name}', data_dir='DIR').download_and_prepare()\""
    )
    advice = (
        "Either set `data_dir`, or the environment variable TFDS_DATA_DIR, to "
        f"a folder that holds {facts.name}/{builder.version}; or make such a "
        f"folder DIR on a machine with network access: `{command}`; or use "
        '`load("digits")`, which needs no download.'
    )
    # Without a network TensorFlow Datasets retries for minutes.
    url = next(iter(builder.url_infos or ()), facts.homepage)
    problem = _probe(url)
    if problem:
        raise ConnectionError(
            f"{missing}, and {url} cannot be reached ({problem}). {advice}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        error.add_note(f"{missing}. {advice}")
        raise


def _probe(url, seconds=_PROBE_SECONDS):
    """Returns why the server of `url` cannot be reached, or `None`."""
    # With what TensorFlow Datasets downloads with, so that both see the same
    # proxies and certificates.
    import requests

    problems = [f"timed out after {seconds:g} seconds"]

    def ask():
        try:
            # Any answer will do, even a refusal of this kind of request.
            requests.head(url, timeout=seconds).close()
            problems[0] = None
        except requests.RequestException as error:
            problems[0] = str(error)

    # The time limit of `requests` does not cover looking up the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problems[0]
