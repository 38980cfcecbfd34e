"""Numbers of networks and of their training."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_capsules.inspection import Equivariance
from keras_capsules.plots import canvas
from keras_capsules.plots import texts

_FACTOR = 1.3  # inches for the name of a transformation, at most
_KEY = 0.6  # inches of a legend beside each text
_NOT_FINITE = "not a finite number"


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
    _check_results(results)
    factors = list(dict.fromkeys(x for row in results.values() for x in row))
    if not factors:
        raise ValueError(
            "There is nothing to draw. Expected results of at least one "
            f"network. Received: results={results!r}"
        )
    labels = [factor.replace("_", " ") for factor in factors]
    room = min(texts.largest(labels, "medium")[0], _FACTOR)
    room = max(room + 0.2, 0.5 + 0.3 * len(results))
    labels = [texts.fitted(label, room - 0.1, "medium") for label in labels]
    title = texts.fitted(title, len(factors) * room + 0.6, "medium")
    more = texts.more_lines(labels, "medium") + texts.more_lines([title])
    figure, axes = canvas.grid_of_axes(
        1, 1, 1.5 + len(factors) * room, 3.2 + more
    )
    axis = axes[0, 0]
    width = 0.8 / len(results)
    legend = {}
    for number, (name, found) in enumerate(results.items()):
        offset = (number - (len(results) - 1) / 2) * width
        shown = [factor for factor in factors if factor in found]
        places = np.array([factors.index(factor) for factor in shown]) + offset
        heights = np.array([found[factor].r2 for factor in shown])
        lows = heights - [found[factor].low for factor in shown]
        highs = np.array([found[factor].high for factor in shown]) - heights
        legend[str(name)] = axis.bar(
            places,
            heights,
            0.9 * width,
            yerr=np.maximum([lows, highs], 0),
            capsize=3,
            color=canvas.colour(number),
            hatch=canvas.hatch(number),
            edgecolor="white",  # of the hatch, too
            linewidth=0,
            label=str(name),
        )
        for place in places[~np.isfinite(heights)]:
            axis.text(place, 0, " NaN", rotation=90, ha="center", va="bottom")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(factors)), labels)
    axis.set_xlim(-0.55, len(factors) - 0.45)
    axis.set_ylabel("R² of a linear read-out, held-out images")
    axis.set_ylim(top=1.02)
    axis.set_title(title, fontsize="medium")
    _add_legend(figure, legend)
    return figure


def training_curves(history: Any) -> Any:
    """Draws the figures of training, epoch by epoch.

    Args:
        history: What `fit` returned, or its dictionary `history`; or a
            dictionary from names of runs to such objects.

    Returns:
        A `matplotlib.figure.Figure` with a panel for each figure, such as loss
        and accuracy. Dashed lines are of the validation data. A cross at the
        lower edge is an epoch whose figure is NaN or infinite.

    Raises:
        ValueError: If `history` is not as described, or has no epoch.

    Example:

    ```python
    from keras_capsules import plots

    history = {"loss": [0.5, 0.2, 0.1], "val_loss": [0.6, 0.3, 0.3]}
    figure = plots.training_curves(history)
    ```
    """
    runs = _runs_of(history)
    names = [
        *dict.fromkeys(
            key.removeprefix("val_") for run in runs.values() for key in run
        )
    ]
    if not any(len(run[key]) for run in runs.values() for key in run):
        raise ValueError(
            "There is nothing to draw. Expected the figures of at least one "
            f"epoch. Received: history={history!r}"
        )
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    labels = [
        texts.fitted(name.replace("_", " "), 1.8, "medium") for name in names
    ]
    more = texts.more_lines(labels, "medium")
    figure, axes = canvas.grid_of_axes(rows, columns, 3.4 + more, 2.6)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    legend: dict[str, Any] = {}
    for axis, name, label in zip(axes.flat, names, labels, strict=False):
        for number, (run, found) in enumerate(runs.items()):
            for key, style in ((name, "-"), (f"val_{name}", "--")):
                if key not in found:
                    continue
                what = "validation" if style == "--" else "training"
                what = f"{run}, {what}" if run else what
                line = _draw_curve(axis, found[key], number, style, what)
                legend.setdefault(what, line)
        axis.set(xlabel="epoch", ylabel=label)
        canvas.count_along(axis)
    failures = _draw_failures(axes.flat, names, runs)
    _add_legend(figure, {**legend, **failures})
    return figure


def _draw_curve(axis, figures, number, style, label):
    """Draws the line of a run; a figure between two that are not is a dot."""
    is_finite = np.isfinite(figures)
    around = np.pad(is_finite, 1)
    is_alone = is_finite & ~around[:-2] & ~around[2:]
    (line,) = axis.plot(
        np.arange(1, 1 + len(figures)),
        np.where(is_finite, figures, np.nan),
        style,
        marker=canvas.marker(number),
        color=canvas.colour(number),
        label=label,
    )
    if is_alone.any() and not canvas.marker(number):
        line.set(marker="o", markevery=np.flatnonzero(is_alone).tolist())
    return line


def _draw_failures(axes, names, runs):
    """Draws crosses where figures are not finite; what the legend needs."""
    crosses = {}
    for axis, name in zip(axes, names, strict=False):
        figures = [
            (number, run[key])
            for number, run in enumerate(runs.values())
            for key in (name, f"val_{name}")
            if key in run
        ]
        for number, each in figures:
            epochs = 1 + np.flatnonzero(~np.isfinite(each))
            if not len(epochs):
                continue
            (crosses[_NOT_FINITE],) = axis.plot(
                epochs,
                np.zeros(len(epochs)),
                "x",
                color=canvas.colour(number),
                transform=axis.get_xaxis_transform(),
                clip_on=False,
                label=_NOT_FINITE,
            )
        if not any(np.isfinite(each).any() for _, each in figures):
            axis.set_yticks([])  # there is no scale
    return crosses


def _add_legend(figure, parts):
    """Adds a legend above all axes, of lines or bars by texts; and its room."""
    width, height = figure.get_size_inches()
    widest = max(texts.size_of(text)[0] for text in parts)
    columns = 2 if len(parts) > 1 and widest <= width / 2 - _KEY else 1
    legend = figure.legend(
        parts.values(),
        [texts.fitted(text, width / columns - _KEY) for text in parts],
        loc="outside upper center",
        ncols=columns,
        fontsize="small",
    )
    more = legend.get_window_extent().height / figure.dpi
    figure.set_size_inches(width, height + more)


def _check_results(results):
    """Raises if these are not results of networks."""
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


def _runs_of(history):
    """The figures `(epochs,)` of runs by their names, `""` of a single run."""
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
