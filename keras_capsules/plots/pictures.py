"""Images beside what a network makes of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_capsules.inspection.poses import added_numbers
from keras_capsules.plots import canvas
from keras_capsules.plots import texts
from keras_capsules.plots.arguments import as_images
from keras_capsules.plots.arguments import as_numbers
from keras_capsules.plots.arguments import check_names
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
            in grey (one channel) or in colour (three). At most 20. Values
            outside are clipped.
        reconstructions: Of the same shape, as `CapsuleNetwork.reconstruct`
            returns them; or of several networks, a dictionary from their names
            to such arrays.
        titles: Optional sequence of texts, one for each image, such as its
            class. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit, or images are of another scale, such
            as pixels from 0 to 255.

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
    images = _some(images)
    if not isinstance(reconstructions, dict):
        reconstructions = {"reconstruction": reconstructions}
    rows = [images]
    for each in reconstructions.values():
        rows.append(as_images(each, "reconstructions"))
        if rows[-1].shape != images.shape:
            raise ValueError(
                f"Expected reconstructions of the images' shape {images.shape}."
                f" Received: reconstructions.shape={rows[-1].shape}"
            )
    titles = _titles(titles, len(images))
    figure, axes, titles = _grid(["image", *reconstructions], titles, 1.1, 1.2)
    _show_grid(axes, np.stack(rows), titles)
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
        ValueError: If shapes do not fit, or images are of another scale, such
            as pixels from 0 to 255.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots

    images = np.random.uniform(size=(16, 11, 8, 8, 1))
    figure = plots.perturbations(images)
    ```
    """
    images = as_images(images, "images", 2)
    rows, columns = images.shape[:2]
    added = added_numbers(values)
    if len(added) != columns:
        raise ValueError(
            f"Expected {columns} finite numbers in `values`, one for each "
            f"column of images. Received: values={values!r}"
        )
    labels = [f"{each:+.2g}" if abs(each) > 1e-9 else "0" for each in added]
    names = check_names(dimensions, rows, "dimensions")
    names = [texts.fitted(name, 1.0) for name in names]
    beside, highest = texts.largest(names)
    figure, axes = canvas.grid_of_axes(
        rows,
        columns,
        max(0.6, texts.largest(labels)[0] + 0.1),
        max(0.6, highest + 0.1),
        left=beside + 0.2,
    )
    _show_grid(axes, images, labels)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize="small"
        )
    width, height = figure.get_size_inches()
    for add, title, room in (
        (figure.supylabel, "which number of the pose is changed", height),
        (figure.suptitle, "what is added to this number", width),
    ):
        add(texts.fitted(title, room - 0.2), fontsize="small")
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
        ValueError: If shapes do not fit, or images are of another scale, such
            as pixels from 0 to 255.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots

    figure = plots.interpolations(np.random.uniform(size=(3, 10, 8, 8, 1)))
    ```
    """
    images = as_images(images, "images", 2)
    rows, columns = images.shape[:2]
    shares = [f"{each:.0f} %" for each in np.linspace(0, 100, columns)]
    figure, axes, shares = _grid(_titles(titles, rows), shares, 0.7, 0.7)
    _show_grid(axes, images, shares)
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
        ValueError: If shapes do not fit, or images are of another scale, such
            as pixels from 0 to 255.

    Example:

    ```python
    import numpy as np
    from keras_capsules import plots

    images = np.random.uniform(size=(3, 8, 8, 1))
    figure = plots.supports(images, np.random.uniform(size=(3, 8, 8)))
    ```
    """
    images = _some(images)
    maps = as_numbers(maps, "maps")
    if maps.shape != images.shape[:3]:
        raise ValueError(
            f"Expected one map for each image, of shape {images.shape[:3]}. "
            f"Received: maps.shape={maps.shape}"
        )
    titles = _titles(titles, len(images))
    figure, axes, titles = _grid(["image", "support"], titles, 1.1, 1.2)
    for column, (image, each) in enumerate(zip(images, maps, strict=True)):
        largest = np.max(each, initial=1e-12, where=np.isfinite(each))
        canvas.show_image(axes[0, column], image, titles[column])
        canvas.show_image(axes[1, column], image)
        amounts = axes[1, column].imshow(
            each / largest,
            cmap=canvas.COLOUR_MAP,
            vmin=0,
            vmax=1,
            alpha=0.65,
        )
    # Beside both rows, so that they stay below each other.
    share = min(0.05, 0.2 / len(images))
    bar = figure.colorbar(amounts, ax=axes, fraction=share, ticks=[0, 1])
    bar.ax.set_yticklabels(["none", "most"], fontsize="x-small")
    return figure


def _grid(names, titles, width, height):
    """Axes with room for names of rows beside them and titles above them.

    Args:
        names: A text for each row, or `None`.
        titles: A text for each column, or `None`.
        width: Inches of one of the axes.
        height: Inches of one of the axes.

    Returns:
        The figure, the axes, and the titles in lines.
    """
    names, titles = (
        [each and texts.fitted(each, room - 0.1) for each in group]
        for group, room in ((names, height), (titles, width))
    )
    figure, axes = canvas.grid_of_axes(
        len(names),
        len(titles),
        width,
        height,
        left=texts.largest(names)[1],
        top=texts.largest(titles)[1],
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        if name:
            axis.set_ylabel(name, fontsize="small")
    return figure, axes, titles


def _show_grid(axes, images, titles):
    """Draws rows of images, with titles above the first row."""
    for row, of_row in enumerate(images):
        for column, image in enumerate(of_row):
            title = titles[column] if row == 0 else None
            canvas.show_image(axes[row, column], image, title)


def _some(images):
    """Images as an array, if they fit into a picture."""
    images = as_images(images, "images")
    if len(images) > _MOST_IMAGES:
        raise ValueError(
            f"These are too many for one picture. Expected at most "
            f"{_MOST_IMAGES} images, such as images[:{_MOST_IMAGES}]. "
            f"Received: images.shape={images.shape}"
        )
    return images


def _titles(titles, number):
    """As many titles as needed, `None` for each if there are none."""
    if titles is None:
        return [None] * number
    return check_names(titles, number, "titles")
