"""The network that showed how few parameters capsules need."""

import keras

from keras_capsules import routing as routings
from keras_capsules.engine.windows import output_length
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models._network import CapsuleNetwork
from keras_capsules.models._network import check_integers
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer

# The largest map that is left to the primary capsules by default, and the
# shorter side of images from which on convolutions leave out their margins.
_LARGEST_MAP = 9
_SMALLEST_VALID = 20
_LARGE_IMAGE = 40

# The shape of images for which the paper leaves out a row and a column.
_MULTI_MNIST = (36, 36)


@keras.saving.register_keras_serializable(package="keras_capsules")
class EfficientCapsNet(CapsuleNetwork):
    """A small capsule network with self-attention routing.

    A few convolutions shrink the image to a small map of many channels. Each
    number of a primary capsule is one channel, weighed over the whole map: 16
    capsules hold all that was found anywhere. They vote for the class
    capsules, whose lengths are the class scores, in one pass of self-attention
    routing. In training, a decoder draws the image from the capsule of the
    labelled class, as in `CapsNet`:

    ```
    loss = compiled loss
         + reconstruction_weight * (mean over images of the sum over pixels of
                                    (reconstruction - image)^2)
    ```

    It is one `keras.Model`, with the methods of `CapsNet`.

    Notation: section 3 of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491). The default
    arguments give the paper's networks, without decoder, for MNIST (161,824
    trainable parameters) and, by the shape of the images, for MultiMNIST
    (36 by 36 pixels, 154,656) and smallNORB (48 by 48 by 2, five classes,
    151,664). Convolutions are followed by the activation, then by the
    normalization. The last network has in the paper also
    `normalization="instance"`, `activation="leaky_relu"`,
    `decoder_units=None` and `decoder_filters=(64, 128, 128)`. (The authors'
    code has a slope of 0.3 in the former, where Keras has 0.2, and draws scales
    and offsets of the normalization at random; here they begin at 1 and 0.)
    Initial weights of the capsule layers are ours: as normalization lets
    primary capsules begin at full length, those of class capsules begin short,
    or else their squash would hardly let them learn.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Sequence of positive integers, the filters of all convolutions
            but the last, which has `num_primary_capsules * primary_dim`.
            Defaults to `(32, 64, 64)`.
        kernel_sizes: Sequence of positive integers, the windows of all
            convolutions, one more than `filters`. Defaults to `None`: 5 first,
            7 for images of at least 40 pixels, and then 3.
        strides: Sequence of positive integers, of all convolutions. Defaults
            to `None`: 1 but for the last, which has 2, and as many before it
            as it takes to leave a map of at most 9 by 9; for images of at
            least 40 pixels, the first has 2 as well.
        padding: `"valid"` or `"same"`, of the convolutions. Defaults to
            `None`, `"same"` for images of less than 20 pixels, which would
            otherwise vanish, and the paper's `"valid"` for others. (All these
            sizes are those of the shorter side.)
        normalization: `"batch"`, `"instance"` (each map of each image by
            itself) or `None`. Defaults to `"batch"`.
        activation: What `keras.activations.get` takes, of the convolutions.
            Defaults to `"relu"`.
        num_primary_capsules: Positive integer. Defaults to `16`.
        primary_dim: Positive integer, the length of their poses. Defaults to
            `8`.
        primary_kernel_size: Positive integer, the window of the primary
            capsules on the last map. Defaults to `None`, the whole map; for
            images of 36 by 36 pixels and convolutions by default the paper's
            5, which leaves out a row and a column.
        primary_strides: Positive integer, the window's strides. With a window
            smaller than the map, there may be primary capsules at several
            positions; with the whole map, only 1 is possible. Defaults to
            `None`, which is 1, or 2 with the paper's 5.
        capsule_dim: Positive integer, the length of the class capsules'
            poses. Defaults to `16`.
        routing: Name or instance of a `keras_capsules.routing.Routing`, with
            scores as in `CapsNet`. Defaults to `"self_attention"`. The class
            capsules have no bias.
        decoder_units: Sequence of positive integers, the sizes of the hidden
            layers of a dense decoder, or `None`. Defaults to `(512, 1024)`.
        decoder_filters: Sequence of positive integers, instead of
            `decoder_units`: the filters of a decoder that doubles a small
            drawing in size and convolves it, as many times. If both are
            `None`, the default for this one, there is no decoder.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. Without a decoder it has no
            effect. Defaults to `0.0005`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels between 0 and 1, for the
        decoder draws with a sigmoid. A pixel that is not a number makes all
        scores of its image NaN, and in `fit` the loss: add
        `keras.callbacks.TerminateOnNaN()` to stop there.

    Output shape:
        `(batch, num_classes)`, the lengths of the class capsules, or other
        scores: see `routing`.

    Raises:
        ValueError: If an argument is not as described, the images are not of
            `image_shape` or too small for the windows, or labels do not fit
            `num_classes`. In `fit`, a label that names no class makes the
            loss NaN.

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

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=(32, 64, 64),
        kernel_sizes=None,
        strides=None,
        padding=None,
        normalization="batch",
        activation="relu",
        num_primary_capsules=16,
        primary_dim=8,
        primary_kernel_size=None,
        primary_strides=None,
        capsule_dim=16,
        routing="self_attention",
        decoder_units=(512, 1024),
        decoder_filters=None,
        reconstruction_weight=0.0005,
        **kwargs,
    ):
        super().__init__(
            image_shape, num_classes, reconstruction_weight, **kwargs
        )
        self.filters = check_integers(filters, "filters")
        number = len(self.filters) + 1
        if padding is None:
            small = min(self.image_shape[:2]) < _SMALLEST_VALID
            padding = "same" if small else "valid"
        self.padding = check_choice(padding, "padding", ("valid", "same"))
        by_default = kernel_sizes is None and strides is None
        if kernel_sizes is None:
            kernel_sizes = self._default_kernel_sizes(number)
        self.kernel_sizes = check_integers(kernel_sizes, "kernel_sizes", number)
        if strides is None:
            strides = self._default_strides(number)
        self.strides = check_integers(strides, "strides", number)
        if normalization is not None:
            check_choice(normalization, "normalization", ("batch", "instance"))
        self.normalization = normalization
        self.activation = keras.activations.get(activation)
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.primary_dim = check_integer(primary_dim, "primary_dim")
        # Also where another map would do: the paper's, at the paper's count.
        multi_mnist = (
            by_default
            and self.image_shape[:2] == _MULTI_MNIST
            and self._map_size(self.strides) == [6, 6]
        )
        if primary_strides is None:
            papers = multi_mnist and primary_kernel_size is None
            primary_strides = 2 if papers else 1
        self.primary_strides = check_integer(primary_strides, "primary_strides")
        if primary_kernel_size is not None:
            primary_kernel_size = check_integer(
                primary_kernel_size, "primary_kernel_size"
            )
        elif multi_mnist:
            primary_kernel_size = 5
        self.primary_kernel_size = primary_kernel_size
        if primary_kernel_size is None and self.primary_strides > 1:
            raise ValueError(
                "A window of the whole map has nowhere to go. Expected "
                "primary_strides=1, or a primary_kernel_size. Received: "
                f"primary_strides={self.primary_strides}, "
                "primary_kernel_size=None"
            )
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_units = decoder_units
        if decoder_units is not None:
            self.decoder_units = check_integers(decoder_units, "decoder_units")
        self.decoder_filters = decoder_filters
        if decoder_filters is not None:
            self.decoder_filters = check_integers(
                decoder_filters, "decoder_filters"
            )
            if decoder_units is not None:
                raise ValueError(
                    "A decoder is either dense or convolutional. Expected "
                    "decoder_units=None or decoder_filters=None. Received: "
                    f"decoder_units={decoder_units!r}, "
                    f"decoder_filters={decoder_filters!r}"
                )
        self._check_windows()
        self._assemble()

    def _default_kernel_sizes(self, number):
        large = min(self.image_shape[:2]) >= _LARGE_IMAGE
        return (7 if large else 5,) + (3,) * (number - 1)

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
        sizes = []
        for size in self.image_shape[:2]:
            for window, stride in zip(self.kernel_sizes, strides, strict=True):
                size = output_length(size, window, stride, self.padding)
            sizes.append(size)
        return sizes

    def _check_windows(self):
        sizes = self._map_size(self.strides)
        if min(sizes) < (self.primary_kernel_size or 1):
            remedy = ', or padding="same"' if self.padding == "valid" else ""
            raise ValueError(
                "The images are too small for these windows, which leave a "
                f"map of {tuple(max(size, 0) for size in sizes)}. Expected "
                "larger images, smaller kernel_sizes, primary_kernel_size or "
                f"strides{remedy}. Received: image_shape={self.image_shape}, "
                f"kernel_sizes={self.kernel_sizes}, strides={self.strides}, "
                f"padding={self.padding!r}, "
                f"primary_kernel_size={self.primary_kernel_size}"
            )

        if self.normalization == "instance" and sizes == [1, 1]:
            raise ValueError(
                "What is left of a map of one pixel, normalized by itself, is "
                "nothing. Expected larger images, smaller strides or another "
                'normalization. Received: normalization="instance", '
                f"image_shape={self.image_shape}, "
                f"kernel_sizes={self.kernel_sizes}, strides={self.strides}"
            )

    def _make_encoder(self):
        layers = []
        last = self.num_primary_capsules * self.primary_dim
        for filters, kernel_size, strides in zip(
            (*self.filters, last), self.kernel_sizes, self.strides, strict=True
        ):
            layers.append(
                keras.layers.Conv2D(
                    filters,
                    kernel_size,
                    strides,
                    self.padding,
                    data_format="channels_last",
                    activation=self.activation,
                    kernel_initializer="he_normal",
                    dtype=self.dtype_policy,
                )
            )
            if self.normalization == "batch":
                layers.append(
                    keras.layers.BatchNormalization(dtype=self.dtype_policy)
                )
            elif self.normalization == "instance":
                layers.append(
                    keras.layers.GroupNormalization(
                        groups=-1, dtype=self.dtype_policy
                    )
                )
        primary_capsules = PrimaryCapsules(
            self.num_primary_capsules,
            self.primary_dim,
            self.primary_kernel_size or self._map_size(self.strides),
            self.primary_strides,
            depthwise=True,
            activation="exponential_squash",
            name="primary_capsules",
            dtype=self.dtype_policy,
        )
        class_capsules = self._class_capsules(
            self.capsule_dim,
            self.routing,
            use_bias=False,
        )
        return self._stack(
            self.image_shape,
            [*layers, primary_capsules, *class_capsules],
            name="encoder",
        )

    def _make_decoder(self):
        if self.decoder_units is not None:
            return self._dense_decoder(self.decoder_units)
        if self.decoder_filters is not None:
            return self._convolutional_decoder()
        return None

    def _convolutional_decoder(self):
        # From the image backwards: every convolution takes a pixel off each
        # side, so the maps before it are larger than half of those after it.
        size = [length + 2 for length in self.image_shape[:2]]
        stages = []
        for filters in reversed(self.decoder_filters):
            doubled = [length + 2 for length in size]
            size = [(length + 1) // 2 for length in doubled]
            surplus = [
                (0, 2 * small - large)
                for small, large in zip(size, doubled, strict=True)
            ]
            stages.append((filters, surplus))
        layers = [
            keras.layers.Reshape((-1,), dtype=self.dtype_policy),
            keras.layers.Dense(
                size[0] * size[1],
                activation="leaky_relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
            ),
            keras.layers.Reshape((*size, 1), dtype=self.dtype_policy),
        ]
        for filters, surplus in reversed(stages):
            layers.append(
                keras.layers.UpSampling2D(
                    2,
                    interpolation="bilinear",
                    data_format="channels_last",
                    dtype=self.dtype_policy,
                )
            )
            if surplus != [(0, 0), (0, 0)]:
                layers.append(
                    keras.layers.Cropping2D(
                        surplus,
                        data_format="channels_last",
                        dtype=self.dtype_policy,
                    )
                )
            layers.append(
                keras.layers.Conv2D(
                    filters,
                    3,
                    data_format="channels_last",
                    activation="leaky_relu",
                    kernel_initializer="he_normal",
                    dtype=self.dtype_policy,
                )
            )
        layers.append(
            keras.layers.Conv2D(
                self.image_shape[2],
                3,
                data_format="channels_last",
                activation="sigmoid",
                dtype=self._output_dtype,
            )
        )
        return self._stack(self._pose_shape, layers, "decoder")

    def get_config(self):
        config = {
            "filters": self.filters,
            "kernel_sizes": self.kernel_sizes,
            "strides": self.strides,
            "padding": self.padding,
            "normalization": self.normalization,
            "activation": keras.activations.serialize(self.activation),
            "num_primary_capsules": self.num_primary_capsules,
            "primary_dim": self.primary_dim,
            "primary_kernel_size": self.primary_kernel_size,
            "primary_strides": self.primary_strides,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "decoder_units": self.decoder_units,
            "decoder_filters": self.decoder_filters,
        }
        return {**super().get_config(), **config}
