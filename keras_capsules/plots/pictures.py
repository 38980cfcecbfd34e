"""Images beside what a network makes of them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_capsules.plots import canvas
from keras_capsules.types import Tensor

_MOST_IMAGES = 20


def reconstructions(
    images: Tensor,
    reconstructions: Tensor,
    titles: Sequence[Any] | None = None,
) -> Any:
    """Draws images above their reconstructions.

    Args:
        images: `(images, height, width, channels)` with values between 0 and 1,
            in grey (one channel) or in colour (three). At most 20.
        reconstructions: Of the same shape, as `CapsuleNetwork.reconstruct`
            returns them; or of several networks, a dictionary from their names
            to such arrays.
        titles: Optional sequence of texts, one for each image, such as its
            class. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots
    from keras_capsules.models import EfficientCapsNet

    model = EfficientCapsNet((8, 8, 1), 3, filters=(8, 8))
    images = np.random.uniform(size=(5, 8, 8, 1))
    figure = plots.reconstructions(images, model.reconstruct(images))
    figure.savefig("reconstructions.png")
    ```
    """
    images = _some(canvas.as_images(images, "images"), "images")
    rows = {"image": images}
    if not isinstance(reconstructions, dict):
        reconstructions = {"reconstruction": reconstructions}
    for name, each in reconstructions.items():
        rows[name] = canvas.as_images(each, "reconstructions")
        if rows[name].shape != images.shape:
            raise ValueError(
                f"Expected reconstructions of the images' shape {images.shape}."
                f" Received: reconstructions.shape={rows[name].shape}"
            )
    figure, axes = canvas.grid_of_axes(len(rows), len(images))
    names = _titles(titles, len(images))
    canvas.show_grid(axes, np.stack(list(rows.values())), names)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(canvas.broken(name), fontsize="small")
    return figure


def perturbations(
    images: Tensor,
    values: Tensor | None = None,
    dimensions: Sequence[int] | None = None,
) -> Any:
    """Draws reconstructions of changed poses: dimension by value.

    Args:
        images: `(dimensions, values, height, width, channels)`, the result of
            `inspection.perturb` for one image.
        values: The numbers that were added, as `inspection.perturb` got them.
            Defaults to `None`, its default.
        dimensions: Integers, the numbers of the pose that were changed, as
            `inspection.perturb` got them. Defaults to `None`, its default, all
            of them.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots

    images = np.random.uniform(size=(16, 11, 8, 8, 1))
    figure = plots.perturbations(images)
    ```
    """
    images = canvas.as_images(images, "images", 2)
    rows, columns = images.shape[:2]
    if values is None:
        values = [0.05 * each for each in range(-5, 6)]
    labels = [
        f"{each:+.2g}" if abs(each) > 1e-9 else "0"
        for each in np.asarray(values)
    ]
    labels = canvas.check_names(labels, columns, "values")
    names = canvas.check_names(dimensions, rows, "dimensions")
    figure, axes = canvas.grid_of_axes(rows, columns, 0.6, 0.6)
    canvas.show_grid(axes, images, labels)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize="small"
        )
    figure.supylabel("which number of the pose is changed", fontsize="small")
    figure.suptitle("what is added to this number", fontsize="small")
    return figure


def interpolations(images: Tensor, titles: Sequence[Any] | None = None) -> Any:
    """Draws the ways from one image to another, one in each row.

    Args:
        images: `(images, steps, height, width, channels)`, the result of
            `inspection.interpolate`.
        titles: Optional sequence of texts, one for each row. Defaults to
            `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots

    figure = plots.interpolations(np.random.uniform(size=(3, 10, 8, 8, 1)))
    ```
    """
    images = canvas.as_images(images, "images", 2)
    rows, columns = images.shape[:2]
    names = _titles(titles, rows)
    figure, axes = canvas.grid_of_axes(rows, columns, 0.7, 0.7)
    shares = np.linspace(0, 100, columns)
    canvas.show_grid(axes, images, [f"{share:.0f} %" for share in shares])
    for axis, name in zip(axes[:, 0], names, strict=True):
        if name:
            axis.set_ylabel(canvas.broken(name), fontsize="small")
    return figure


def supports(
    images: Tensor, maps: Tensor, titles: Sequence[Any] | None = None
) -> Any:
    """Paints over images where the support of their classes comes from.

    Args:
        images: `(images, height, width, channels)`, as in `reconstructions`.
        maps: `(images, height, width)`, the result of
            `inspection.support_map`.
        titles: Optional sequence of texts, one for each image. Defaults to
            `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots

    images = np.random.uniform(size=(3, 8, 8, 1))
    figure = plots.supports(images, np.random.uniform(size=(3, 8, 8)))
    ```
    """
    images = _some(canvas.as_images(images, "images"), "images")
    maps = np.asarray(keras.ops.convert_to_numpy(maps))
    if maps.shape != images.shape[:3]:
        raise ValueError(
            f"Expected one map for each image, of shape {images.shape[:3]}. "
            f"Received: maps.shape={maps.shape}"
        )
    names = _titles(titles, len(images))
    figure, axes = canvas.grid_of_axes(2, len(images))
    for column, (image, each) in enumerate(zip(images, maps, strict=True)):
        canvas.show_image(axes[0, column], image, names[column])
        canvas.show_image(axes[1, column], image)
        amounts = axes[1, column].imshow(
            each / max(each.max(), 1e-12),
            cmap=canvas.COLOUR_MAP,
            vmin=0,
            vmax=1,
            alpha=0.65,
        )
    axes[0, 0].set_ylabel("image", fontsize="small")
    axes[1, 0].set_ylabel("support", fontsize="small")
    bar = figure.colorbar(amounts, ax=axes[1], fraction=0.05, ticks=[0, 1])
    bar.ax.set_yticklabels(["none", "most"], fontsize="x-small")
    return figure


def _some(images, name):
    """The images, if they fit into a picture."""
    if len(images) > _MOST_IMAGES:
        raise ValueError(
            f"These are too many for one picture. Expected at most "
            f"{_MOST_IMAGES} images, such as {name}[:{_MOST_IMAGES}]. "
            f"Received: {name}.shape={images.shape}"
        )
    return images


def _titles(titles, number):
    """As many titles as needed, `None` for each if there are none."""
    if titles is None:
        return [None] * number
    return canvas.check_names(titles, number, "titles")
