"""The parts of a network: which supports which, and how well they are."""

from typing import Any

import numpy as np

from keras_capsules.inspection import Health
from keras_capsules.inspection import Part
from keras_capsules.plots import canvas
from keras_capsules.plots import texts
from keras_capsules.plots.arguments import as_images
from keras_capsules.types import Tensor

_MOST_LEAVES = 16
# Inches.
_LEAF = 1.2  # of a capsule without others below it
_LEVEL = 1.9


def parse_tree(tree: Part, image: Tensor, class_name: Any | None = None) -> Any:
    """Draws which parts support a class, down to places in the image.

    Each capsule is the image with a frame around the part that it sees. The
    whole is at the top. Lines are the thicker, the larger a share of the
    support of the capsule above comes from the capsule below. Of large trees,
    only the strongest parts of each capsule are drawn, as many as there is room
    for.

    Args:
        tree: One of the trees that `inspection.parse_tree` returns.
        image: `(height, width, channels)`, the image, as in `reconstructions`.
        class_name: Optional name of the class. Defaults to `None`, its number.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the tree or the image is not as described.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots
    from keras_capsules.inspection import parse_tree
    from keras_capsules.models import EfficientCapsNet

    model = EfficientCapsNet((8, 8, 1), 3, filters=(8, 8))
    image = np.random.uniform(size=(8, 8, 1)).astype("float32")
    (tree,) = parse_tree(model, image, num_parts=3)
    figure = plots.parse_tree(tree, image)
    ```
    """
    if not isinstance(tree, Part):
        raise ValueError(
            "Expected one tree, such as inspection.parse_tree(model, image)[0]."
            f" Received: tree={tree!r}"
        )
    image = as_images(image, "image", 0)
    number = max(_most_parts(tree), 1)
    while number > 1 and _leaves(tree, number) > _MOST_LEAVES:
        number -= 1
    tree = _strongest(tree, number)
    places: dict[int, Any] = {}
    leaves = _lay_out(tree, 0, 0, places)
    depth = 1 + max(level for _, level, _ in places.values())
    width = _LEAF * max(leaves, 3)
    whole = _name_of(tree) if class_name is None else class_name
    whole = texts.fitted(whole, width, "x-small")
    more = texts.more_lines([whole], "x-small") / _LEVEL
    figure, axes = canvas.grid_of_axes(1, 1, width, _LEVEL * (depth + more))
    axis = axes[0, 0]
    axis.set(xlim=(-0.6, max(leaves, 1) - 0.4), ylim=(-depth + 0.4, 0.6 + more))
    axis.set_axis_off()
    for x, level, part in places.values():
        for below in part.parts:
            other_x, other_level, _ = places[id(below)]
            axis.plot(
                [x, other_x],
                [-level - 0.3, -other_level + 0.4],
                color=canvas.colour(0),
                linewidth=0.5 + 6 * below.share,
                alpha=0.6,
                solid_capstyle="round",
                zorder=0,
            )
    for x, level, part in places.values():
        inset = axis.inset_axes(
            [x - 0.3, -level - 0.26, 0.6, 0.52], transform=axis.transData
        )
        name = whole
        if level:
            name = texts.fitted(_name_of(part), _LEAF - 0.1, "x-small")
            name = f"{name}\n{100 * part.share:.0f} %"
        canvas.show_image(inset, image)
        inset.set_title(name, fontsize="x-small", pad=2)
        inset.set_xlabel(f"{part.activation:.2f}", fontsize="x-small")
        _frame(inset, part.box)
    return figure


