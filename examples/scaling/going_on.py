"""Training that goes on after the last epoch that was saved."""

import pathlib

from keras_capsules.training import records
from keras_capsules.training import resumable


def train(
    model,
    fit_epoch,
    progress,
    folder,
    epochs,
    values=resumable.state,
    say=print,
):
    """Trains a compiled model, and saves its state after each epoch.

    Args:
        model: A model whose optimizer is built.
        fit_epoch: Function of the number of an epoch, from 0 on, which trains
            the model for that long and returns a dictionary of figures.
        progress: A `training.records.Progress`, which is brought up to date.
        folder: The folder of the run.
        epochs: Integer, after how many to end, those of earlier runs included.
        values: Function of the model, which returns what to write; or `None`
            if another process writes it.
        say: Function to print with.

    Raises:
        ValueError: If the figures of an epoch are not finite. The state before
            it is kept.
    """
    if progress.epoch:
        path = _state_file(folder, progress.epoch)
        resumable.read(path, resumable.state(model))
        say(f"Going on after epoch {progress.epoch}.")
    for epoch in range(progress.epoch, epochs):
        figures = fit_epoch(epoch)
        logs = {key: float(x) for key, x in figures.items()}
        records.check_finite(logs, epoch + 1)
        progress.curve.append(logs)
        progress.epoch = epoch + 1
        arrays = values(model)
        if arrays is not None:
            resumable.write(_state_file(folder, epoch + 1), arrays)
            # From now on, a later run goes on from here.
            progress.write(folder)
            _state_file(folder, epoch).unlink(missing_ok=True)
    say(f"{progress.epoch} epochs are done, saved in {folder}.")


def _state_file(folder, epoch):
    return pathlib.Path(folder, f"state-{epoch:04}.npz")
