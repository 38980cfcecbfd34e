"""Trained networks: runs in folders, and the weights of the package."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules import datasets
from keras_capsules import models
from keras_capsules.models import pretrained
from keras_capsules.training import folders
from keras_capsules.training import images
from keras_capsules.training import records
from keras_capsules.training import running
from keras_capsules.training.settings import Settings
from keras_capsules.utils import loading

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a network says of images whose classes are known.

    Args:
        images: String, which images these are.
        labels: The right classes, an array `(images,)` or, with several objects
            in an image, what the task has.
        scores: Array `(images, classes)`.
        error: Percent of the images that are not answered right.
    """

    images: str
    labels: np.ndarray
    scores: np.ndarray
    error: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, with the names of its classes.

    Args:
        source: String, as `load` takes it.
        model: The network, which is not compiled.
        class_names: A name for each score.
        record: The record of its training, a dictionary.
    """

    source: str
    model: keras.Model
    class_names: tuple[str, ...]
    record: Mapping[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of images, `(height, width, channels)`."""
        return self.model.inputs[0].shape[1:]

    def predict(self, paths: Sequence[images.Path]) -> np.ndarray:
        """The scores of images in files, which are read as in training.

        Args:
            paths: The paths of images; JPEG, PNG, GIF or BMP.

        Returns:
            Array `(images, classes)`. Capsule networks give each class a score
            of its own, from 0 to 1, so that their sum need not be 1. They
            are no probabilities until they are calibrated.

        Raises:
            ValueError: If an image cannot be read.
        """
        x = images.read_all(paths, self.image_shape)
        return self.model.predict(x, batch_size=_BATCH, verbose=0)

    def evaluate(
        self,
        folder: images.Path | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        verbose: str | int = 0,
    ) -> Evaluation:
        """Measures the error.

        Args:
            folder: A folder of images with one subfolder for each class.
                Defaults to `None`, the test images of the task, or the images
                that were kept out to validate on if the task is a folder.
            data_dir: Where TensorFlow Datasets looks; the file of COIL-20.
                Defaults to `None`.
            verbose: As that of `keras.Model.predict`. Defaults to `0`.

        Raises:
            ValueError: If there are no such images, or their classes are not
                those of the network.
        """
        if folder is not None:
            data = folders.read_labelled(
                folder, self.image_shape, self.class_names
            )
            name = f"images of {folder}"
            metric = keras.metrics.SparseCategoricalAccuracy()
        else:
            plain = self.record["settings"]
            settings = Settings.from_record(plain)
            if "files" in plain:
                _check_folder(settings.task, plain["files"])
            task = running.get_task(settings, data_dir)
            name, data = _held_out(task)
            metric = task.metric()
        batches = data.batch(_BATCH)
        labels = np.concatenate([y for _, y in batches.as_numpy_iterator()])
        scores = self.model.predict(
            batches.map(lambda x, _: x), verbose=verbose
        )
        metric.update_state(labels, scores)
        error = records.percent_wrong(metric.result())
        return Evaluation(name, labels, scores, error)


def load(source: str | os.PathLike[str]) -> Trained:
    """Loads a trained network.

    Args:
        source: The folder of a run, as `train` writes it; or the name
            of weights of the package, such as `"EfficientCapsNet-mnist"`.

    Raises:
        ValueError: If it is neither, or the run is not complete.

    Example:

    ```python
    from keras_capsules import training

    found = training.load("EfficientCapsNet-mnist")
    print(found.image_shape, found.class_names[:3])
    ```
    """
    folder = pathlib.Path(source)
    if folder.is_dir():
        return _of_run(folder)
    cards = {card.stem: card for card in pretrained.cards()}
    if source in cards:
        return of_card(cards[str(source)])
    raise ValueError(
        "There is no such trained network. Expected the folder of a run, or "
        f"one of {', '.join(cards)}. Received: source={str(source)!r}"
    )


def of_card(card: pretrained.Card) -> Trained:
    """Loads weights of the package.

    Args:
        card: What is known of them.
    """
    model = getattr(models, card.network)(weights=card.name)
    try:
        names = datasets.info(card.name).class_names
    except ValueError:  # made of another set, of digits
        names = tuple(map(str, range(card.options["num_classes"])))
    return Trained(card.stem, model, names, card.record)


def _of_run(folder):
    record, model = folder / running.RECORD, folder / running.MODEL
    missing = [path.name for path in (record, model) if not path.is_file()]
    if missing:
        raise ValueError(
            "This is not the folder of a complete run: train it to the end, "
            "with the same command. Expected a folder with "
            f"{running.RECORD} and {running.MODEL}. Received: "
            f"{str(folder)!r} without {' and '.join(missing)}"
        )
    try:
        content = json.loads(record.read_text())
        names = tuple(content["class_names"])
        Settings.from_record(content["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise records.broken(record, error) from error
    try:
        network = loading.load_network(model)
    except loading.Unusable as error:
        raise records.broken(model, error) from error
    if len(names) != network.outputs[0].shape[-1]:
        raise records.broken(record, f"names of {len(names)} classes")
    return Trained(str(folder), network, names, content)


def _check_folder(folder, fingerprint):
    """Raises if the images are not those that a network was trained on."""
    problem = ""
    if not os.path.isdir(folder):
        problem = "is not here"
    elif folders.fingerprint(folder) != fingerprint:
        problem = "has changed since then"
    if problem:
        raise ValueError(
            "The folder of images that the network was trained on "
            f"{problem}, so nobody knows which images were kept out. Expected "
            "it as it was, or the path of another folder to test on. Received: "
            f"task={str(folder)!r} and folder=None"
        )


def _held_out(task):
    """Images that were not trained on, and what they are called."""
    if task.test is not None:
        return "test images", task.test()
    if task.validation is None:
        raise ValueError(
            "The network was trained on all images of its folder. Expected "
            "another folder of images with one subfolder for each class. "
            "Received: folder=None"
        )
    return "images that were not trained on", task.validation