def health(health: Health) -> Any:
    """Draws how active capsules are and how they are coupled, by layer.

    Args:
        health: The result of `inspection.capsule_health`.

    Returns:
        A `matplotlib.figure.Figure` with a row for each layer: the mean
        activation of each capsule, with dead ones marked, and the mean coupling
        coefficient of each output capsule.

    Raises:
        ValueError: If it is no such result, or there are no layers.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots
    from keras_capsules.inspection import capsule_health
    from keras_capsules.models import EfficientCapsNet

    model = EfficientCapsNet((8, 8, 1), 3, filters=(8, 8))
    images = np.random.uniform(size=(5, 8, 8, 1)).astype("float32")
    figure = plots.health(capsule_health(model, images))
    ```
    """
    if not isinstance(health, Health) or not health.layers:
        raise ValueError(
            "Expected the result of inspection.capsule_health for a network "
            f"with capsules. Received: health={health!r}"
        )
    names = [texts.fitted(_summary(layer), 2.8) for layer in health.layers]
    figure, axes = canvas.grid_of_axes(
        len(names), 2, 3.6, 1.9 + texts.more_lines(names)
    )
    for (left, right), layer, name in zip(
        axes, health.layers, names, strict=True
    ):
        left.set_title(name, fontsize="small")
        _bars(left, layer.activation, "mean activation", layer.dead)
        if not np.isfinite(layer.activation).any():
            _say(left, _why_without_activations(layer))
        if layer.coupling is None:
            right.set_axis_off()
            continue
        right.set_title(f"entropy {layer.entropy:.2f} of 1", fontsize="small")
        _bars(right, layer.coupling, "mean coupling")
        if not np.isfinite(layer.coupling).any():
            _say(right, "The couplings are not numbers.")
    for axis in axes[-1]:
        axis.set_xlabel("capsule", fontsize="small")
    return figure


def _most_parts(part):
    """The largest number of parts of a capsule."""
    return max([len(part.parts), *map(_most_parts, part.parts)])


def _leaves(part, number):
    """How many leaves a tree has with at most so many parts each."""
    return sum(_leaves(each, number) for each in part.parts[:number]) or 1


def _strongest(part, number):
    """A tree with the first parts of each capsule, which are the strongest."""
    parts = tuple(_strongest(each, number) for each in part.parts[:number])
    return part._replace(parts=parts)


def _lay_out(part, x, level, places):
    """Places a part above its own; returns the x behind its last leaf."""
    start = x
    for below in part.parts:
        x = _lay_out(below, x, level + 1, places)
    if not part.parts:
        x += 1
    places[id(part)] = ((start + x - 1) / 2, level, part)
    return x


def _name_of(part):
    """The name of a capsule: of its type, and of its place if it has one."""
    *position, kind = part.index
    if not position:
        return f"capsule {kind}"
    place = ", ".join(map(str, position))
    return f"type {kind} at {place}"


def _frame(axis, box):
    """Draws a frame around a part of an image, within the image."""
    if box is None:
        return
    top, left, bottom, right = box
    axis.set_autoscale_on(False)
    axis.plot(
        np.array([left, right, right, left, left]) - 0.5,
        np.array([top, top, bottom, bottom, top]) - 0.5,
        color=canvas.colour(1),
        linewidth=2,
    )


def _summary(layer):
    """The title of a layer: its name, and how many capsules are dead."""
    return f"{layer.name}: {np.sum(layer.dead)} dead"


def _why_without_activations(layer):
    """Why there is no bar for any capsule of a layer."""
    least, _, largest = layer.norm
    if not np.isfinite([least, largest]).all():
        return "The activations are not numbers."
    return (
        "This layer makes poses without activations. "
        f"Their lengths are from {least:.2g} to {largest:.2g}."
    )


def _say(axis, text):
    """Writes a text in place of bars, which need no scale then."""
    axis.set_yticks([])
    axis.set_ylabel("")
    text = texts.fitted(text, 2.6)
    place = {"transform": axis.transAxes, "ha": "center", "va": "center"}
    axis.text(0.5, 0.5, text, fontsize="small", **place)


def _bars(axis, heights, label, is_marked=False):
    """Draws bars; those that are marked, such as dead ones, in red."""
    heights = np.atleast_1d(heights).ravel()
    is_marked = np.broadcast_to(np.ravel(is_marked), heights.shape)
    colours = [canvas.colour(1 if each else 0) for each in is_marked]
    axis.bar(range(len(heights)), heights, color=colours)
    for place in np.flatnonzero(is_marked):
        axis.plot(place, 0, "x", color=canvas.colour(1), clip_on=False)
    axis.set_xlim(-0.6, len(heights) - 0.4)
    axis.set_ylim(bottom=0)
    axis.set_ylabel(label, fontsize="small")
    canvas.count_along(axis)
    axis.tick_params(labelsize="x-small")
