"""Which classes a network takes for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_capsules.plots import canvas
from keras_capsules.plots import texts
from keras_capsules.plots.arguments import as_list
from keras_capsules.plots.arguments import as_numbers
from keras_capsules.plots.arguments import check_names
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean

_MOST_CLASSES = 100
# Inches.
_LEAST_CELL = 0.42
_LONGEST_NAME = 1.6
_GAP = 0.1  # between two texts
_BAR = 0.25  # the width of the colour bar, at most


def confusion(
    labels: Tensor,
    predictions: Tensor,
    class_names: Sequence[Any] | None = None,
    normalize: bool = False,
) -> Any:
    """Draws which classes were taken for which.

    Args:
        labels: Integers `(images,)`, the right classes. At most 100 classes
            fit into the picture.
        predictions: Integers `(images,)`, the classes that were predicted; or
            scores `(images, classes)`.
        class_names: Optional sequence of names, one for each class. Defaults to
            `None`, their numbers.
        normalize: Boolean, whether to show percents of each right class rather
            than numbers of images. Defaults to `False`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes or classes do not fit, or scores are NaN.

    Example:

    ```python
    from keras_capsules import plots

    figure = plots.confusion([0, 1, 2, 2], [0, 1, 1, 2], ["a", "b", "c"])
    ```
    """
    normalize = check_boolean(normalize, "normalize")
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    predictions, classes = _classes_of(predictions)
    _check_number_of(classes, "predictions")
    _check_classes(labels, predictions)
    classes = max(classes, 1 + int(max(labels.max(), predictions.max())))
    given = as_list(class_names)
    if given is not None:
        _check_number_of(len(given), "class_names")
        classes = max(classes, len(given))
    names = check_names(class_names, classes, "class_names")
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / totals
    numbers = {
        (row, column): f"{100 * shares[row, column]:.1f}"
        if normalize
        else f"{counts[row, column]}"
        for row, column in np.argwhere(counts)
    }
    names = [texts.fitted(name, _LONGEST_NAME) for name in names]
    width, height = texts.largest(names)
    widest = texts.size_of(max(numbers.values(), key=len), "x-small")[0]
    cell = max(_LEAST_CELL, widest + _GAP, height + _GAP)
    is_upright = width + _GAP > cell
    side = max(2.5, cell * classes)
    figure, axes = canvas.grid_of_axes(
        1, 1, side + 1.4 + width, side + 0.8 + (width if is_upright else height)
    )
    figure.set_layout_engine("compressed")  # cells are squares
    axis = axes[0, 0]
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in numbers.items():
        axis.text(
            column,
            row,
            number,
            ha="center",
            va="center",
            fontsize="x-small",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axis.set_xticks(range(classes), names, rotation=90 if is_upright else 0)
    axis.set_yticks(range(classes), names)
    axis.tick_params(labelsize="small")
    axis.set(xlabel="predicted class", ylabel="right class")
    unit = "% of the right class" if normalize else "images"
    wrong = 1 - np.trace(counts) / counts.sum()
    axis.set_title(f"{unit}; {100 * wrong:.2f} % wrong", fontsize="medium")
    bar = figure.colorbar(
        shown,
        ax=axis,
        fraction=min(0.046, _BAR / side),
        aspect=max(20, side / _BAR),
    )
    bar.set_label("share of the right class")
    return figure


def _classes_of(predictions):
    """The predicted classes; and how many there are, 0 if no scores say it."""
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


def _check_classes(labels, predictions):
    """Raises if these are not as many classes as images."""
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
        _check_number_of(1 + int(each.max()), name)
    if len(labels) != len(predictions):
        raise ValueError(
            "Expected as many predictions as labels. Received: "
            f"{len(labels)} labels and {len(predictions)} predictions"
        )


def _check_number_of(classes, name):
    """Raises if there are more classes than fit into a picture."""
    if classes > _MOST_CLASSES:
        raise ValueError(
            "These are too many classes for one picture. Expected at most "
            f"{_MOST_CLASSES}, with numbers from 0 on. Received: {name} for "
            f"{classes} classes"
        )
