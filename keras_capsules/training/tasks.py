"""What is learned: examples to train, to validate and to test on, by name."""

import os
from typing import Any

from keras_capsules import datasets
from keras_capsules.training import folders
from keras_capsules.training.orders import few_of_each
from keras_capsules.training.orders import in_random_order
from keras_capsules.training.orders import random_indices
from keras_capsules.training.task import Task as Task

# Nine tenths to train on, one tenth to choose by; or everything to train on.
SPLITS = {True: "train[:90%]", False: "train"}


def get(
    name: str,
    seed: int = 0,
    validated: bool = True,
    data_dir: str | os.PathLike[str] | None = None,
    per_class: int | None = None,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Task:
    """Returns a task.

    Args:
        name: String, one of `NAMES`; or the path of a folder of images with one
            subfolder for each class.
        seed: Integer, for the order of the examples and what is made of them.
        validated: Boolean, whether a tenth of the training images is kept out
            to validate on.
        data_dir: Where TensorFlow Datasets looks; the file of COIL-20.
        per_class: Integer, how many images of each class to train on, which the
            seed chooses; or `None` for all.
        image_shape: `(height, width, channels)`, for a folder of images.

    Raises:
        ValueError: If there is no such task, or an option does not fit it.
    """
    if is_folder(name):
        return folders.get(name, image_shape, seed, validated, per_class)
    if name in _MAKERS:
        if per_class is not None:
            raise ValueError(
                "Only images of one object are chosen by class. Expected one "
                f"of {', '.join(x for x in NAMES if x not in _MAKERS)}. "
                f"Received: per_class={per_class} and the task {name!r}"
            )
        return _MAKERS[name](name, seed, validated, data_dir)
    return _of_one_object(name, seed, validated, data_dir, per_class)


def identity(name: str) -> dict[str, str]:
    """What tells whether a task still has the same images, for settings.

    Args:
        name: String, as `get` takes it.

    Returns:
        Dictionary with the `files` of a folder of images, see
        `folders.fingerprint`; nothing for tasks by name, which do not change.
    """
    return {"files": folders.fingerprint(name)} if is_folder(name) else {}


def is_folder(name: str) -> bool:
    """Whether a task is a folder of images.

    Args:
        name: String, as `get` takes it.

    Raises:
        ValueError: If it is neither a folder nor the name of a task.
    """
    if name in NAMES:
        return False
    if os.path.isdir(name):
        return True
    raise ValueError(
        f"There is no such task. Expected one of {', '.join(NAMES)}, or the "
        "path of a folder of images with one subfolder for each class. "
        f"Received: task={name!r}"
    )


def _of_one_object(name, seed, validated, data_dir, per_class):
    facts = datasets.info(name)
    images, labels = datasets.load_arrays(
        name, SPLITS[validated], data_dir=data_dir
    )
    if per_class is not None:
        chosen = few_of_each(labels, per_class, seed)
        images, labels = images[chosen], labels[chosen]
    return Task(
        facts.image_shape,
        facts.num_classes,
        len(images),
        in_random_order(images, labels, seed),
        datasets.load(name, "validation", data_dir=data_dir)
        if validated
        else None,
        lambda: datasets.load(name, "test", data_dir=data_dir),
        class_names=facts.class_names,
    )


def _of_two_digits(name, seed, validated, data_dir):
    number = _number_of_digits(validated)
    indices = random_indices(number, seed)

    def load(split, **options):
        return datasets.multi_mnist(split, data_dir=data_dir, **options)

    def train(first, last):
        order = indices(first, last)
        return load(SPLITS[validated], seed=seed, indices=order)

    return Task(
        (36, 36, 1),
        10,
        number,
        train,
        load("validation", targets=False) if validated else None,
        # The published test set has 1,000 pairs for each image.
        lambda: load("test", targets=False, pairs_per_image=10),
        num_objects=2,
        class_names=_DIGITS,
    )


def _of_other_viewpoints(name, seed, validated, data_dir):
    placed = {"rotation": 0, "shear": 0, "scale": (1, 1)}
    number = _number_of_digits(validated)
    indices = random_indices(number, seed)

    def load(split, **options):
        return datasets.affine_mnist(split, data_dir=data_dir, **options)

    def train(first, last):
        order = indices(first, last)
        return load(SPLITS[validated], **placed, seed=seed, indices=order)

    return Task(
        (40, 40, 1),
        10,
        number,
        train,
        # Chosen by images that are only placed, too.
        load("validation", **placed, versions=1) if validated else None,
        lambda: load("test"),
        class_names=_DIGITS,
    )


def _number_of_digits(validated):
    numbers = datasets.info("mnist").num_examples
    return numbers["train"] - validated * numbers["validation"]


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
        in_random_order(images, labels, seed),
        None,
        lambda: datasets.coil20(data_dir, "test", image_size=32),
        # The photographs are called obj1 to obj20.
        class_names=tuple(f"object {number}" for number in range(1, 21)),
    )


_DIGITS = tuple("0123456789")
_MAKERS: dict[str, Any] = {
    "coil20": _of_all_sides,
    "multi_mnist": _of_two_digits,
    "affine_mnist": _of_other_viewpoints,
}
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "smallnorb", *_MAKERS)
