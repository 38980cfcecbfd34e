"""Photographs of objects from all sides."""

import os
import pathlib
import re
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from keras_capsules.datasets.loading import resized
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_sizes

if TYPE_CHECKING:
    import tensorflow as tf

# The object's number and the view's, of 5 degrees each.
_NAME = re.compile(r"obj(\d+)__(\d+)\.png")
_NUM_VIEWS, _NUM_OBJECTS = 72, 20
_STEP = 360 // _NUM_VIEWS


def coil20(
    path: str | os.PathLike[str] | None,
    split: str = "train",
    *,
    num_views: int = 8,
    image_size: Sizes | None = None,
) -> "tf.data.Dataset":
    """Loads COIL-20, photographs of 20 objects on a turntable.

    Every object was photographed every 5 degrees. The training split has some
    of these views, evenly spaced, and the test split has all others: it shows
    how well a network knows objects from other sides than those that it has
    seen.

    Notation: the Columbia Object Image Library of
    [Nene, Nayar and Murase, 1996](https://www.cs.columbia.edu/CAVE/software/softlib/coil-20.php),
    for research.

    Args:
        path: The folder of the processed images, `obj1__0.png` to
            `obj20__71.png`; or an `.npz` file with the arrays `images`
            `(number, height, width)`, of dtype uint8, `labels` from 0 to 19 and
            `azimuths` in degrees.
        split: `"train"` or `"test"`. Defaults to `"train"`.
        num_views: Positive integer, the views of each object in the training
            split; a divisor of 72. Defaults to `8`, one view every 45 degrees.
        image_size: See `load`. Defaults to `None`.

    Returns:
        A `tf.data.Dataset` of pairs `(image, label)`: float32 `(height, width,
        1)` with values from 0 to 1, and an int32 scalar; sorted by object,
        then by view.

    Raises:
        ValueError: If an argument is invalid, or the file or folder does not
            hold these images.
        FileNotFoundError: If there is nothing at the path.

    Example:

    ```python
    import tempfile

    import numpy as np
    from keras_capsules import datasets

    # Made-up images in a file; yours is "coil-20-proc", the folder.
    labels, views = np.mgrid[:20, :72].reshape(2, -1)
    images = np.random.randint(256, size=(1440, 32, 32)).astype("uint8")
    path = f"{tempfile.mkdtemp()}/coil20.npz"
    np.savez(path, images=images, labels=labels, azimuths=5 * views)

    train = datasets.coil20(path)
    test = datasets.coil20(path, "test")
    print(len(train), len(test))  # 160 1280
    ```
    """
    check_choice(split, "split", ("train", "test"))
    num_views = check_integer(num_views, "num_views")
    if _NUM_VIEWS % num_views:
        raise ValueError(
            f"Expected `num_views` to be a divisor of {_NUM_VIEWS}, so that "
            f"views are evenly spaced. Received: num_views={num_views!r}"
        )
    size = None
    if image_size is not None:
        size = check_sizes(image_size, "image_size", 2)
    if path is None:
        raise ValueError(
            "COIL-20 is not downloaded. Expected the path of its file or "
            "folder; the command takes it as --data-dir. Received: path=None"
        )
    path = pathlib.Path(path)
    read = _of_folder if path.is_dir() else _of_file
    images, labels, views = read(path)
    order = np.lexsort((views, labels))
    step = _NUM_VIEWS // num_views
    is_trained = views[order] % step == 0
    chosen = order[is_trained == (split == "train")]

    import tensorflow as tf

    def convert(image, label):
        image = tf.cast(image, "float32")[..., None] / 255.0
        if size:
            image = resized(image, size)
        return image, label

    pairs = (images[chosen], labels[chosen].astype("int32"))
    return tf.data.Dataset.from_tensor_slices(pairs).map(convert)


def _of_file(path):
    """Images, labels and numbers of views of an `.npz` file."""
    names = ("images", "labels", "azimuths")
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            images, labels, azimuths = (arrays[name] for name in names)
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        raise _error(path, f"which cannot be read so: {error}") from error
    are_integers = all(
        np.issubdtype(x.dtype, np.integer) for x in (labels, azimuths)
    )
    if (
        images.dtype != np.uint8
        or images.ndim != 3
        or not are_integers
        or not labels.shape == azimuths.shape == images.shape[:1]
        or np.any(azimuths % _STEP)
    ):
        raise _error(
            path,
            f"with images of shape {images.shape} and dtype {images.dtype}, "
            f"{np.size(labels)} labels and {np.size(azimuths)} azimuths",
        )
    views = azimuths // _STEP
    return _checked(path, images, labels, views)


def _of_folder(path):
    """Images, labels and numbers of views of a folder."""
    import tensorflow as tf

    found = [
        (int(match[1]) - 1, int(match[2]), each)
        for each in sorted(path.iterdir())
        if (match := _NAME.fullmatch(each.name))
    ]
    try:
        images = [
            tf.io.decode_png(each.read_bytes(), channels=1).numpy()[..., 0]
            for *_, each in found
        ]
    except tf.errors.InvalidArgumentError as error:
        raise _error(path, "with an image that cannot be read") from error
    if not images or len({image.shape for image in images}) > 1:
        raise _error(path, f"with {len(images)} such images")
    labels, views = np.array([numbers[:2] for numbers in found]).T
    return _checked(path, np.stack(images), labels, views)


def _checked(path, images, labels, views):
    """The arguments, if every object was seen from every side."""
    seen = set(zip(labels.tolist(), views.tolist(), strict=True))
    expected = {(n, v) for n in range(_NUM_OBJECTS) for v in range(_NUM_VIEWS)}
    if seen != expected or len(labels) != len(expected):
        raise _error(
            path,
            f"with {len(labels)} images, and {len(seen & expected)} of the "
            f"{len(expected)} views",
        )
    return images, labels, views


def _error(path, detail):
    return ValueError(
        f"Expected a folder of COIL-20's processed images, {_NUM_VIEWS} of "
        f"each of {_NUM_OBJECTS} objects, or an `.npz` file with `images`, "
        f"`labels` and `azimuths`. Received: path={str(path)!r}, {detail}"
    )
