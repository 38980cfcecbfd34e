"""Loads data sets by name, as `tf.data.Dataset`s or as arrays."""

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_capsules.datasets.catalogue import CATALOGUE
from keras_capsules.datasets.dataset_info import DatasetInfo
from keras_capsules.datasets.splits import parse_split
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_sizes

# TensorFlow, TensorFlow Datasets and scikit-learn are imported where they are
# used: `import keras_capsules` stays light and works without the extras.
if TYPE_CHECKING:
    import tensorflow as tf

_PART = 1000  # images


def info(name: str) -> DatasetInfo:
    """Returns the facts about a data set, without loading or downloading it.

    Args:
        name: String, the name of the data set, see `load`.

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
    facts, _ = CATALOGUE[check_choice(name, "name", tuple(CATALOGUE))]
    return facts


def load(
    name: str,
    split: str = "train",
    *,
    image_size: Sizes | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> "tf.data.Dataset":
    """Loads a data set as single `(image, label)` pairs.

    The pairs come in a fixed order, the same at every call. Cache, shuffle and
    batch them as you like. The shapes are static and the number of pairs is
    known, so that `len(dataset)` works. `load_arrays` returns NumPy arrays
    instead.

    The names are:

    - `"digits"`: 8x8 scans of handwritten digits from scikit-learn's
        `load_digits`. They come with scikit-learn, so nothing is downloaded.
        The original file has no test images, and neighbours in it are by the
        same writer. Here the test split has 36 scans of each digit, chosen at
        random but always the same ones, and the training split has the others;
        both are shuffled. Writers are therefore in both splits, and test
        accuracy is higher than it would be on unseen writers.
    - `"mnist"`: 28x28 handwritten digits.
    - `"fashion_mnist"`: 28x28 grey pictures of clothing.
    - `"cifar10"`: 32x32 colour photographs of animals and vehicles.
    - `"smallnorb"`: 96x96 grey photographs of toys by two cameras. As in Sabour
        et al. (2017) the two views are the two channels of one image, and the
        label is the toy's category. Works that use the views as separate images
        have twice as many, and their accuracies are not comparable. The test
        split shows other toys than the training split. The validation split
        shows toys of the training split in other poses.

    All but the first come through TensorFlow Datasets, which downloads a data
    set when it is first used. `info(name)` has classes, sizes, licences and
    citations.

    None of the data sets has a validation split of its own, so hold one out of
    the training split: train on `"train[:90%]"` and validate on
    `"validation"`, which is short for `"train[90%:]"`. `"train"` is always the
    whole training split, including `"validation"`.

    Args:
        name: String, the name of the data set.
        split: String: `"train"`, `"test"` or `"validation"`, a slice of one in
            the notation of TensorFlow Datasets, such as `"train[:80%]"`,
            `"train[5000:]"` or `"test[-10%:]"`, or a sum of them, such as
            `"train[:100]+test"`. Percentages are rounded to the nearest image.
        image_size: Integer, or pair of integers `(height, width)`, in pixels.
            Images of another size are resized bilinearly, with antialiasing.
            `None` keeps the size as it is. Defaults to `None`.
        data_dir: Path of the folder where TensorFlow Datasets looks for
            prepared data and stores downloads. `None` means the folder in the
            environment variable `TFDS_DATA_DIR`, or `~/tensorflow_datasets` if
            the variable is not set. `"digits"` does not use it. Defaults to
            `None`.

    Returns:
        A `tf.data.Dataset` of pairs `(image, label)`: `image` is float32 with
        shape `(height, width, channels)` and values from 0 to 1, `label` is an
        int32 scalar.

    Raises:
        ValueError: If there is no such data set, or the split or the size is
            invalid, or the split holds no images.
        ImportError: If scikit-learn (for `"digits"`) or TensorFlow Datasets
            (for all others) is not installed.
        ConnectionError: If the data set is not in the folder and its server
            cannot be reached. This takes seconds, not minutes.

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
    _, loader = CATALOGUE[name]
    # A mistake in the split is better reported before a long download.
    parse_split(split)
    size = facts.image_shape[:2]
    if image_size is not None:
        size = check_sizes(image_size, "image_size", 2)

    import tensorflow as tf

    def convert(image, label):
        if size != facts.image_shape[:2]:
            image = resized(image, size)
        return image, tf.cast(label, "int32")

    return loader(facts, split, data_dir).map(convert, tf.data.AUTOTUNE)


def resized(image: "tf.Tensor", size: tuple[int, ...]) -> "tf.Tensor":
    """Resizes an image bilinearly, with antialiasing.

    Args:
        image: `(height, width, channels)`, from 0 to 1.
        size: Its new height and width.
    """
    import tensorflow as tf

    image = tf.image.resize(image, size, antialias=True)
    # Rounding may carry the interpolated values just over 1.
    return tf.clip_by_value(image, 0.0, 1.0)


def load_arrays(
    name: str,
    split: str = "train",
    *,
    image_size: Sizes | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Loads a data set as two NumPy arrays, images and labels.

    All images must fit into memory. CIFAR-10's training split takes 614 MB.

    Args:
        name: See `load`.
        split: See `load`. Defaults to `"train"`.
        image_size: See `load`. Defaults to `None`.
        data_dir: See `load`. Defaults to `None`.

    Returns:
        Images, float32 with shape `(examples, height, width, channels)` and
        values from 0 to 1; and labels, int32 with shape `(examples,)`.

    Raises:
        ValueError: As `load`.
        ImportError: As `load`.
        ConnectionError: As `load`.

    Example:

    >>> from keras_capsules import datasets
    >>> images, labels = datasets.load_arrays("digits", "test")
    >>> images.shape, labels.shape
    ((360, 8, 8, 1), (360,))
    """
    dataset = load(name, split, image_size=image_size, data_dir=data_dir)
    images, labels = (
        np.empty((len(dataset), *spec.shape), spec.dtype.as_numpy_dtype)
        for spec in dataset.element_spec
    )
    # In parts, so that nothing is in memory twice.
    for number, (some, answers) in enumerate(dataset.batch(_PART)):
        part = slice(number * _PART, (number + 1) * _PART)
        images[part], labels[part] = some, answers
    return images, labels


def on_cpu(*arrays: np.ndarray) -> "tuple[tf.Tensor, ...]":
    """Makes tensors in the memory of the CPU, where data sets are made.

    A function of a data set that uses arrays has them as parts of its graph,
    which is copied many times.

    Args:
        arrays: Arrays.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        return tuple(tf.constant(each) for each in arrays)


def check_indices(indices: "tf.data.Dataset | None") -> None:
    """Raises if these cannot be the indices of a derived data set.

    Args:
        indices: The argument.
    """
    import tensorflow as tf

    spec = getattr(indices, "element_spec", None)
    if indices is not None and spec != tf.TensorSpec([], "int64"):
        raise ValueError(
            "Invalid value for argument `indices`. Expected a tf.data.Dataset "
            f"of int64 scalars, or None. Received: indices={indices!r}"
        )
