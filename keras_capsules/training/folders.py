"""A task of one's own: a folder of images, with a subfolder for each class."""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from keras_capsules.training import images
from keras_capsules.training.orders import few_of_each
from keras_capsules.training.orders import in_random_order
from keras_capsules.training.task import Task

_pairs = tf.data.Dataset.from_tensor_slices


def get(
    folder: images.Path,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    validated: bool = True,
    per_class: int | None = None,
) -> Task:
    """Reads a folder of images as a task. All images are held in memory.

    Args:
        folder: The path of the folder.
        image_shape: `(height, width, channels)`, to which images are brought.
        seed: Integer, for the order of the images, and for which of them are
            kept out to validate on.
        validated: Boolean, whether a tenth of the images of each class, and at
            least one, is kept out to validate on.
        per_class: Integer, how many images of each class to train on; or `None`
            for all.

    Returns:
        A `Task` without images to test on.

    Raises:
        ValueError: If the folder is not as it should be, or a file in it is not
            an image.
    """
    paths = images.class_folders(folder)
    names = tuple(paths)
    if len(names) < 2:
        raise ValueError(
            "There is nothing to tell apart. Expected at least 2 subfolders, "
            f"one for each class. Received: folder={str(folder)!r} with "
            f"{names[0]!r} alone"
        )
    x, labels = _read(paths, range(len(names)), image_shape)
    is_kept_out = np.zeros(len(labels), bool)
    if validated:
        is_kept_out = _tenth_of_each(labels, names, seed)
    chosen = np.flatnonzero(~is_kept_out)
    if per_class is not None:
        chosen = chosen[few_of_each(labels[chosen], per_class, seed)]
    return Task(
        image_shape,
        len(names),
        len(chosen),
        in_random_order(x[chosen], labels[chosen], seed),
        _pairs((x[is_kept_out], labels[is_kept_out])) if validated else None,
        None,
        class_names=names,
    )


def read_labelled(
    folder: images.Path,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
) -> tf.data.Dataset:
    """Reads a folder of images whose classes are known.

    Args:
        folder: The path of a folder with subfolders of some of these names.
        image_shape: `(height, width, channels)`.
        class_names: The names of the classes, in the order of the labels.

    Returns:
        A `tf.data.Dataset` of pairs of an image and a label.

    Raises:
        ValueError: As `get`; if a subfolder is of another class.
    """
    paths = images.class_folders(folder)
    unknown = [name for name in paths if name not in class_names]
    if unknown:
        raise ValueError(
            "The network does not know a class. Expected subfolders "
            f"{', '.join(class_names)}. Received: folder={str(folder)!r} with "
            f"{', '.join(unknown)}"
        )
    labels = [class_names.index(name) for name in paths]
    return _pairs(_read(paths, labels, image_shape))


def fingerprint(folder: images.Path) -> str:
    """What tells whether a folder still has the same images, a hash.

    It is of the names and sizes of the files. The images that are kept out to
    validate on are others if there are more files.

    Args:
        folder: The path of a folder with a subfolder for each class.

    Raises:
        ValueError: If there is no such folder, or a subfolder without images.
    """
    found = [
        (path.relative_to(pathlib.Path(folder)).as_posix(), path.stat().st_size)
        for paths in images.class_folders(folder).values()
        for path in paths
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _read(paths, labels, image_shape):
    """All images of some classes, and their labels."""
    counts = [*map(len, paths.values())]
    x = images.read_all(sum(paths.values(), []), image_shape)
    return x, np.repeat(np.array(labels, "int32"), counts)


def _tenth_of_each(labels, names, seed):
    """Whether each image is kept out."""
    is_kept_out = np.zeros(len(labels), bool)
    generator = np.random.default_rng(seed)
    for label, name in enumerate(names):
        places = generator.permutation(np.flatnonzero(labels == label))
        if len(places) < 2:
            raise ValueError(
                "A class has too few images to keep one out to validate on. "
                "Expected at least 2 of each, or no_validation=True. Received: "
                f"1 image of {name!r}"
            )
        is_kept_out[places[: max(1, round(len(places) / 10))]] = True
    return is_kept_out
