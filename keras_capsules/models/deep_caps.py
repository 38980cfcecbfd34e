"""The network that made capsules deep."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules import routing as routings
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D,
)
from keras_capsules.models import decoders
from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models.base import get_policy
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers

# The squared length of a capsule before the squash, divided by the squared
# length of the input capsules. Squashed again and again, v = g v^2 / (1 + g
# v^2), lengths vanish if g is less than 4. If it is much more, they saturate.
_GAIN = 4.0

# Weight of the mean squared error in the authors' code.
_MEAN_SQUARED_ERROR = 0.4


@keras.saving.register_keras_serializable(package="keras_capsules")
class DeepCaps(CapsuleNetwork):
    """A deep capsule network of residual cells, with 3D-convolution routing.

    After a convolution come cells of convolutional capsules, each of which
    halves the grid. In a cell, four layers compute capsules by a convolution
    and a squash. The output of the first goes through two more of them and, as
    a shortcut, through the fourth, and both results are added. In the last
    cell, the shortcut is a `SharedKernelConvCapsules2D`, which routes votes.
    All capsules of the last two cells vote for the class capsules, whose
    lengths are the class scores.

    The decoder takes the labelled or longest capsule alone, without its place
    among the classes. So it decodes all classes alike, and a number of a pose
    means the same in all of them. With several labels, it takes their sum. See
    `CapsuleNetwork` for the loss and the methods.

    Notation: sections 3 and 4 of
    [Rajasegaran et al., 2019](https://arxiv.org/abs/1904.09546). The default
    arguments make the network of the authors' code for images of 28 by 28
    pixels: 8,441,920 trainable parameters in the encoder. For images of 64 by
    64 by 3 pixels and `decoder_filters=(64, 32, 16, 8)` they are 13,359,424,
    and 67,571 in the decoder. Initial weights of the capsule layers are ours:
    squashed lengths neither vanish nor saturate through any number of layers.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Positive integer, the filters of the convolution. Defaults to
            `128`.
        num_cell_capsules: Sequence of positive integers, the capsule types of
            each cell. Defaults to `(32, 32, 32, 32)`.
        cell_dims: Sequence of as many positive integers, the lengths of their
            poses, equal in the last two cells. Defaults to `(4, 8, 8, 8)`.
        num_iterations: Positive integer, the iterations of the routing in the
            last cell. Defaults to `3`.
        capsule_dim: Positive integer, the length of the class capsules' poses.
            Defaults to `32`.
        routing: A routing algorithm for the class capsules, with scores as in
            `CapsNet`. Defaults to `"dynamic"`.
        decoder_filters: Sequence of positive integers, the filters of the
            decoder's transposed convolutions, all but the first of which
            double a small map in size; one more makes the image. `None` for a
            network without decoder. Defaults to `(64, 32, 16)`.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. It has no effect without a
            decoder. Defaults to `None`, 0.4 divided by the number of pixels and
            channels: 0.4 times the mean squared error, as in the authors'
            code.
        weights: The name of trained weights (see `docs/weights.md`), which
            bring their own defaults of all arguments; or the path of a file
            that `save_weights` wrote. Defaults to `None`, random weights.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels of at least 0, because the
        last layer of the decoder is a ReLU. A pixel that is not finite makes
        all scores of its image NaN, and in `fit` the loss: add
        `keras.callbacks.TerminateOnNaN()` to stop there.

    Output shape:
        `(batch, num_classes)`, the lengths of the class capsules, or other
        scores: see `routing`.

    Raises:
        ValueError: If an argument is not as described, the images do not have
            the shape `image_shape`, or labels do not fit `num_classes`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.models import DeepCaps

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = DeepCaps(
        (8, 8, 1), 3, filters=16, num_cell_capsules=(4, 4), cell_dims=(4, 4)
    )
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    reconstructions = model.reconstruct(images)  # (20, 8, 8, 1)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: int = 128,
        num_cell_capsules: Sequence[int] = (32, 32, 32, 32),
        cell_dims: Sequence[int] = (4, 8, 8, 8),
        num_iterations: int = 3,
        capsule_dim: int = 32,
        routing: routings.RoutingLike = "dynamic",
        decoder_filters: Sequence[int] | None = (64, 32, 16),
        reconstruction_weight: float | None = None,
        weights: pretrained.Weights = None,
        **kwargs: Any,
    ):
        dtype = get_policy(self, kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        if reconstruction_weight is None:
            reconstruction_weight = _MEAN_SQUARED_ERROR / math.prod(image_shape)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.filters = check_integer(filters, "filters")
        self.num_cell_capsules = check_integers(
            num_cell_capsules, "num_cell_capsules"
        )
        self.cell_dims = check_integers(cell_dims, "cell_dims")
        self._check_cells()
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_filters = check_integers(
            decoder_filters, "decoder_filters", optional=True
        )
        images = parts.image_input(self.image_shape, dtype)
        capsules = self._make_capsules(images, dtype)
        decoder = decoders.deconvolutional_decoder(
            capsules, self.image_shape, self.decoder_filters, dtype
        )
        super().__init__(
            images, capsules, decoder, reconstruction_weight, **kwargs
        )

    def _check_cells(self):
        numbers, dims = self.num_cell_capsules, self.cell_dims
        if not numbers or len(numbers) != len(dims):
            raise ValueError(
                "Expected `num_cell_capsules` and `cell_dims` of the same "
                "length, at least 1. Received: "
                f"num_cell_capsules={numbers!r}, cell_dims={dims!r}"
            )
        if len(set(dims[-2:])) > 1:
            raise ValueError(
                "Capsules of the last two cells vote together. Expected their "
                f"poses to be of the same length. Received: cell_dims={dims!r}"
            )

    def _make_capsules(self, x, dtype):
        x = parts.convolution(
            self.filters, 3, dtype, padding="same", name="convolution"
        )(x)
        x = keras.layers.BatchNormalization(name="normalization", dtype=dtype)(
            x
        )
        cells = []
        for number, (types, dim) in enumerate(
            zip(self.num_cell_capsules, self.cell_dims, strict=True), 1
        ):
            x = self._cell(x, types, dim, number, dtype)
            cells.append(x)
        x = _flat(cells[-1], "last_cell", dtype)
        if len(cells) > 1:
            before = _flat(cells[-2], "second_last_cell", dtype)
            x = keras.layers.Concatenate(
                axis=1, name="last_cells", dtype=dtype
            )([x, before])
        return parts.class_capsules(
            x, self.num_classes, self.capsule_dim, self.routing, dtype
        )

    def _cell(self, x, types, dim, number, dtype):
        """Capsules on half the grid, the sum of two branches."""
        name = f"cell_{number}"
        x = _capsules(x, types, dim, f"{name}_first", dtype, strides=2)
        if number < len(self.num_cell_capsules):
            shortcut = _capsules(x, types, dim, f"{name}_shortcut", dtype)
        else:
            shortcut = SharedKernelConvCapsules2D(
                types,
                dim,
                num_iterations=self.num_iterations,
                name=f"{name}_shortcut",
                dtype=dtype,
            )(x)
        x = _capsules(x, types, dim, f"{name}_second", dtype)
        x = _capsules(x, types, dim, f"{name}_third", dtype)
        return keras.layers.Add(name=name, dtype=dtype)([x, shortcut])


def _flat(x, name, dtype):
    """All capsules of a grid in a row."""
    shape = (-1, x.shape[-1])
    return keras.layers.Reshape(shape, name=name, dtype=dtype)(x)


def _capsules(x, types, dim, name, dtype, strides=1):
    """A convolution of all numbers of all capsules, and a squash."""
    height, width, *pose = x.shape[1:]
    channels = math.prod(pose)
    if len(pose) > 1:
        x = keras.layers.Reshape(
            (height, width, channels), name=f"{name}_channels", dtype=dtype
        )(x)
    pixels = _pixels_seen(height, strides) * _pixels_seen(width, strides)
    stddev = math.sqrt(_GAIN / (pixels * channels))
    return PrimaryCapsules(
        types,
        dim,
        3,
        strides,
        "same",
        use_bias=False,
        kernel_initializer=initializers.truncated_normal(stddev),
        name=name,
        dtype=dtype,
    )(x)


def _pixels_seen(size, strides):
    """The mean number of pixels in a window of 3, without margins of zeros.

    On the smallest grids it is much less than 3.
    """
    number = -(-size // strides)
    margin = max((number - 1) * strides + 3 - size, 0) // 2
    seen = 0
    for start in range(-margin, number * strides - margin, strides):
        seen += min(start + 3, size) - max(start, 0)
    return seen / number
