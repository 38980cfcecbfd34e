"""What is known of a run: how far it is, what trains it, how well it does."""

import dataclasses
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_capsules.training import provenance
from keras_capsules.training.task import Task
from keras_capsules.utils import files
from keras_capsules.version import __version__

PROGRESS = "progress.json"


@dataclasses.dataclass
class Progress:
    """What is known of a run after an epoch.

    Args:
        settings: Dictionary of plain values.
        epoch: Integer, how many epochs are done.
        seconds: Number, how long they took.
        best_epoch: Integer, the number of the best one, from 1 on.
        commits: The commits of the code that trained.
        environment: What trained the last epochs, see `environment`.
        curve: A dictionary of figures for each epoch.
    """

    settings: dict
    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    commits: list[str] = dataclasses.field(default_factory=list)
    environment: dict = dataclasses.field(default_factory=dict)
    curve: list[dict] = dataclasses.field(default_factory=list)

    @classmethod
    def of_folder(cls, folder: files.Path, settings: dict) -> "Progress":
        """Reads the progress of a run with these settings, or begins one.

        Args:
            folder: The folder of the run.
            settings: Dictionary of plain values.

        Raises:
            ValueError: If there is a run of other settings, or the file is
                broken.
        """
        path = pathlib.Path(folder, PROGRESS)
        here = json.loads(json.dumps(settings))  # as they are in the file
        if not path.exists():
            return cls(here)
        try:
            progress = cls(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise broken(path, error) from error
        there = progress.settings
        other = [x for x in {**there, **here} if there.get(x) != here.get(x)]
        if other:
            raise ValueError(
                f"There is a run of other settings in {folder}: remove it, or "
                "choose another folder. Expected "
                + ", ".join(f"{name}={there.get(name)!r}" for name in other)
                + ". Received: "
                + ", ".join(f"{name}={here.get(name)!r}" for name in other)
            )
        return progress

    def begin(self, commit: str, environment: dict) -> None:
        """Notes what trains from now on.

        Args:
            commit: The commit of the code.
            environment: See `Progress`.

        Raises:
            ValueError: If another backend, with other random numbers, trained
                before.
        """
        if not self.epoch:  # of an epoch that did not end, nothing is left
            self.commits, self.environment = [], {}
        before = self.environment.get("backend", environment["backend"])
        if before != environment["backend"]:
            raise ValueError(
                "A run goes on with the backend that it began with. Expected "
                f"KERAS_BACKEND={before}. Received: {environment['backend']!r}"
            )
        self.commits = list(dict.fromkeys([*self.commits, commit]))
        self.environment = environment

    def write(self, folder: files.Path) -> None:
        """Writes it into the folder of the run.

        Args:
            folder: The folder of the run.
        """
        with files.replacing(pathlib.Path(folder, PROGRESS)) as path:
            path.write_text(json.dumps(dataclasses.asdict(self), indent=1))


def describe(
    model: keras.Model, task: Task, progress: Progress
) -> dict[str, Any]:
    """The record of a run that is complete, without test errors.

    Args:
        model: The network.
        task: What it was trained on.
        progress: Its `Progress`.
    """
    settings = progress.settings
    chosen = progress.curve[progress.best_epoch - 1]
    encoder = getattr(model, "encoder", model)
    record = {
        "commits": progress.commits,  # more if it was continued
        "network": settings["network"],
        "task": settings["task"],
        "class_names": list(task.class_names),
        "parameters": encoder.count_params(),
        "parameters_with_decoder": model.count_params(),
        "seed": settings["seed"],
        "settings": settings,
        "epochs": progress.epoch,
        "chosen_epoch": progress.best_epoch,
        "seconds": round(progress.seconds, 1),
        **progress.environment,
        "curve": progress.curve,
    }
    if "val_accuracy" in chosen:
        record["validation_error"] = percent_wrong(chosen["val_accuracy"])
    return record


def environment(model: keras.Model) -> dict[str, Any]:
    """What trains a model: the backend, the device, the processor, versions.

    Args:
        model: A built model.
    """
    return {
        "backend": keras.backend.backend(),
        "device": _device_of(model),
        "processor": provenance.processor(),
        "versions": {
            "keras_capsules": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }


def earlier(path: pathlib.Path, progress: Progress) -> dict[str, Any]:
    """The record that the same run wrote before; empty if there is none.

    Args:
        path: Path of the record.
        progress: The `Progress` of the complete run.

    Raises:
        ValueError: If the record is broken.
    """
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text())
        found = record["settings"], record["curve"]
    except (KeyError, TypeError, ValueError) as error:
        raise broken(path, error) from error
    return record if found == (progress.settings, progress.curve) else {}


def check_finite(logs: Mapping[str, float], epoch: int) -> None:
    """Raises, so that no weights are kept that are NaN.

    Args:
        logs: The figures of an epoch.
        epoch: Integer, the number of the epoch, from 1 on.

    Raises:
        ValueError: If one of the figures is not finite.
    """
    wrong = {key: x for key, x in logs.items() if not np.isfinite(x)}
    if wrong:
        raise ValueError(
            f"Training diverged in epoch {epoch}, which is not kept. Expected "
            "a lower learning_rate, or images and labels without NaN. "
            f"Received: {', '.join(f'{key}={x}' for key, x in wrong.items())}"
        )


def broken(path: files.Path, error: Any) -> ValueError:
    """The error to raise for a file of a run that cannot be used.

    Args:
        path: The path of the file.
        error: What is wrong with it.
    """
    path = pathlib.Path(path)
    # NumPy advises to unpickle what it cannot read, which is not safe.
    reason = "" if "pickle" in str(error) else f" ({error})"
    return ValueError(
        f"A file of the run is broken: remove the folder {str(path.parent)!r}, "
        "or choose another one, and train again. "
        f"Expected {path.name} as it was written. Received: "
        f"{str(path)!r}{reason}"
    )


def percent_wrong(accuracy: float) -> float:
    """An accuracy as an error in percent.

    Args:
        accuracy: Number from 0 to 1.
    """
    return round(100 * (1 - float(accuracy)), 4)


def _device_of(model):
    """Where a model computes."""
    if keras.backend.backend() == "torch":  # Keras lists no devices there
        return str(model.variables[0].value.device)
    return keras.distribution.list_devices()[0]
