"""What the charts take."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_capsules.inspection import Equivariance


def runs_of(history: Any) -> dict[Any, Mapping[str, Any]]:
    """The figures of runs by their names, or raises.

    Args:
        history: The argument of `training_curves`.

    Returns:
        Dictionary of dictionaries of lists. The name of a single run is `""`.
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
    for run in runs.values():
        for name, figures in run.items():
            if not isinstance(name, str) or not _are_numbers(figures):
                raise ValueError(
                    "Expected names of figures, and a list with the number of "
                    f"each epoch. Received: history with {name!r}: {figures!r}"
                )
    return runs


def check_results(results: Any) -> None:
    """Raises if these are not results of networks.

    Args:
        results: The argument of `equivariance`.
    """
    rows = results.values() if isinstance(results, Mapping) else [results]
    if not all(
        isinstance(row, Mapping)
        and all(isinstance(each, Equivariance) for each in row.values())
        for row in rows
    ):
        raise ValueError(
            "Expected a dictionary from names of networks to dictionaries from "
            "names of transformations to results of `inspection.equivariance`. "
            f"Received: results={results!r}"
        )


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
    if len(labels) != len(predictions):
        raise ValueError(
            "Expected as many predictions as labels. Received: "
            f"{len(labels)} labels and {len(predictions)} predictions"
        )


def _are_numbers(figures):
    """Whether these are figures of several epochs."""
    try:
        return np.asarray(figures, "float64").ndim > 0
    except (TypeError, ValueError):
        return False
