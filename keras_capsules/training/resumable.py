"""Training that goes on where it was killed, to the same result."""

import contextlib
import functools
import pathlib
import re
import time
import zipfile
import zlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules.models import saving
from keras_capsules.training.records import Progress
from keras_capsules.training.records import broken
from keras_capsules.training.records import check_finite
from keras_capsules.utils import files

# The most batches that means and variances are measured from.
_BATCHES = 100


def fit(
    model: keras.Model,
    examples: Callable[[int], Any],
    validation: Any | None,
    progress: Progress,
    folder: files.Path,
    *,
    epochs: int,
    steps: int,
    begin: Callable[[], None] = lambda: None,
    patience: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a compiled model, from the last epoch that was saved.

    At the end, the model has the weights of the best epoch on the validation
    split, or of the last epoch if there is none. The best one has the highest
    accuracy and, among equals, the least loss. What is validated and kept are
    the averages of weights, if the optimizer makes some, and means and
    variances of batch normalization that are measured anew.

    Args:
        model: A built, compiled model.
        examples: Function of the number of the first batch. It returns an
            unlimited `tf.data.Dataset` of batches.
        validation: Batches to choose the best epoch by, or `None`.
        progress: A `Progress`, which is brought up to date.
        folder: The folder of the run.
        epochs: Integer.
        steps: Integer, the batches of an epoch.
        begin: Function that is called before anything is trained or written.
        patience: Integer, after how many epochs that are not better to stop;
            or `None`.
        callbacks: Further callbacks.
    """
    folder = pathlib.Path(folder)
    examples = functools.cache(examples)  # what it loads is loaded once
    model.optimizer.build(model.trainable_variables)
    keeper = _Keeper(
        model,
        validation,
        progress,
        folder,
        patience,
        functools.partial(as_it_is_used, examples, steps),
    )
    is_over = progress.epoch >= epochs or keeper.is_over()
    if not is_over:
        begin()
        batches = examples(progress.epoch * steps)
    if progress.epoch:
        read(_state_of(folder, progress.epoch), state(model))
    else:
        keeper.save_state()  # so that a full disk is noticed now
    if not is_over:
        model.fit(
            batches,
            initial_epoch=progress.epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,  # they are in random order
            callbacks=[keeper, *callbacks],
        )
    read(_weights_of(folder, progress.best_epoch), model.variables)


class _Keeper(keras.callbacks.Callback):
    """Validates, and keeps what a later run needs, after each epoch."""

    def __init__(self, model, validation, progress, folder, patience, in_use):
        super().__init__()
        self.trained = model
        self.validation = validation
        self.progress = progress
        self.folder = folder
        self.patience = patience
        self.in_use = in_use
        self.started = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        progress, model = self.progress, self.trained
        logs = {} if logs is None else logs
        check_finite(logs, epoch + 1)
        progress.epoch = epoch + 1
        write(_state_of(self.folder, epoch + 1), state(model))
        # It takes a while. Without validation, only the last one is needed.
        is_needed = self.validation or epoch + 1 == self.params["epochs"]
        with self.in_use(model) if is_needed else contextlib.nullcontext():
            if self.validation is not None:
                found = model.evaluate(
                    self.validation, verbose=0, return_dict=True
                )
                logs.update({f"val_{key}": x for key, x in found.items()})
                check_finite(logs, epoch + 1)
            progress.curve.append({key: float(x) for key, x in logs.items()})
            if self._is_best():
                progress.best_epoch = epoch + 1
                write(_weights_of(self.folder, epoch + 1), model.variables)
        progress.seconds += time.monotonic() - self.started
        # From now on, a later run goes on from here.
        progress.write(self.folder)
        self._tidy()
        if self.is_over():
            model.stop_training = True

    def save_state(self):
        write(_state_of(self.folder, 0), state(self.trained))
        self.progress.write(self.folder)

    def is_over(self):
        """Whether the last epochs were not better."""
        if self.patience is None or self.validation is None:
            return False
        return self.progress.epoch - self.progress.best_epoch >= self.patience

    def _is_best(self):
        if self.validation is None:
            return True
        # Of few images, many epochs have all right.
        *earlier, last = (
            (each["val_accuracy"], -each["val_loss"])
            for each in self.progress.curve
        )
        return all(last > each for each in earlier)

    def _tidy(self):
        needed = {
            _state_of(self.folder, self.progress.epoch),
            _weights_of(self.folder, self.progress.best_epoch),
        }
        for path in self.folder.glob("*.npz"):
            is_ours = re.fullmatch(r"(state|weights)-\d{4,}\.npz", path.name)
            if is_ours and path not in needed:
                path.unlink()


@contextlib.contextmanager
def as_it_is_used(
    examples: Callable[[int], Any], steps: int, model: keras.Model
) -> Iterator[None]:
    """The model with averages of its weights, and with statistics of theirs.

    Args:
        examples: See `fit`.
        steps: See `fit`.
        model: See `fit`. If its optimizer averages no weights, it keeps them.
            Afterwards it is in training again.
    """
    values = [keras.ops.convert_to_numpy(each) for each in model.variables]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        _measure_statistics(model, examples, min(steps, _BATCHES))
        yield
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)


def _measure_statistics(model, examples, steps):
    """Replaces moving means and variances by those of some batches.

    The moving ones are of earlier weights and, after few steps, still near the
    values that they began with.
    """
    layers = [
        layer
        for _, layer in saving.walk(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    try:
        for number, (images, _) in enumerate(examples(0).take(steps)):
            for layer in layers:
                layer.momentum = number / (number + 1)  # the mean of all so far
            model(keras.ops.convert_to_tensor(images), training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _state_of(folder, epoch):
    return folder / f"state-{epoch:04}.npz"


def _weights_of(folder, epoch):
    return folder / f"weights-{epoch:04}.npz"


def state(model: keras.Model) -> list[keras.Variable]:
    """All that training changes, in the order in which it was made.

    Args:
        model: A compiled model whose optimizer is built.
    """
    return [*model.variables, *model.optimizer.variables]


def write(path: files.Path, variables: Iterable[Any]) -> None:
    """Writes the values of variables, or of arrays.

    Args:
        path: The path of the file, which appears as a whole or not at all.
        variables: Variables, arrays or tensors.
    """
    arrays = map(keras.ops.convert_to_numpy, variables)
    with files.replacing(path) as fresh, open(fresh, "wb") as file:
        np.savez(file, *arrays)


def read(path: files.Path, variables: Iterable[keras.Variable]) -> None:
    """Assigns what `write` wrote.

    Args:
        path: The path of the file.
        variables: As many as were written, in the same order.

    Raises:
        ValueError: If there is no such file, or it is broken.
    """
    try:
        with (
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            values = [arrays[name] for name in arrays.files]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise broken(path, error) from error
