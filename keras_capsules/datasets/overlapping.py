"""Images of two objects, one on top of the other."""

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_capsules.datasets.chance import random_integer
from keras_capsules.datasets.loading import check_indices
from keras_capsules.datasets.loading import info
from keras_capsules.datasets.loading import load_arrays
from keras_capsules.datasets.loading import on_cpu
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer

if TYPE_CHECKING:
    import tensorflow as tf


def multi_mnist(
    split: str = "train",
    *,
    name: str = "mnist",
    pairs_per_image: int = 1,
    pad: int = 4,
    shift: int = 6,
    targets: bool = True,
    seed: int = 0,
    indices: "tf.data.Dataset | None" = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> "tf.data.Dataset":
    """Loads pairs of images of different classes, one on top of the other.

    Each image of the split is the base of `pairs_per_image` pairs. The other
    image is drawn from all images of the same split that have another label.
    Both are padded with zeros and shifted; the base by the same number of
    pixels in all of its pairs. Their sum is cut off at 1. First come the pairs
    number 0 of all images, then the pairs number 1, and so on.

    Notation: MultiMNIST in section 6 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), made as in the
    authors' code with `--shift=6 --pad=4`: 60 million training pairs
    (`pairs_per_image=1000`), 10 million test pairs.

    Args:
        split: String; see `load`. No image of another split is drawn.
        name: String, the data set that the images are from; see `load`.
            Defaults to `"mnist"`.
        pairs_per_image: Positive integer. Defaults to `1`.
        pad: Integer of at least 0, the zeros on each side. Defaults to `4`.
        shift: Integer of at least 0, by how many pixels each image is moved at
            most along each axis. What leaves the frame is cut off. Defaults to
            `6`.
        targets: Boolean, whether labels come with the image of each object.
            Defaults to `True`.
        seed: Integer from 0 to 2**32. Defaults to `0`.
        indices: A `tf.data.Dataset` of int64 scalars, the numbers of the
            pairs to make, in order. Number `i` is pair `i // n` of image
            `i % n`, with `n` images in the split. `pairs_per_image` is not used
            then. Defaults to `None`, which is all.
        data_dir: See `load`.

    Returns:
        A `tf.data.Dataset` of pairs `(image, labels)`. The image is float32
        `(height + 2 pad, width + 2 pad, channels)`. With `targets`, the labels
        are what `CapsuleNetwork.fit` takes to draw each object by itself: a
        dictionary of `"scores"`, multi-hot labels `(num_classes,)`;
        `"target_classes"`, `(2,)`; and `"targets"`, both images as they were
        before they were added, `(2, height + 2 pad, width + 2 pad, channels)`.
        Without, they are the multi-hot labels.

    Raises:
        ValueError: If an argument is invalid, or all images of the split have
            the same label.
        ImportError: As `load`.
        ConnectionError: As `load`.

    Example:

    >>> from keras_capsules import datasets
    >>> pairs = datasets.multi_mnist("test", name="digits", pad=2, shift=3)
    >>> image, labels = next(iter(pairs))
    >>> image.shape, labels["targets"].shape
    (TensorShape([12, 12, 1]), TensorShape([2, 12, 12, 1]))
    """
    pairs_per_image = check_integer(pairs_per_image, "pairs_per_image")
    pad = check_integer(pad, "pad", minimum=0)
    shift = check_integer(shift, "shift", minimum=0)
    check_boolean(targets, "targets")
    seed = check_integer(seed, "seed", 0, 2**32)
    check_indices(indices)
    images, labels = load_arrays(name, split, data_dir=data_dir)
    num_classes = info(name).num_classes
    # Sorted by label, those of one label are a block that can be left out.
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_classes + 1))
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "There are no images of different classes to pair. "
            f"Received: name={name!r}, split={split!r}"
        )

    import tensorflow as tf

    number = len(images)
    images, labels, order, starts = on_cpu(images, labels, order, starts)
    padding = [(pad, pad), (pad, pad), (0, 0)]

    def make(index):
        base = index % number
        label = tf.gather(labels, base)
        first, end = (
            tf.cast(tf.gather(starts, label + n), "int64") for n in (0, 1)
        )
        place = random_integer([seed, 1], index, number - (end - first))
        place = tf.where(place < first, place, place + end - first)
        other = tf.gather(order, place)
        objects = tf.stack(
            [
                _shifted(images, base, padding, shift, [seed, 2], base),
                _shifted(images, other, padding, shift, [seed, 3], index),
            ]
        )
        merged = tf.minimum(tf.reduce_sum(objects, axis=0), 1.0)
        classes = tf.stack([label, tf.gather(labels, other)])
        multi_hot = tf.reduce_sum(tf.one_hot(classes, num_classes), axis=0)
        if not targets:
            return merged, multi_hot
        return merged, {
            "scores": multi_hot,
            "target_classes": classes,
            "targets": objects,
        }

    if indices is None:
        indices = tf.data.Dataset.range(number * pairs_per_image)
    return indices.map(make, tf.data.AUTOTUNE)


def _shifted(images, number, padding, shift, seed, index):
    """An image in its frame, moved by at most `shift` pixels."""
    import tensorflow as tf

    image = tf.pad(tf.gather(images, number), padding)
    height, width, channels = image.shape
    # Zeros on all sides, of which a part moves in.
    image = tf.pad(image, [(shift, shift), (shift, shift), (0, 0)])
    row, column = (
        random_integer(
            [seed[0], seed[1] + 10 * (axis + 1)], index, 2 * shift + 1
        )
        for axis in range(2)
    )
    return tf.slice(image, [row, column, 0], [height, width, channels])
