"""Random changes of training images, the same for the same seed and step."""

import dataclasses
import math

import tensorflow as tf

from keras_capsules.datasets.chance import seed_of
from keras_capsules.datasets.viewpoints import moved
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed; nothing by default.

    Args:
        shift: Number of pixels, up and down, left and right, at most.
        rotation: Number of degrees, in both directions, at most.
        scale: Number below 1; 0.1 is from 0.9 to 1.1, for height and width.
        shear: Number, part of the height.
        flip: Boolean, whether half of the images are mirrored, left and right.
        erase: Integer, pixels of the side of a square that becomes grey.
        brightness: Number; 0.1 is from 0.9 to 1.1.
        noise: Number, a standard deviation.

    Raises:
        ValueError: If one of them is negative.
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    flip: bool = False
    erase: int = 0
    brightness: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "flip":
                check_number(getattr(self, field.name), field.name, 0.0)
        check_integer(self.erase, "erase", 0)
        check_boolean(self.flip, "flip")

    def __call__(self, images: Tensor, seed: int, step: Tensor) -> Tensor:
        """Changes a batch of images.

        Args:
            images: `(batch, height, width, channels)`, from 0 to 1.
            seed: Integer.
            step: Integer tensor, the number of the batch.

        Returns:
            Images of the same shape, from 0 to 1.
        """
        draw = _Draws(tf.shape(images)[0], seed, step)
        if self.flip:
            is_flipped = draw.uniform() < 0
            images = tf.where(
                is_flipped[:, None, None, None], images[:, :, ::-1], images
            )
        if self.shift or self.rotation or self.scale or self.shear:
            images = self._moved(images, draw)
        if self.erase:
            images = self._erased(images, draw)
        if self.brightness:
            factors = 1 + self.brightness * draw.uniform()
            images = images * factors[:, None, None, None]
        if self.noise:
            images = images + self.noise * draw.normal(images.shape[1:])
        return tf.clip_by_value(images, 0.0, 1.0)

    def _moved(self, images, draw):
        angle = math.radians(self.rotation) * draw.uniform()
        slant = self.shear * draw.uniform()
        tall = 1 + self.scale * draw.uniform()
        wide = 1 + self.scale * draw.uniform()
        right, down = self.shift * draw.uniform(), self.shift * draw.uniform()
        return moved(images, angle, slant, tall, wide, right, down)

    def _erased(self, images, draw):
        height, width = images.shape[1:3]
        hidden = [
            tf.abs(tf.range(size, dtype="float32") - place[:, None])
            < self.erase / 2
            for size, place in (
                (height, (draw.uniform() + 1) / 2 * height),
                (width, (draw.uniform() + 1) / 2 * width),
            )
        ]
        hidden = hidden[0][:, :, None] & hidden[1][:, None, :]
        return tf.where(hidden[..., None], 0.5, images)


class _Draws:
    """Random numbers of a batch, one draw after the other."""

    def __init__(self, number, seed, step):
        self.number, self.seed, self.step, self.count = number, seed, step, 0

    def uniform(self):
        """One number from -1 to 1 for each image."""
        return tf.random.stateless_uniform([self.number], self._next(), -1, 1)

    def normal(self, shape):
        """Numbers of a shape for each image."""
        return tf.random.stateless_normal([self.number, *shape], self._next())

    def _next(self):
        self.count += 1
        return seed_of([self.seed, self.count], self.step)
