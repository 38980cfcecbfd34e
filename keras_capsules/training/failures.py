"""Runs that cannot go on."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_capsules.utils import files


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
