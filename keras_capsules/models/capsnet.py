"""The network that made capsules known."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules import routing as routings
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models import decoders
from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models.base import get_policy
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers
from keras_capsules.utils.validation import check_padding
from keras_capsules.utils.validation import check_sizes


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsNet(CapsuleNetwork):
    """A capsule network with dynamic routing and a decoder.

    A convolution, primary capsules and a layer of class capsules, whose lengths
    are the class scores. In training, a decoder of dense layers reconstructs
    the image from the capsule of the labelled class. The squared error of the
    reconstruction is part of the loss, so that a class capsule learns to hold
    the pose of its entity. See `CapsuleNetwork` for the loss and the methods:
    `fit`, `evaluate` and `predict` of `keras.Model`, and `encode`, `decode` and
    `reconstruct`.

    Notation: section 4 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). With the default
    arguments this is the paper's network for MNIST: 6,804,384 parameters, and
    1,411,344 more in the decoder. The authors' code adds a bias to the capsule
    layers, and so does this network. Initial weights are ours, scaled so that
    learning starts at once for images of any size.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Positive integer, the filters of the convolution. Defaults to
            `256`.
        kernel_size: Positive integer or pair of them, the window of the
            convolution and of the primary capsules. Defaults to `None`, the
            paper's 9. Along a side of less than 26 pixels it is the largest odd
            number up to a third of the side plus one.
        conv_strides: Positive integer or pair of them, the strides of the
            convolution. Defaults to `1`.
        primary_strides: Positive integer or pair of them, the strides of the
            primary capsules. Defaults to `2`.
        padding: `"valid"` or `"same"`, of both. Defaults to `"valid"`.
        num_primary_capsules: Positive integer, the types of primary capsules
            at each position. Defaults to `32`.
        primary_dim: Positive integer, the length of their poses. Defaults to
            `8`.
        capsule_dim: Positive integer, the length of the class capsules' poses.
            Defaults to `16`.
        routing: A routing algorithm, as `keras_capsules.routing.get` takes it.
            If it makes activations, these are the scores. If it makes poses
            alone, as `"inverted_attention"` does, a `PoseScores` layer makes
            the scores. Defaults to `"dynamic"`.
        decoder_units: Sequence of positive integers, the sizes of the decoder's
            hidden layers; `None` for a network without decoder. Defaults to
            `(512, 1024)`.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. It has no effect without a
            decoder. Defaults to `0.0005`.
        weights: The name of trained weights (see `docs/weights.md`), which
            bring their own defaults of all arguments; or the path of a file
            that `save_weights` wrote. Defaults to `None`, random weights.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels between 0 and 1, because the
        last layer of the decoder is a sigmoid. A pixel that is not finite makes
        all scores of its image NaN, and in `fit` the loss: add
        `keras.callbacks.TerminateOnNaN()` to stop there.

    Output shape:
        `(batch, num_classes)`, the lengths of the class capsules, or other
        scores: see `routing`.

    Raises:
        ValueError: If an argument is not as described, the images do not have
            the shape `image_shape` or are too small for the windows, or labels
            do not fit `num_classes`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.models import CapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = CapsNet((8, 8, 1), 3, filters=16, num_primary_capsules=4)
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    capsules = model.encode(images)  # (20, 3, 16)
    reconstructions = model.reconstruct(images)  # (20, 8, 8, 1)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: int = 256,
        kernel_size: Sizes | None = None,
        conv_strides: Sizes = 1,
        primary_strides: Sizes = 2,
        padding: str = "valid",
        num_primary_capsules: int = 32,
        primary_dim: int = 8,
        capsule_dim: int = 16,
        routing: routings.RoutingLike = "dynamic",
        decoder_units: Sequence[int] | None = (512, 1024),
        reconstruction_weight: float = 0.0005,
        weights: pretrained.Weights = None,
        **kwargs: Any,
    ):
        dtype = get_policy(self, kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.filters = check_integer(filters, "filters")
        if kernel_size is None:
            kernel_size = _fitting_kernel_size(self.image_shape)
        self.kernel_size = check_sizes(kernel_size, "kernel_size", 2)
        self.conv_strides = check_sizes(conv_strides, "conv_strides", 2)
        self.primary_strides = check_sizes(
            primary_strides, "primary_strides", 2
        )
        self.padding = check_padding(padding)
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.primary_dim = check_integer(primary_dim, "primary_dim")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_units = check_integers(
            decoder_units, "decoder_units", optional=True
        )
        self._check_window()
        images = parts.image_input(self.image_shape, dtype)
        x = parts.convolution(
            self.filters,
            self.kernel_size,
            dtype,
            strides=self.conv_strides,
            padding=self.padding,
            name="convolution",
        )(images)
        x = PrimaryCapsules(
            self.num_primary_capsules,
            self.primary_dim,
            self.kernel_size,
            self.primary_strides,
            self.padding,
            name="primary_capsules",
            dtype=dtype,
        )(x)
        capsules = parts.class_capsules(
            x, self.num_classes, self.capsule_dim, self.routing, dtype
        )
        decoder = decoders.dense_decoder(
            capsules, self.image_shape, self.decoder_units, dtype
        )
        super().__init__(
            images, capsules, decoder, reconstruction_weight, **kwargs
        )

    def _check_window(self):
        windows = [
            (self.kernel_size, self.conv_strides, self.padding),
            (self.kernel_size, self.primary_strides, self.padding),
        ]
        if min(parts.grid_after(self.image_shape, windows)) < 1:
            raise ValueError(
                "The images are too small for two convolutions with this "
                "window. Expected larger images, a smaller kernel_size or "
                f'padding="same". Received: image_shape={self.image_shape}, '
                f"kernel_size={self.kernel_size}, "
                f"conv_strides={self.conv_strides}, "
                f"primary_strides={self.primary_strides}"
            )


def _fitting_kernel_size(image_shape):
    """The largest odd sizes up to 9 that leave a grid to the second window."""
    thirds = [max(1, (size + 1) // 3) for size in image_shape[:2]]
    return tuple(min(9, third - 1 + third % 2) for third in thirds)
