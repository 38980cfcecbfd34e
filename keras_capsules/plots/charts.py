"""Numbers of networks and of their training."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_capsules.inspection import Equivariance
from keras_capsules.plots import canvas
from keras_capsules.plots.arguments import check_classes
from keras_capsules.plots.arguments import check_results
from keras_capsules.plots.arguments import runs_of
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean


def equivariance(
    results: Mapping[str, Mapping[str, Equivariance]], title: str = ""
) -> Any:
    """Draws how much poses say of transformations, as bars with intervals.

    Args:
        results: Dictionary from names of networks to dictionaries from names of
            transformations to results of `inspection.equivariance`.
        title: String above the chart. Defaults to `""`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `results` is not as described, or empty.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots
    from keras_capsules.inspection import equivariance
    from keras_capsules.models import EfficientCapsNet

    model = EfficientCapsNet((8, 8, 1), 3, filters=(8, 8))
    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    found = equivariance(model, images, "rotation", [-30, -10, 10, 30])
    figure = plots.equivariance({"untrained": {"rotation": found}})
    ```
    """
    check_results(results)
    factors = list(dict.fromkeys(x for row in results.values() for x in row))
    if not factors:
        raise ValueError(
            "There is nothing to draw. Expected results of at least one "
            f"network. Received: results={results!r}"
        )
    figure, axes = canvas.grid_of_axes(
        1, 1, 1.5 + len(factors) * (0.5 + 0.3 * len(results)), 3.2
    )
    axis = axes[0, 0]
    width = 0.8 / len(results)
    for number, (name, found) in enumerate(results.items()):
        offset = (number - (len(results) - 1) / 2) * width
        shown = [factor for factor in factors if factor in found]
        places = np.array([factors.index(factor) for factor in shown]) + offset
        heights = np.array([found[factor].r2 for factor in shown])
        lows = heights - [found[factor].low for factor in shown]
        highs = np.array([found[factor].high for factor in shown]) - heights
        axis.bar(
            places,
            heights,
            0.9 * width,
            yerr=np.maximum([lows, highs], 0),
            capsize=3,
            color=canvas.colour(number),
            label=canvas.broken(name, 30),
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(factors)), [x.replace("_", " ") for x in factors])
    axis.set_ylabel("R² of a linear read-out, held-out images")
    axis.set_ylim(top=1.02)
    axis.set_title(title, fontsize="medium")
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    return figure


def training_curves(history: Any) -> Any:
    """Draws the figures of training, epoch by epoch.

    Args:
        history: What `fit` returned, or its dictionary `history`; or a
            dictionary from names of runs to such objects.

    Returns:
        A `matplotlib.figure.Figure` with a panel for each figure, such as loss
        and accuracy. Dashed lines are of the validation data.

    Raises:
        ValueError: If `history` is not as described, or has no epoch.

    Example:

    ```python
    from keras_capsules import plots

    history = {"loss": [0.5, 0.2, 0.1], "val_loss": [0.6, 0.3, 0.3]}
    figure = plots.training_curves(history)
    ```
    """
    runs = runs_of(history)
    names = [
        *dict.fromkeys(
            key.removeprefix("val_") for run in runs.values() for key in run
        )
    ]
    if not names or not any(
        len(run[key]) for run in runs.values() for key in run
    ):
        raise ValueError(
            "There is nothing to draw. Expected the figures of at least one "
            f"epoch. Received: history={history!r}"
        )
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = canvas.grid_of_axes(rows, columns, 3.4, 2.6)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        for number, (run, found) in enumerate(runs.items()):
            for key, style in ((name, "-"), (f"val_{name}", "--")):
                if key not in found:
                    continue
                what = "validation" if style == "--" else "training"
                epochs = np.arange(1, 1 + len(found[key]))
                marker = "o" if len(epochs) == 1 else ""
                axis.plot(
                    epochs,
                    found[key],
                    style + marker,
                    color=canvas.colour(number),
                    label=f"{run}, {what}" if run else what,
                )
        axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        legend.values(),
        legend.keys(),
        loc="outside upper center",
        ncols=2,
        fontsize="small",
    )
    return figure


def confusion(
    labels: Tensor,
    predictions: Tensor,
    class_names: Sequence[Any] | None = None,
    normalize: bool = False,
) -> Any:
    """Draws which classes were taken for which.

    Args:
        labels: Integers `(images,)`, the right classes.
        predictions: Integers `(images,)`, the classes that were predicted; or
            scores `(images, classes)`.
        class_names: Optional sequence of names, one for each class. Defaults to
            `None`, their numbers.
        normalize: Boolean, whether to show percents of each right class rather
            than numbers of images. Defaults to `False`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes or classes do not fit.

    Example:

    ```python
    from keras_capsules import plots

    figure = plots.confusion([0, 1, 2, 2], [0, 1, 1, 2], ["a", "b", "c"])
    ```
    """
    normalize = check_boolean(normalize, "normalize")
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    classes = predictions.shape[1] if predictions.ndim == 2 else 0
    if classes == 1:
        raise ValueError(
            "One score says nothing of other classes. Expected classes, such "
            "as (scores[:, 0] > 0.5).astype(int). Received: "
            f"predictions.shape={predictions.shape}"
        )
    if predictions.ndim == 2:
        predictions = predictions.argmax(axis=1)
    check_classes(labels, predictions)
    classes = max(classes, 1 + int(max(labels.max(), predictions.max())))
    if class_names is not None and not isinstance(class_names, str):
        classes = max(classes, len(class_names))
    names = canvas.check_names(class_names, classes, "class_names")
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / totals
    side = max(2.5, 0.42 * classes)
    figure, axes = canvas.grid_of_axes(1, 1, side + 1.4, side + 1)
    axis = axes[0, 0]
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        text = f"{counts[row, column]}"
        if normalize:
            text = f"{100 * shares[row, column]:.1f}"
        axis.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize="x-small",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    names = [canvas.broken(name) for name in names]
    long = max(map(len, names)) > 2
    axis.set_xticks(range(classes), names, rotation=90 if long else 0)
    axis.set_yticks(range(classes), names)
    axis.tick_params(labelsize="small")
    axis.set(xlabel="predicted class", ylabel="right class")
    unit = "% of the right class" if normalize else "images"
    wrong = 1 - np.trace(counts) / counts.sum()
    axis.set_title(f"{unit}; {100 * wrong:.2f} % wrong", fontsize="medium")
    bar = figure.colorbar(shown, ax=axis, fraction=0.046)
    bar.set_label("share of the right class")
    return figure
