"""The data sets that networks are trained on: a list, and their download."""

import os

from keras_capsules import datasets
from keras_capsules.training import tasks

_MNIST = datasets.info("mnist")
# Those without a `DatasetInfo`: images, classes, licence, download.
_DERIVED = {
    "coil20": ("32 x 32 x 1", "20", "for research", "by hand, see --data-dir"),
    "multi_mnist": ("36 x 36 x 1", "10", _MNIST.license, "made of mnist"),
    "affine_mnist": ("40 x 40 x 1", "10", _MNIST.license, "made of mnist"),
}
_HEAD = ("name", "images", "classes", "training", "test", "licence", "download")


def as_table() -> str:
    """All data sets that are trained on by name, as text."""
    rows = [_HEAD, *map(_row, tasks.NAMES)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _row(name):
    if name in _DERIVED:
        shape, classes, license, download = _DERIVED[name]
        return name, shape, classes, "", "", license, download
    facts = datasets.info(name)
    size = facts.download_size
    return (
        name,
        " x ".join(map(str, facts.image_shape)),
        str(facts.num_classes),
        f"{facts.num_train:,}",
        f"{facts.num_test:,}",
        facts.license,
        f"{size / 1e6:.0f} MB" if size else "nothing",
    )


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Downloads and prepares a data set, if it is not there.

    Args:
        name: String, one of `tasks.NAMES`.
        data_dir: Where TensorFlow Datasets looks; the file of COIL-20. Defaults
            to `None`.

    Returns:
        A sentence that says what is there.

    Raises:
        ValueError: If there is no such data set, or it is not downloaded.
        ImportError: As `datasets.load`.
        ConnectionError: As `datasets.load`.
    """
    if name == "coil20":
        parts = [
            datasets.coil20(data_dir, split) for split in ("train", "test")
        ]
        return f"coil20 is there: {sum(map(len, parts)):,} images"
    if name not in tasks.NAMES:
        raise ValueError(
            "There is no such data set. Expected one of "
            f"{', '.join(tasks.NAMES)}. Received: name={name!r}"
        )
    source = "mnist" if name in _DERIVED else name
    numbers = [
        len(datasets.load(source, split, data_dir=data_dir))
        for split in ("train", "test")
    ]
    made = f", of which {name} is made" if source != name else ""
    return "{} is there: {:,} training images and {:,} test images{}".format(
        source, *numbers, made
    )
