"""The network that made capsules deep."""

import math

import keras
from keras import ops

from keras_capsules import routing as routings
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D,
)
from keras_capsules.models._network import CapsuleNetwork
from keras_capsules.models._network import check_integers
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_integer

# The squared length of what a layer of capsules squashes, over that of the
# capsules that it sees. Squashed again and again, v = g v^2 / (1 + g v^2),
# lengths vanish if g is less than 4. If it is much more, they saturate.
_GAIN = 4.0

# Weight of the mean squared error in the authors' code.
_MEAN_SQUARED_ERROR = 0.4

# Channels of the map that the decoder begins with.
_DECODER_CHANNELS = 16


@keras.saving.register_keras_serializable(package="keras_capsules")
class DeepCaps(CapsuleNetwork):
    """A deep capsule network of residual cells, with 3D-convolution routing.

    After a convolution come cells of convolutional capsules, each of which
    halves the grid. In a cell, four layers compute capsules by a convolution
    and a squash; the output of the first goes through two more of them and,
    as a shortcut, through the fourth, and both results are added. In the last
    cell, the shortcut is a `SharedKernelConvCapsules2D` instead. All capsules
    of the last two cells vote for the class capsules, whose lengths are the
    class scores.

    The decoder is given the labelled or longest capsule alone, without its
    place among the classes. So it draws all classes alike, and a number of a
    pose means the same in all of them. With several labels, it is given their
    sum.

    ```
    loss = compiled loss
         + reconstruction_weight * (mean over images of the sum over pixels of
                                    (reconstruction - image)^2)
    ```

    It is one `keras.Model`, with the methods of `CapsNet`.

    Notation: sections 3 and 4 of
    [Rajasegaran et al., 2019](https://arxiv.org/abs/1904.09546). The default
    arguments give the network of the authors' code for images of 28 by 28
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
        cell_capsules: Sequence of positive integers, the capsule types of each
            cell. Defaults to `(32, 32, 32, 32)`.
        cell_dims: Sequence of as many positive integers, the lengths of their
            poses, equal in the last two cells. Defaults to `(4, 8, 8, 8)`.
        num_iterations: Positive integer, the iterations of the routing in the
            last cell. Defaults to `3`.
        capsule_dim: Positive integer, the length of the class capsules'
            poses. Defaults to `32`.
        routing: Name or instance of a `keras_capsules.routing.Routing`, for
            the class capsules, with scores as in `CapsNet`. Defaults to
            `"dynamic"`.
        decoder_filters: Sequence of positive integers, the filters of the
            decoder's transposed convolutions, all but the first of which
            double a small map in size; one more makes the image. `None` for a
            network without decoder. Defaults to `(64, 32, 16)`.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. Without a decoder it has no
            effect. Defaults to `None`, 0.4 divided by the number of pixels and
            channels: 0.4 times the mean squared error, as in the authors'
            code.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels of at least 0, for the
        decoder draws with a ReLU. A pixel that is not a number makes all
        scores of its image NaN, and in `fit` the loss: add
        `keras.callbacks.TerminateOnNaN()` to stop there.

    Output shape:
        `(batch, num_classes)`, the lengths of the class capsules, or other
        scores: see `routing`.

    Raises:
        ValueError: If an argument is not as described, the images are not of
            `image_shape`, or labels do not fit `num_classes`. In `fit`, a
            label that names no class makes the loss NaN.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.models import DeepCaps

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = DeepCaps(
        (8, 8, 1), 3, filters=16, cell_capsules=(4, 4), cell_dims=(4, 4)
    )
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    drawn = model.reconstruct(images)  # (20, 8, 8, 1)
    ```
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=128,
        cell_capsules=(32, 32, 32, 32),
        cell_dims=(4, 8, 8, 8),
        num_iterations=3,
        capsule_dim=32,
        routing="dynamic",
        decoder_filters=(64, 32, 16),
        reconstruction_weight=None,
        **kwargs,
    ):
        if reconstruction_weight is None:
            pixels = math.prod(check_integers(image_shape, "image_shape", 3))
            reconstruction_weight = _MEAN_SQUARED_ERROR / pixels
        super().__init__(
            image_shape, num_classes, reconstruction_weight, **kwargs
        )
        self.filters = check_integer(filters, "filters")
        self.cell_capsules = check_integers(cell_capsules, "cell_capsules")
        self.cell_dims = check_integers(cell_dims, "cell_dims")
        if not self.cell_capsules or len(self.cell_capsules) != len(
            self.cell_dims
        ):
            raise ValueError(
                "Expected `cell_capsules` and `cell_dims` of the same length, "
                "at least 1. Received: "
                f"cell_capsules={cell_capsules!r}, cell_dims={cell_dims!r}"
            )
        if len(set(self.cell_dims[-2:])) > 1:
            raise ValueError(
                "Capsules of the last two cells vote together. Expected their "
                f"poses to be of the same length. Received: "
                f"cell_dims={cell_dims!r}"
            )
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_filters = decoder_filters
        if decoder_filters is not None:
            self.decoder_filters = check_integers(
                decoder_filters, "decoder_filters"
            )
        self._assemble()

    def _make_encoder(self):
        images = self._inputs(self.image_shape)
        x = keras.layers.Conv2D(
            self.filters,
            3,
            padding="same",
            data_format="channels_last",
            activation="relu",
            kernel_initializer="he_normal",
            name="convolution",
            dtype=self.dtype_policy,
        )(images)
        x = keras.layers.BatchNormalization(dtype=self.dtype_policy)(x)
        cells = []
        for number, types, dim in zip(
            range(1, len(self.cell_capsules) + 1),
            self.cell_capsules,
            self.cell_dims,
            strict=True,
        ):
            x = self._cell(x, types, dim, number)
            cells.append(x)
        capsules = [
            keras.layers.Reshape((-1, x.shape[-1]), dtype=self.dtype_policy)(x)
            for x in reversed(cells[-2:])
        ]
        x = capsules[0]
        if len(capsules) > 1:
            x = keras.layers.Concatenate(axis=1, dtype=self.dtype_policy)(
                capsules
            )
        for layer in self._class_capsules(self.capsule_dim, self.routing):
            x = layer(x)
        return self._functional(images, x, "encoder")

    def _cell(self, x, types, dim, number):
        """Capsules of half the grid, as the sum of two ways to make them."""
        name = f"cell_{number}"
        x = self._capsules(x, types, dim, f"{name}_first", strides=2)
        if number < len(self.cell_capsules):
            shortcut = self._capsules(x, types, dim, f"{name}_shortcut")
        else:
            shortcut = SharedKernelConvCapsules2D(
                types,
                dim,
                num_iterations=self.num_iterations,
                name=f"{name}_shortcut",
                dtype=self.dtype_policy,
            )(x)
        x = self._capsules(x, types, dim, f"{name}_second")
        x = self._capsules(x, types, dim, f"{name}_third")
        return keras.layers.Add(dtype=self.dtype_policy)([x, shortcut])

    def _capsules(self, x, types, dim, name, strides=1):
        """A convolution of all numbers of all capsules, and a squash."""
        height, width, *pose = x.shape[1:]
        channels = math.prod(pose)
        if len(pose) > 1:
            x = keras.layers.Reshape(
                (height, width, channels), dtype=self.dtype_policy
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
            dtype=self.dtype_policy,
        )(x)

    def _make_decoder(self):
        if self.decoder_filters is None:
            return None
        *image_size, channels = self.image_shape
        scale = 2 ** max(len(self.decoder_filters) - 1, 0)
        size = [-(-length // scale) for length in image_size]
        capsules = self._inputs(self._pose_shape)
        # All but the chosen capsule are zero: what is left of them is it.
        x = ops.sum(capsules, axis=1)
        x = keras.layers.Dense(
            math.prod(size) * _DECODER_CHANNELS,
            activation="relu",
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
        )(x)
        x = keras.layers.Reshape(
            (*size, _DECODER_CHANNELS), dtype=self.dtype_policy
        )(x)
        x = keras.layers.BatchNormalization(
            momentum=0.8, dtype=self.dtype_policy
        )(x)
        for index, filters in enumerate(self.decoder_filters):
            x = self._deconvolution(filters, 2 if index else 1)(x)
        surplus = [
            (0, large - small)
            for large, small in zip(x.shape[1:3], image_size, strict=True)
        ]
        if surplus != [(0, 0), (0, 0)]:
            x = keras.layers.Cropping2D(
                surplus, data_format="channels_last", dtype=self.dtype_policy
            )(x)
        x = self._deconvolution(channels, 1, dtype=self._output_dtype)(x)
        x = keras.layers.ReLU(dtype=self._output_dtype)(x)
        return self._functional(capsules, x, "decoder")

    def _deconvolution(self, filters, strides, dtype=None):
        return keras.layers.Conv2DTranspose(
            filters,
            3,
            strides,
            padding="same",
            data_format="channels_last",
            dtype=dtype or self.dtype_policy,
        )

    def get_config(self):
        config = {
            "filters": self.filters,
            "cell_capsules": self.cell_capsules,
            "cell_dims": self.cell_dims,
            "num_iterations": self.num_iterations,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "decoder_filters": self.decoder_filters,
        }
        return {**super().get_config(), **config}


def _pixels_seen(size, strides):
    """How many of 3 pixels a window sees on average, with margins of zeros.

    On the smallest grids it makes all the difference.
    """
    number = -(-size // strides)
    margin = max((number - 1) * strides + 3 - size, 0) // 2
    seen = 0
    for start in range(-margin, number * strides - margin, strides):
        seen += min(start + 3, size) - max(start, 0)
    return seen / number
