"""Which examples are trained on, and in which order."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_capsules.datasets.loading import on_cpu


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

    def example(index):
        place = index % number
        return tf.gather(images, place), tf.gather(labels, place)

    indices = random_indices(number, seed)
    return lambda first, last: indices(first, last).map(
        example, tf.data.AUTOTUNE
    )


def random_indices(
    number: int, seed: int
) -> Callable[[int, int], tf.data.Dataset]:
    """Numbers of examples, in passes with a random order each.

    Args:
        number: Integer, the examples of a pass. The first pass has the numbers
            from 0 on, the second those that follow, and so on.
        seed: Integer, as that of `in_random_order`.
    """

    def shuffled(index):
        place = tf.random.experimental.index_shuffle(
            tf.cast(index % number, "int32"),
            tf.cast(tf.stack([seed, index // number]), "int32"),
            number - 1,
        )
        return index - index % number + tf.cast(place, "int64")

    return lambda first, last: tf.data.Dataset.range(first, last).map(
        shuffled, tf.data.AUTOTUNE
    )
