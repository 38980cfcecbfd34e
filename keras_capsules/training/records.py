"""The record of a run: what was trained, by which code, how well it does."""

import json
import pathlib
import platform
from typing import Any

import keras
import tensorflow as tf

from keras_capsules.training import provenance
from keras_capsules.training.failures import broken
from keras_capsules.training.progress import Progress
from keras_capsules.training.settings import Settings
from keras_capsules.training.task import Task
from keras_capsules.version import __version__


def describe(
    model: keras.Model, task: Task, progress: Progress, settings: Settings
) -> dict[str, Any]:
    """The record of a run that is complete, without test errors.

    Args:
        model: The network.
        task: What it was trained on.
        progress: The `Progress` of its training.
        settings: The `Settings` of its training.
    """
    chosen = progress.curve[progress.best_epoch - 1]
    encoder = getattr(model, "encoder", model)
    record = {
        "commits": progress.commits,  # more if it was continued
        "network": settings.network,
        "task": settings.task,
        "class_names": list(task.class_names),
        "parameters": encoder.count_params(),
        "parameters_with_decoder": model.count_params(),
        "seed": settings.seed,
        "settings": progress.settings,
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
        progress: The `Progress` of the run, which is complete.

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
    run = json.loads(json.dumps([progress.settings, progress.curve]))
    return record if [*found] == run else {}


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
