"""The network that showed how few parameters capsules need."""

import os
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras

from keras_capsules import routing as routings
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models import decoders
from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models import published
from keras_capsules.models.base import get_policy
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.types import ActivationLike
from keras_capsules.types import Tensor
from keras_capsules.utils.registration import register_function
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_for_each
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers
from keras_capsules.utils.validation import check_padding

# The largest map that is left to the primary capsules by default, and the
# shorter side of images from which on convolutions leave out their margins.
_LARGEST_MAP = 9
_SMALLEST_VALID = 20
_LARGE_IMAGE = 40


@register_function
def steep_leaky_relu(x: Tensor) -> Tensor:
    """A leaky ReLU with a slope of 0.3, the default of the layer in Keras."""
    return keras.ops.leaky_relu(x, 0.3)


@keras.saving.register_keras_serializable(package="keras_capsules")
class EfficientCapsNet(CapsuleNetwork):
    """A small capsule network with self-attention routing.

    A few convolutions shrink the image to a small map of many channels. Each
    number of a primary capsule is one channel, weighted over the whole map: 16
    capsules represent the whole image. They vote for the class capsules, whose
    lengths are the class scores, in one pass of self-attention routing. In
    training, a decoder reconstructs the image from the capsule of the labelled
    class. See `CapsuleNetwork` for the loss and the methods.

    Notation: section 3 of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491). The default
    arguments make the paper's network for MNIST, with 161,824 trainable
    parameters in the encoder. `EfficientCapsNet.multi_mnist()` (154,656) and
    `EfficientCapsNet.small_norb()` (151,664) make the others. Convolutions are
    followed by the activation, then by the normalization. Initial weights of
    the capsule layers are ours: because normalization lets primary capsules
    begin at full length, class capsules begin short, or their squash would
    hardly let them learn.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Sequence of positive integers, the filters of all convolutions
            but the last, which has `num_primary_capsules * primary_dim`.
            Defaults to `(32, 64, 64)`.
        kernel_sizes: Sequence of positive integers, the windows of all
            convolutions, one more than `filters`; or one integer. Defaults to
            `None`: 5 first, 7 for images of at least 40 pixels, and then 3.
        conv_strides: Sequence of positive integers, or one, of all
            convolutions. Defaults to `None`: the last convolution has strides
            of 2, and so do the convolutions before it, until the map is at most
            9 by 9; the others have strides of 1. For images of at least 40
            pixels, the first has 2 as well.
        padding: `"valid"` or `"same"`, of the convolutions. Defaults to
            `None`: the paper's `"valid"`, or `"same"` for images of less than
            20 pixels, which would otherwise vanish. (All these sizes refer
            to the shorter side.)
        normalization: `"batch"`, `"instance"` (each map of each image by
            itself) or `None`. Defaults to `"batch"`.
        activation: The activation of the convolutions, as
            `keras.activations.get` takes it. Defaults to `"relu"`.
        num_primary_capsules: Positive integer. Defaults to `16`.
        primary_dim: Positive integer, the length of their poses. Defaults to
            `8`.
        primary_kernel_size: Positive integer, the window of the primary
            capsules on the last map. Defaults to `None`, the whole map.
        primary_strides: Positive integer, the window's strides. With a window
            smaller than the map, there may be primary capsules at several
            positions; with the whole map, only 1 is possible. Defaults to `1`.
        capsule_dim: Positive integer, the length of the class capsules' poses.
            Defaults to `16`.
        routing: A routing algorithm, with scores as in `CapsNet`. Defaults to
            `"self_attention"`. The class capsules have no bias.
        decoder_units: Sequence of positive integers, the sizes of the hidden
            layers of a dense decoder, or `None`. Defaults to `(512, 1024)`.
        decoder_filters: Sequence of positive integers, instead of
            `decoder_units`: the filters of a convolutional decoder, which
            doubles a small map in size and convolves it, once for each of
            them. Defaults to `None`. If both are `None`, there is no decoder.
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
    from keras_capsules.models import EfficientCapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = EfficientCapsNet((8, 8, 1), 3, filters=(8, 8))
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    capsules = model.encode(images)  # (20, 3, 16)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: Sequence[int] = (32, 64, 64),
        kernel_sizes: int | Sequence[int] | None = None,
        conv_strides: int | Sequence[int] | None = None,
        padding: str | None = None,
        normalization: str | None = "batch",
        activation: ActivationLike = "relu",
        num_primary_capsules: int = 16,
        primary_dim: int = 8,
        primary_kernel_size: int | None = None,
        primary_strides: int = 1,
        capsule_dim: int = 16,
        routing: routings.RoutingLike = "self_attention",
        decoder_units: Sequence[int] | None = (512, 1024),
        decoder_filters: Sequence[int] | None = None,
        reconstruction_weight: float = 0.0005,
        weights: pretrained.Weights = None,
        **kwargs: Any,
    ):
        dtype = get_policy(self, kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.filters = check_integers(filters, "filters")
        if padding is None:
            small = min(self.image_shape[:2]) < _SMALLEST_VALID
            padding = "same" if small else "valid"
        self.padding = check_padding(padding)
        number = len(self.filters) + 1
        if kernel_sizes is None:
            large = min(self.image_shape[:2]) >= _LARGE_IMAGE
            kernel_sizes = (7 if large else 5,) + (3,) * (number - 1)
        self.kernel_sizes = check_for_each(kernel_sizes, "kernel_sizes", number)
        if conv_strides is None:
            conv_strides = self._default_strides(number)
        self.conv_strides = check_for_each(conv_strides, "conv_strides", number)
        if normalization is not None:
            check_choice(normalization, "normalization", ("batch", "instance"))
        self.normalization = normalization
        self.activation = keras.activations.get(activation)
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.primary_dim = check_integer(primary_dim, "primary_dim")
        if primary_kernel_size is not None:
            primary_kernel_size = check_integer(
                primary_kernel_size, "primary_kernel_size"
            )
        self.primary_kernel_size = primary_kernel_size
        self.primary_strides = check_integer(primary_strides, "primary_strides")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_units = check_integers(
            decoder_units, "decoder_units", optional=True
        )
        self.decoder_filters = check_integers(
            decoder_filters, "decoder_filters", optional=True
        )
        self._check_options()
        images = parts.image_input(self.image_shape, dtype)
        capsules = self._make_capsules(images, dtype)
        super().__init__(
            images,
            capsules,
            self._make_decoder(capsules, dtype),
            reconstruction_weight,
            **kwargs,
        )

    @classmethod
    def multi_mnist(cls, **kwargs: Any) -> Self:
        """The paper's network for MultiMNIST: images of 36 by 36 pixels.

        The window of the primary capsules, 5 on a map of 6, leaves out a row
        and a column.

        Args:
            **kwargs: Arguments that differ.
        """
        options = {
            "image_shape": (36, 36, 1),
            "primary_kernel_size": 5,
            "primary_strides": 2,
        }
        return cls(**{**options, **kwargs})

    @classmethod
    def small_norb(cls, **kwargs: Any) -> Self:
        """The paper's network for smallNORB: images of 48 by 48 pixels.

        The activation is a leaky ReLU with the slope 0.3 of the authors' code.
        That code initializes scales and offsets of the normalization at random.
        Here they begin at 1 and 0.

        Args:
            **kwargs: Arguments that differ.
        """
        options = {
            "image_shape": (48, 48, 2),
            "num_classes": 5,
            "normalization": "instance",
            "activation": steep_leaky_relu,
            "decoder_units": None,
            "decoder_filters": (64, 128, 128),
        }
        return cls(**{**options, **kwargs})

    def load_published_weights(self, path: str | os.PathLike[str]) -> None:
        """Loads weights that the authors published.

        The files are those of <https://github.com/EscVM/Efficient-CapsNet>:
        `efficient_capsnet_MNIST.h5` for `EfficientCapsNet()`,
        `efficient_capsnet_MULTIMNIST.h5` for `EfficientCapsNet.multi_mnist()`
        and `efficient_capsnet_SMALLNORB.h5` for
        `EfficientCapsNet.small_norb()`. A network without a decoder
        (`decoder_units=None`) takes the weights of the encoder alone.

        Args:
            path: The file.

        Raises:
            ValueError: If it is no such file, or its weights do not fit. The
                network then keeps its own.
            OSError: If there is no such file.
        """
        published.load_efficient_capsnet(self, path)

    def _default_strides(self, number):
        strides = [1] * number
        if min(self.image_shape[:2]) >= _LARGE_IMAGE:
            strides[0] = 2
        for index in reversed(range(number)):
            strides[index] = 2
            if max(self._map_size(strides)) <= _LARGEST_MAP:
                break
        return strides

    def _map_size(self, strides):
        """Height and width of the last map; below 1 if there is none."""
        paddings = [self.padding] * len(strides)
        windows = zip(self.kernel_sizes, strides, paddings, strict=True)
        return parts.grid_after(self.image_shape, list(windows))

    def _check_options(self):
        if self.primary_kernel_size is None and self.primary_strides > 1:
            raise ValueError(
                "A window of the whole map has only one position. Expected "
                "primary_strides=1, or a primary_kernel_size. Received: "
                f"primary_strides={self.primary_strides}, "
                "primary_kernel_size=None"
            )
        if None not in (self.decoder_units, self.decoder_filters):
            raise ValueError(
                "A decoder is either dense or convolutional. Expected "
                "decoder_units=None or decoder_filters=None. Received: "
                f"decoder_units={self.decoder_units!r}, "
                f"decoder_filters={self.decoder_filters!r}"
            )
        received = (
            f"image_shape={self.image_shape}, "
            f"kernel_sizes={self.kernel_sizes}, "
            f"conv_strides={self.conv_strides}"
        )
        sizes = self._map_size(self.conv_strides)
        if min(sizes) < (self.primary_kernel_size or 1):
            remedy = ', or padding="same"' if self.padding == "valid" else ""
            raise ValueError(
                "The images are too small for these windows, which leave a "
                f"map of {tuple(max(size, 0) for size in sizes)}. Expected "
                "larger images, smaller kernel_sizes, primary_kernel_size or "
                f"conv_strides{remedy}. Received: {received}, "
                f"padding={self.padding!r}, "
                f"primary_kernel_size={self.primary_kernel_size}"
            )
        if self.normalization == "instance" and sizes == [1, 1]:
            raise ValueError(
                "Instance normalization turns a map of one pixel into zeros. "
                "Expected larger images, smaller strides or another "
                'normalization. Received: normalization="instance", '
                f"{received}"
            )

    def _make_capsules(self, x, dtype):
        last = self.num_primary_capsules * self.primary_dim
        for index, (filters, kernel_size, strides) in enumerate(
            zip(
                (*self.filters, last),
                self.kernel_sizes,
                self.conv_strides,
                strict=True,
            ),
            1,
        ):
            x = parts.convolution(
                filters,
                kernel_size,
                dtype,
                strides=strides,
                padding=self.padding,
                activation=self.activation,
                name=f"convolution_{index}",
            )(x)
            name = f"normalization_{index}"
            if self.normalization == "batch":
                x = keras.layers.BatchNormalization(name=name, dtype=dtype)(x)
            elif self.normalization == "instance":
                x = keras.layers.GroupNormalization(
                    groups=-1, name=name, dtype=dtype
                )(x)
        x = PrimaryCapsules(
            self.num_primary_capsules,
            self.primary_dim,
            self.primary_kernel_size or self._map_size(self.conv_strides),
            self.primary_strides,
            depthwise=True,
            activation="exponential_squash",
            name="primary_capsules",
            dtype=dtype,
        )(x)
        return parts.class_capsules(
            x,
            self.num_classes,
            self.capsule_dim,
            self.routing,
            dtype,
            use_bias=False,
        )

    def _make_decoder(self, capsules, dtype):
        if self.decoder_filters is None:
            return decoders.dense_decoder(
                capsules, self.image_shape, self.decoder_units, dtype
            )
        return decoders.convolutional_decoder(
            capsules, self.image_shape, self.decoder_filters, dtype
        )
