"""Images seen from other viewpoints."""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_capsules.datasets.chance import random_integer
from keras_capsules.datasets.chance import seed_of
from keras_capsules.datasets.loading import check_indices
from keras_capsules.datasets.loading import load_arrays
from keras_capsules.datasets.loading import on_cpu
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number

if TYPE_CHECKING:
    import tensorflow as tf


def affine_mnist(
    split: str = "test",
    *,
    name: str = "mnist",
    size: int = 40,
    rotation: float = 20.0,
    shear: float = 0.2,
    scale: Sequence[float] = (0.8, 1.2),
    versions: int = 32,
    seed: int = 0,
    indices: "tf.data.Dataset | None" = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> "tf.data.Dataset":
    """Loads images seen from other viewpoints, in a larger frame.

    Each image is rotated, sheared and scaled, height and width by themselves,
    around its center, with bilinear interpolation. Then it is placed anywhere
    in a square frame of zeros, but so that nothing of it is cut off if that is
    possible. First come the versions number 0 of all images, then the versions
    number 1, and so on.

    Networks that know viewpoints are trained on images that are only placed,
    `affine_mnist("train", rotation=0, shear=0, scale=(1, 1), versions=1)`, and
    tested on the others: section 5.2 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829).

    Notation: the defaults are those of the published
    [affNIST](https://www.cs.toronto.edu/~tijmen/affNIST/), which has 32
    versions of each test image. These are made anew by its recipe, so they are
    not the published files.

    Args:
        split: String; see `load`. Defaults to `"test"`.
        name: String, the data set that the images are from; see `load`.
            Defaults to `"mnist"`.
        size: Positive integer, height and width of the frame; at least those of
            the images. Defaults to `40`.
        rotation: Number of at least 0, the largest angle in degrees, in either
            direction. Defaults to `20`.
        shear: Number from 0 to 2, by which part of the height the width is
            sheared at most, in either direction. Defaults to `0.2`.
        scale: Pair of positive numbers up to 10, the least and the largest
            factor. Defaults to `(0.8, 1.2)`.
        versions: Positive integer, how many of each image. Defaults to `32`.
        seed: Integer from 0 to 2**32. Defaults to `0`.
        indices: As those of `multi_mnist`, with versions instead of pairs.
            Defaults to `None`, which is all.
        data_dir: See `load`.

    Returns:
        A `tf.data.Dataset` of pairs `(image, label)`: float32 `(size, size,
        channels)` with values from 0 to 1, and an int32 scalar.

    Raises:
        ValueError: If an argument is invalid.
        ImportError: As `load`.
        ConnectionError: As `load`.

    Example:

    >>> from keras_capsules import datasets
    >>> turned = datasets.affine_mnist(name="digits", size=14, versions=2)
    >>> len(turned), turned.element_spec[0].shape
    (720, TensorShape([14, 14, 1]))
    """
    rotation = math.radians(check_number(rotation, "rotation", 0, 180))
    shear = check_number(shear, "shear", 0, 2)
    scale = _check_scale(scale)
    versions = check_integer(versions, "versions")
    seed = check_integer(seed, "seed", 0, 2**32)
    check_indices(indices)
    size = check_integer(size, "size")
    images, labels = load_arrays(name, split, data_dir=data_dir)
    number, *image_size = images.shape[:3]
    if size < max(image_size):
        raise ValueError(
            "Invalid value for argument `size`. Expected at least the "
            f"{max(image_size)} pixels of the images. Received: size={size!r}"
        )

    import tensorflow as tf

    images, labels = on_cpu(images, labels)
    room = math.ceil(max(image_size) * max(1.0, scale[1]) * (1 + shear))
    low = [-rotation, -shear, scale[0], scale[0]]
    high = [rotation, shear, scale[1], scale[1]]
    is_only_placed = low == high == [0, 0, 1, 1]

    def change(image, index):
        # Room for what is turned or stretched.
        image = tf.pad(image, [(room, room), (room, room), (0, 0)])
        numbers = tf.random.stateless_uniform(
            [4], seed_of([seed, 1], index), low, high
        )
        image = moved(image[None], *tf.unstack(numbers[:, None]))[0]
        # Rounding may carry the interpolated values just over 1.
        return tf.clip_by_value(image, 0.0, 1.0)

    def make(index):
        base = index % number
        image = tf.gather(images, base)
        if not is_only_placed:
            image = change(image, index)
        image = _placed(image, size, [seed, 2], index)
        return image, tf.gather(labels, base)

    if indices is None:
        indices = tf.data.Dataset.range(number * versions)
    return indices.map(make, tf.data.AUTOTUNE)


def moved(
    images: "tf.Tensor",
    angle: "tf.Tensor",
    slant: "tf.Tensor",
    tall: "tf.Tensor",
    wide: "tf.Tensor",
    right: "tf.Tensor | float" = 0.0,
    down: "tf.Tensor | float" = 0.0,
) -> "tf.Tensor":
    """Turns images around their middle; then slants, scales and shifts them.

    Args:
        images: `(batch, height, width, channels)`.
        angle: A number for each image, in radians; and so for the others.
        slant: By which part of the height the width is sheared.
        tall: A factor of the height.
        wide: A factor of the width.
        right: Pixels. Defaults to `0.0`.
        down: Pixels. Defaults to `0.0`.

    Returns:
        Images of the same shape.
    """
    import tensorflow as tf

    height, width = images.shape[1:3]
    sine, cosine = tf.sin(angle), tf.cos(angle)
    # Where a pixel of the result is in the image: its row of `xs`, `ys`.
    xs = [cosine / wide, (sine - slant * cosine) / tall]
    ys = [-sine / wide, (cosine + slant * sine) / tall]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    offset_x, offset_y = middle_x + right, middle_y + down
    transforms = tf.stack(
        [
            *xs,
            middle_x - xs[0] * offset_x - xs[1] * offset_y,
            *ys,
            middle_y - ys[0] * offset_x - ys[1] * offset_y,
            tf.zeros_like(angle),
            tf.zeros_like(angle),
        ],
        axis=1,
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _placed(image, size, seed, index):
    """A frame with what is in an image, anywhere in it."""
    import tensorflow as tf

    is_used = tf.reduce_any(image > 0, axis=-1)
    starts = []
    for axis in range(2):
        # Of an empty image, the whole.
        used = tf.reduce_any(is_used, axis=1 - axis)
        used |= tf.logical_not(tf.reduce_any(used))
        places = tf.where(used)[:, 0]
        first, last = tf.reduce_min(places), tf.reduce_max(places)
        room = size - 1 - last + first
        place = random_integer(
            [seed[0], seed[1] + axis], index, tf.maximum(room, 0) + 1
        )
        # The middle of what is larger than the frame.
        place = tf.where(room < 0, room // 2, place)
        starts.append(first - place + size)
    image = tf.pad(image, [(size, size), (size, size), (0, 0)])
    return tf.slice(image, [*starts, 0], [size, size, image.shape[2]])


def _check_scale(scale):
    try:
        low, high = (
            check_number(x, "scale", 0, 10, open_minimum=True) for x in scale
        )
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if low > high:
        raise ValueError(
            "Invalid value for argument `scale`. Expected two positive "
            "numbers up to 10, the least and the largest factor. "
            f"Received: scale={scale!r}"
        )
    return low, high
