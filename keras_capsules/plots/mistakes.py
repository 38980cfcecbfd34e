"""Which classes a network takes for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_capsules.plots import canvas
from keras_capsules.plots import texts
from keras_capsules.plots.arguments import as_list
from keras_capsules.plots.arguments import check_classes
from keras_capsules.plots.arguments import check_names
from keras_capsules.plots.arguments import check_number_of_classes
from keras_capsules.plots.arguments import classes_of
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean

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
    predictions, classes = classes_of(predictions)
    check_number_of_classes(classes, "predictions")
    check_classes(labels, predictions)
    classes = max(classes, 1 + int(max(labels.max(), predictions.max())))
    given = as_list(class_names)
    if given is not None:
        check_number_of_classes(len(given), "class_names")
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
