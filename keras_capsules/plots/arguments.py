"""What the pictures and charts take."""

import reprlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules.inspection import Equivariance
from keras_capsules.inspection.data_diagnosis import LARGEST_PIXEL
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_number

_MOST_CLASSES = 100


def as_images(value: Tensor, name: str, first_axes: int = 1) -> np.ndarray:
    """Images as an array, or raises.

    Args:
        value: Array or tensor `(..., height, width, channels)` with one
            channel or three, or `(..., height, width)`. Values are between 0
            and 1, or around it, as networks may draw them.
        name: String, the argument's name, for messages.
        first_axes: Positive integer, the number of axes before the height.

    Returns:
        An array of floats `(..., height, width, channels)`.
    """
    images = as_numbers(value, name)
    shape = images.shape
    if images.ndim == first_axes + 2:
        images = images[..., None]
    if images.ndim != first_axes + 3 or images.shape[-1] not in (1, 3):
        axes = ("images, " if first_axes else "") + "..., " * (first_axes > 1)
        raise ValueError(
            f"Expected `{name}` of shape ({axes}height, width, channels) with "
            f"1 or 3 channels. Received: {name}.shape={shape}"
        )
    if not images.size:
        raise ValueError(
            f"There is nothing to draw. Expected at least one image in "
            f"`{name}`. Received: {name}.shape={images.shape}"
        )
    # Whole numbers are of another scale as soon as one is neither 0 nor 1.
    is_whole = not np.issubdtype(images.dtype, np.floating)
    largest = np.max(images, initial=0, where=np.isfinite(images))
    if largest > (1 if is_whole else LARGEST_PIXEL):
        raise ValueError(
            f"Expected `{name}` with values between 0 and 1, such as "
            f"{name} / 255 for pixels from 0 to 255. Received: {name} of dtype "
            f"{images.dtype} with values up to {largest:g}"
        )
    return images.astype("float32") if is_whole else images


def as_numbers(value: Tensor, name: str) -> np.ndarray:
    """An array of numbers, or raises.

    Args:
        value: Array, tensor or nested list.
        name: String, the argument's name, for messages.
    """
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value))
        if array.dtype.kind in "cSU":
            raise ValueError
        if array.dtype.kind in "biu" or array.dtype in ("float32", "float64"):
            return array
        return array.astype("float32")
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected `{name}` to be an array of numbers. Received: "
            f"{name}={reprlib.repr(value)}"
        ) from None


def check_names(
    names: Sequence[Any] | None, number: int, name: str
) -> list[str]:
    """Names as strings; numbers from 0 on if there are none.

    Args:
        names: Sequence of names, or `None`.
        number: Integer, how many are needed.
        name: String, the argument's name, for the message.
    """
    if names is None:
        return [str(each) for each in range(number)]
    found = as_list(names)
    if found is None or len(found) != number:
        raise ValueError(
            f"Expected {number} names in `{name}`. Received: {name}={names!r}"
        )
    return [str(each) for each in found]


def as_list(values: Any) -> list[Any] | None:
    """The elements of a sequence; `None` if it is none, or one text."""
    if isinstance(values, str | bytes | Mapping | set | frozenset):
        return None
    try:
        return list(values)
    except TypeError:
        return None


def check_values(values: Any, number: int) -> list[float]:
    """The numbers that were added to poses, or raises.

    Args:
        values: The argument of `perturbations`.
        number: Integer, how many are needed.
    """
    if values is None:
        values = [0.05 * each for each in range(-5, 6)]
    try:
        # Elements of arrays and tensors become numbers of Python.
        found = [
            check_number(each, "values") for each in np.asarray(values).tolist()
        ]
    except (TypeError, ValueError):
        found = []
    if len(found) != number:
        raise ValueError(
            f"Expected {number} finite numbers in `values`, one for each "
            f"column of images. Received: values={values!r}"
        )
    return found


