"""Trains a network on a task, and writes down how well it does."""

import dataclasses
import json
import math
import os
from typing import Any

import keras
import tensorflow as tf

from keras_capsules.models import CapsuleNetwork
from keras_capsules.training import networks
from keras_capsules.training import provenance
from keras_capsules.training import records
from keras_capsules.training import resumable
from keras_capsules.training import tasks
from keras_capsules.training.augmentation import Augmentation
from keras_capsules.training.settings import Settings
from keras_capsules.training.task import Task
from keras_capsules.utils import files
from keras_capsules.utils.policies import dtype_policy

RECORD, MODEL, WEIGHTS = "record.json", "model.keras", "model.weights.h5"


def train(
    settings: Settings,
    folder: files.Path,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    test: bool = False,
    tensorboard: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Trains a network, or goes on where the same training was stopped.

    Afterwards the folder holds:

    | file | content |
    |---|---|
    | `record.json` | settings, errors, the curve, class names, versions |
    | `model.keras` | the network, for `keras.saving.load_model` |
    | `model.weights.h5` | its weights, for `load_weights` |
    | `progress.json`, `*.npz` | what a training that goes on needs |

    Args:
        settings: A `Settings`.
        folder: The folder of the run, which is made.
        data_dir: Where TensorFlow Datasets looks; the file of COIL-20. Defaults
            to `None`.
        test: Boolean, whether to measure the test error at the end. Defaults to
            `False`.
        tensorboard: Boolean, whether to write logs for TensorBoard into the
            folder. Defaults to `False`.
        command: String for the record, the command that trains so.

    Returns:
        The record.

    Raises:
        ValueError: If settings do not fit each other, the network or the task;
            or if the folder holds a run of other settings, or nothing can be
            written to it.

    Example:

    ```python
    import tempfile

    from keras_capsules import training

    settings = training.Settings(
        "conv_net",
        "digits",
        options={"filters": [4], "units": [5]},
        epochs=1,
        per_class=10,
        batch_size=50,
    )
    folder = tempfile.mkdtemp()
    record = training.train(settings, folder)
    print(record["validation_error"])
    # The same again finds that everything is done.
    assert training.train(settings, folder)["epochs"] == 1
    ```
    """
    of_folder = tasks.is_folder(settings.task)
    if test and of_folder:
        raise ValueError(
            "A folder of images has none to test on. Expected test=False, and "
            "`keras-capsules evaluate` with another folder later. Received: "
            f"test=True and task={settings.task!r}"
        )
    settings.check_use(of_folder)
    plain = settings.as_record(of_folder) | tasks.identity(settings.task)
    with files.run_folder(folder) as run:
        progress = records.Progress.of_folder(run, plain)
        keras.utils.set_random_seed(settings.seed)
        task = get_task(settings, data_dir)
        _check_changes(task, settings)
        with dtype_policy(settings.dtype):
            model, loss = networks.make(
                settings.network, task, settings.options
            )
            _fit(model, loss, task, settings, progress, run, tensorboard)
            _save(model, run)
            # What is complete keeps its record.
            record = records.earlier(run / RECORD, progress) or {
                "command": command,
                **records.describe(model, task, progress),
            }
            if test and "test" not in record:
                tested = _measure_test(model, task, settings)
                record |= {"command": command, **tested}
        with files.replacing(run / RECORD) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")
    return record


def get_task(
    settings: Settings, data_dir: str | os.PathLike[str] | None = None
) -> Task:
    """The task of these settings.

    Args:
        settings: A `Settings`.
        data_dir: Where TensorFlow Datasets looks; the file of COIL-20. Defaults
            to `None`.
    """
    return tasks.get(
        settings.task,
        settings.seed,
        not settings.no_validation,
        data_dir,
        settings.per_class,
        settings.image_shape,
    )


def _check_changes(task, settings):
    """Refuses changes of images whose targets would not change with them."""
    if task.is_multiple and settings.augmentation != Augmentation():
        changes = dataclasses.asdict(settings.augmentation)
        raise ValueError(
            "Images of several objects are not changed, because the images of "
            "each object would have to change with them. Expected no changes "
            f"for the task {settings.task!r}. Received: "
            + ", ".join(f"{name}={x!r}" for name, x in changes.items() if x)
        )


def _fit(model, loss, task, settings, progress, folder, tensorboard):
    examples = task.num_examples * settings.passes
    steps = examples // settings.batch_size
    if not steps:
        raise ValueError(
            "A batch is larger than the data set. Expected at most "
            f"{examples}. Received: batch_size={settings.batch_size}"
        )
    all_steps = steps * settings.epochs
    draws = isinstance(model, CapsuleNetwork)
    _check_average(settings.average, all_steps)
    _compile(model, loss, task, settings, all_steps)
    callbacks = [keras.callbacks.TerminateOnNaN()]
    if tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    resumable.fit(
        model,
        lambda first: _batches(task, settings, draws, first, all_steps),
        None
        if task.validation is None
        else _evaluated(task.validation.cache(), settings),
        progress,
        folder,
        epochs=settings.epochs,
        steps=steps,
        begin=lambda: progress.begin(
            provenance.commit(), records.environment(model)
        ),
        patience=settings.patience,
        callbacks=callbacks,
    )


def _check_average(average, steps):
    """Refuses averages that would remember where they began."""
    if average**steps > 0.01:
        most = math.floor(1e4 * 0.01 ** (1 / steps)) / 1e4
        raise ValueError(
            "The average of so few steps would still be more than 1 % the "
            f"weights of the first one. Expected at most {most} for {steps} "
            f"steps. Received: average={average}"
        )


def _compile(model, loss, task, settings, steps):
    warmup = round(settings.warmup * steps / settings.epochs)
    rate = settings.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else rate,
        steps - warmup,
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=settings.weight_decay,
        use_ema=bool(settings.average),
        ema_momentum=settings.average or 0.99,
    )
    # Scales, offsets and biases are not pulled to zero.
    optimizer.exclude_from_weight_decay(
        [x for x in model.trainable_variables if len(x.shape) < 2]
    )
    model.compile(optimizer, loss, metrics=[task.metric()])


def _batches(task, settings, draws, first, steps):
    """Batches from number `first` on to the end of the training.

    Args:
        task: A `Task`.
        settings: A `Settings`.
        draws: Boolean, whether the network takes the images of each object.
        first: Integer.
        steps: Integer, the batches of the training.
    """
    size = settings.batch_size
    examples = task.train(first * size, steps * size)
    data = examples.batch(size, drop_remainder=True).enumerate(first)

    def change(step, example):
        images, labels = example
        if isinstance(labels, dict):  # has images of each object
            return images, labels if draws else labels["scores"]
        return settings.augmentation(images, settings.seed, step), labels

    return data.map(change, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _evaluated(data, settings):
    """Batches to evaluate on."""
    return data.batch(4 * settings.batch_size).prefetch(2)


def _save(model, folder):
    with files.replacing(folder / WEIGHTS) as path:
        model.save_weights(path)
    # A copy is not compiled: the optimizer's state is several times as large,
    # and the run has it already.
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    with files.replacing(folder / MODEL) as path:
        copy.save(path)


def _measure_test(model, task, settings):
    found = model.evaluate(
        _evaluated(task.test(), settings), verbose=0, return_dict=True
    )
    return {
        "test_error": records.percent_wrong(found["accuracy"]),
        "test": {key: float(x) for key, x in found.items()},
    }
