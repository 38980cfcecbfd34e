"""What is learned: examples to train, to validate and to test on, by name."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import keras_capsules
from keras_capsules import datasets

# Nine tenths to train on, one tenth to choose by; or everything to train on.
SPLITS = {True: "train[:90%]", False: "train"}


@dataclasses.dataclass(frozen=True)
class Task:
    """Examples and how answers to them are scored."""

    image_shape: tuple[int, int, int]
    num_classes: int
    num_examples: int
    # Function of the number of the first example and of the number behind the
    # last one. It returns a data set of single examples; each pass is in an
    # order of its own.
    train: Callable[[int, int], tf.data.Dataset]
    # Single examples. `None` for validation: everything is trained on.
    validation: tf.data.Dataset | None
    test: Callable[[], tf.data.Dataset]
    # Of several objects in an image, or of one.
    is_multiple: bool = False

    def metric(self):
        if self.is_multiple:
            return keras_capsules.ExactMatchAccuracy(name="accuracy")
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def get(name, seed=0, validated=True, data_dir=None, per_class=None):
    """Returns a task.

    Args:
        name: String, one of `NAMES`.
        seed: Integer, for the order of the examples and what is made of them.
        validated: Boolean, whether a tenth of the training images is kept out
            to validate on.
        data_dir: Where TensorFlow Datasets looks; the file of COIL-20.
        per_class: Integer, how many images of each class to train on, which the
            seed chooses; or `None` for all.
    """
    if name in _MAKERS:
        if per_class is not None:
            raise ValueError(
                "Only images of one object are chosen by class. Expected one "
                f"of {', '.join(x for x in NAMES if x not in _MAKERS)}. "
                f"Received: per_class={per_class} and the task {name!r}"
            )
        return _MAKERS[name](name, seed, validated, data_dir)
    return _of_one_object(name, seed, validated, data_dir, per_class)


def _of_one_object(name, seed, validated, data_dir, per_class):
    facts = datasets.info(name)
    images, labels = datasets.load_arrays(
        name, SPLITS[validated], data_dir=data_dir
    )
    if per_class is not None:
        chosen = _few(labels, per_class, seed)
        images, labels = images[chosen], labels[chosen]
    return Task(
        facts.image_shape,
        facts.num_classes,
        len(images),
        _in_random_order(images, labels, seed),
        datasets.load(name, "validation", data_dir=data_dir)
        if validated
        else None,
        lambda: datasets.load(name, "test", data_dir=data_dir),
    )


def _of_two_digits(name, seed, validated, data_dir):
    images = datasets.load_arrays("mnist", SPLITS[validated], data_dir=data_dir)
    number = len(images[0])

    def train(first, last):
        pairs = datasets.multi_mnist(
            SPLITS[validated],
            pairs_per_image=-(-last // number),
            seed=seed,
            data_dir=data_dir,
        )
        return pairs.skip(first).take(last - first)

    def load(split, **options):
        return datasets.multi_mnist(
            split, targets=False, data_dir=data_dir, **options
        )

    return Task(
        (36, 36, 1),
        10,
        number,
        train,
        load("validation") if validated else None,
        # The published test set has 1,000 pairs for each image.
        lambda: load("test", pairs_per_image=10),
        is_multiple=True,
    )


def _of_other_viewpoints(name, seed, validated, data_dir):
    placed = {"rotation": 0, "shear": 0, "scale": (1, 1), "versions": 1}

    def load(split, **options):
        return datasets.affine_mnist(split, data_dir=data_dir, **options)

    facts = datasets.info("mnist")
    number = facts.num_examples["train"]
    if validated:
        number -= facts.num_examples["validation"]

    def train(first, last):
        versions = -(-last // number)
        options = placed | {"versions": versions, "seed": seed}
        return load(SPLITS[validated], **options).skip(first).take(last - first)

    return Task(
        (40, 40, 1),
        10,
        number,
        train,
        # Chosen by images that are only placed, too.
        load("validation", **placed) if validated else None,
        lambda: load("test"),
    )


def _of_all_sides(name, seed, validated, data_dir):
    if validated:
        raise ValueError(
            "COIL-20 has 8 images of each object to train on, too few to "
            "validate with. Expected --no-validation. Received: validated=True"
        )
    images, labels = (
        each.numpy()
        for each in datasets.coil20(data_dir, "train", image_size=32)
        .batch(160)
        .get_single_element()
    )
    return Task(
        (32, 32, 1),
        20,
        len(images),
        _in_random_order(images, labels, seed),
        None,
        lambda: datasets.coil20(data_dir, "test", image_size=32),
    )


_MAKERS = {
    "coil20": _of_all_sides,
    "multi_mnist": _of_two_digits,
    "affine_mnist": _of_other_viewpoints,
}
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "smallnorb", *_MAKERS)


def _few(labels, number, seed):
    """Indices of a few images of each class."""
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


def _in_random_order(images, labels, seed):
    number = len(images)

    def train(first, last):
        def example(index):
            place = tf.random.experimental.index_shuffle(
                tf.cast(index % number, "int32"),
                tf.cast(tf.stack([seed, index // number]), "int32"),
                number - 1,
            )
            return tf.gather(images, place), tf.gather(labels, place)

        return tf.data.Dataset.range(first, last).map(
            example, num_parallel_calls=tf.data.AUTOTUNE
        )

    return train