def runs_of(history: Any) -> dict[Any, dict[str, np.ndarray]]:
    """The figures of runs by their names, or raises.

    Args:
        history: The argument of `training_curves`.

    Returns:
        Dictionary of dictionaries of arrays `(epochs,)`. The name of a single
        run is `""`.
    """
    history = getattr(history, "history", history)
    if not isinstance(history, Mapping):
        raise ValueError(
            "Expected what `fit` returned, its history, or a dictionary of "
            f"them. Received: history={history!r}"
        )
    runs: dict[Any, Any] = {
        name: getattr(each, "history", each) for name, each in history.items()
    }
    are_runs = [isinstance(each, Mapping) for each in runs.values()]
    if not any(are_runs):
        runs = {"": history}
    elif not all(are_runs):
        raise ValueError(
            "Expected figures of one run, or several runs, not both. Received: "
            f"history with the keys {list(history)}"
        )
    return {
        name: {key: _figures(key, each) for key, each in run.items()}
        for name, run in runs.items()
    }


def check_results(results: Any) -> None:
    """Raises if these are not results of networks.

    Args:
        results: The argument of `equivariance`.
    """
    rows = results.values() if isinstance(results, Mapping) else [results]
    if not all(
        isinstance(row, Mapping)
        and all(isinstance(name, str) for name in row)
        and all(isinstance(each, Equivariance) for each in row.values())
        for row in rows
    ):
        raise ValueError(
            "Expected a dictionary from names of networks to dictionaries from "
            "names of transformations to results of `inspection.equivariance`. "
            f"Received: results={results!r}"
        )


def classes_of(predictions: np.ndarray) -> tuple[np.ndarray, int]:
    """The predicted classes, and how many there are, or raises.

    Args:
        predictions: The argument of `confusion`.

    Returns:
        The classes, and their number: 0 if these are no scores, which say it.
    """
    if predictions.ndim != 2:
        return predictions, 0
    if predictions.shape[1] < 2:
        raise ValueError(
            "One score says nothing of other classes. Expected classes, such "
            "as (scores[:, 0] > 0.5).astype(int). Received: "
            f"predictions.shape={predictions.shape}"
        )
    scores = as_numbers(predictions, "predictions")
    is_broken = np.isnan(scores).any(axis=1)
    if is_broken.any():
        raise ValueError(
            "Scores that are not numbers say nothing of classes. Expected "
            "`predictions` without NaN. Received: predictions with NaN for "
            f"{is_broken.sum()} of {len(scores)} images, the first of them "
            f"number {is_broken.argmax()}"
        )
    return scores.argmax(axis=1), scores.shape[1]


def check_classes(labels: np.ndarray, predictions: np.ndarray) -> None:
    """Raises if these are not as many classes as images.

    Args:
        labels: The argument of `confusion`.
        predictions: The argument of `confusion`, without scores.
    """
    for name, each in (("labels", labels), ("predictions", predictions)):
        if (
            each.ndim != 1
            or not each.size
            or not np.issubdtype(each.dtype, np.integer)
            or each.min() < 0
        ):
            raise ValueError(
                f"Expected `{name}` to be classes, integers of at least 0, one "
                f"for each image. Received: {name} of shape {each.shape} and "
                f"dtype {each.dtype}"
            )
        check_number_of_classes(1 + int(each.max()), name)
    if len(labels) != len(predictions):
        raise ValueError(
            "Expected as many predictions as labels. Received: "
            f"{len(labels)} labels and {len(predictions)} predictions"
        )


def check_number_of_classes(number: int, name: str) -> None:
    """Raises if there are more classes than fit into a picture.

    Args:
        number: Integer, the number of classes.
        name: String, the argument that says it, for the message.
    """
    if number > _MOST_CLASSES:
        raise ValueError(
            "These are too many classes for one picture. Expected at most "
            f"{_MOST_CLASSES}, with numbers from 0 on. Received: {name} for "
            f"{number} classes"
        )


def _figures(name, figures):
    """The figures of several epochs as an array, or raises."""
    try:
        array = np.asarray(figures, "float64")
    except (TypeError, ValueError):
        array = np.zeros(())
    if not isinstance(name, str) or array.ndim != 1:
        raise ValueError(
            "Expected names of figures, and a list with the number of each "
            f"epoch. Received: history with {name!r}: {figures!r}"
        )
    return array
