"""Images in files and folders, brought to the size that a network takes."""

import concurrent.futures
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_capsules.datasets.loading import resized
from keras_capsules.utils.files import Path

_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def read(path: Path, image_shape: Sequence[int]) -> np.ndarray:
    """Reads an image as training does.

    Colours become shades of grey, or shades of grey colours, as the number of
    channels demands. Transparency is left out. Then the image is resized
    bilinearly, with antialiasing, whatever its proportions are.

    Args:
        path: The path of a PNG, JPEG, GIF or BMP file. Of an animation, the
            first picture is read.
        image_shape: `(height, width, channels)` with 1 or 3 channels.

    Returns:
        A float32 array of this shape, with values from 0 to 1.

    Raises:
        ValueError: If there is no such file, it is not such an image, or images
            of this shape are not made of one file.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(
            "Images with these channels are not made of one file. Expected 1 "
            f"or 3 channels. Received: image_shape={tuple(image_shape)}"
        )
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            "An image cannot be read. Expected the path of a file. Received: "
            f"path={str(path)!r} ({error.strerror})"
        ) from error
    try:
        pixels = _decode(content)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            "An image cannot be read. Expected a PNG, JPEG, GIF or BMP file "
            f"that is complete. Received: path={str(path)!r}"
        ) from error
    image = tf.cast(pixels, "float32") / 255.0
    image = image[..., : 1 if image.shape[-1] < 3 else 3]
    if image.shape[-1] > channels:
        image = tf.image.rgb_to_grayscale(image)
    elif image.shape[-1] < channels:
        image = tf.image.grayscale_to_rgb(image)
    if tuple(image.shape[:2]) != (height, width):
        image = resized(image, (height, width))
    return image.numpy()


def _decode(content):
    if tf.io.is_jpeg(content):
        # By default, it is off by up to 10 of 255 shades.
        return tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE")
    return tf.io.decode_image(content, expand_animations=False)


def read_all(paths: Sequence[Path], image_shape: Sequence[int]) -> np.ndarray:
    """Reads images; see `read`.

    Args:
        paths: The paths of files.
        image_shape: `(height, width, channels)`.

    Returns:
        A float32 array `(images, height, width, channels)`.
    """
    with concurrent.futures.ThreadPoolExecutor() as threads:
        images = threads.map(lambda path: read(path, image_shape), paths)
        return np.stack(list(images))


def class_folders(folder: Path) -> dict[str, list[pathlib.Path]]:
    """The images of each class.

    Args:
        folder: The path of a folder with a subfolder for each class. Hidden
            files and folders are passed over, and those of systems. A warning
            names other files that are no images.

    Returns:
        The paths of images by the name of the class, both in alphabetical
        order.

    Raises:
        ValueError: If there is no such folder, or a subfolder without images.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(
            "There is no such folder of images. Expected a folder with one "
            f"subfolder for each class. Received: folder={str(folder)!r}"
        )
    found: dict[str, list[pathlib.Path]] = {}
    others: list[pathlib.Path] = []
    for each in sorted(folder.iterdir()):
        if not each.is_dir() or _is_hidden(each.name):
            continue
        found[each.name] = []
        for path in sorted(each.rglob("*")):
            parts = path.relative_to(folder).parts
            if not path.is_file() or any(map(_is_hidden, parts)):
                continue
            is_image = path.suffix.lower() in SUFFIXES
            (found[each.name] if is_image else others).append(path)
    empty = [name for name, paths in found.items() if not paths]
    if not found or empty:
        raise ValueError(
            "Expected a folder with one subfolder for each class, and in each "
            f"of these images that end in {', '.join(SUFFIXES)}. Received: "
            f"folder={str(folder)!r} with "
            + (f"no images in {', '.join(empty)}" if empty else "no subfolders")
        )
    if others:
        names = ", ".join(path.name for path in others[:3])
        warnings.warn(
            f"Files of {folder} are not read, because only those that end in "
            f"{', '.join(SUFFIXES)} are: {len(others)}, such as {names}",
            stacklevel=3,
        )
    return found


def _is_hidden(name):
    """Whether a file or folder is of a system or an editor."""
    return name.startswith(".") or name in _OF_SYSTEMS
