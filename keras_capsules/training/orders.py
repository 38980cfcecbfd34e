"""Which examples are trained on, and in which order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_capsules.datasets.tensors import on_cpu


def few_of_each(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Indices of a few images of each class.

    Args:
        labels: Integers `(images,)`.
        number: Positive integer.
        seed: Integer, which chooses them.

    Raises:
        ValueError: If there are not as many of each.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if number > counts.min():
        raise ValueError(
            f"A class has too few images. Expected at most {counts.min()}. "
            f"Received: per_class={number}"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate(
        [order[labels[order] == each][:number] for each in classes]
    )


def in_random_order(
    images: np.ndarray, labels: np.ndarray, seed: int
) -> Callable[[int, int], tf.data.Dataset]:
    """Passes over arrays, each in a random order of its own.

    Args:
        images: `(images, height, width, channels)`.
        labels: `(images,)`.
        seed: Integer. The order is the same for the same seed, from wherever
            it begins.

    Returns:
        A function as `Task.train`.
    """
    number = len(images)
    images, labels = on_cpu(images, labels)

    def make(index):
        place = index % number
        return tf.gather(images, place), tf.gather(labels, place)

    return made_in_random_order(make, number, seed)


def made_in_random_order(
    make: Callable[[tf.Tensor], Any], number: int, seed: int
) -> Callable[[int, int], tf.data.Dataset]:
    """Passes over examples that are made, each in a random order of its own.

    Args:
        make: Function from an int64 scalar to an example. The first pass has
            the examples from 0 on, the second those that follow, and so on.
        number: Integer, the examples of a pass.
        seed: Integer. The order is the same for the same seed, from wherever
            it begins.

    Returns:
        A function as `Task.train`.
    """

    def example(index):
        place = tf.random.experimental.index_shuffle(
            tf.cast(index % number, "int32"),
            tf.cast(tf.stack([seed, index // number]), "int32"),
            number - 1,
        )
        return make(index - index % number + tf.cast(place, "int64"))

    # Nothing before `first` is made.
    return lambda first, last: tf.data.Dataset.range(first, last).map(
        example, tf.data.AUTOTUNE
    )
