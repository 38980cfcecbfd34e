"""The network of capsules that are routed concurrently."""

import keras

from keras_capsules.engine.windows import output_length
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.layers.conv_capsules import ConvCapsules2D
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models._network import CapsuleNetwork
from keras_capsules.models._network import PoseScores
from keras_capsules.models._network import check_integers
from keras_capsules.routing.inverted_attention import InvertedAttentionRouting
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class InvertedAttentionCapsNet(CapsuleNetwork):
    """Capsules routed by inverted attention, all layers of them together.

    Convolutions, primary capsules whose poses are normalized, and a
    `CapsuleStack` of convolutional capsule layers and a layer of class
    capsules. Poses have no lengths to speak of: a dense layer with one output,
    shared by all class capsules, and a sigmoid make scores of them.

    It is one `keras.Model`, with `fit`, `predict`, `encode`, `decode` and
    `reconstruct` as described in `CapsNet`; `encode` returns pairs of poses and
    scores. The paper's network has no decoder, and this one has none unless
    `decoder_units` are given.

    Notation: [Tsai et al., 2020](https://arxiv.org/abs/2002.04764). The paper
    has a residual network below the capsules, for which a few convolutions
    stand here; a softmax and cross-entropy above, which for one class of many
    does what the sigmoid and `MarginLoss` or binary cross-entropy do here.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Sequence of positive integers, the filters of the convolutions
            of 3 x 3, each followed by batch normalization. Defaults to
            `(32, 64)`.
        filter_strides: Sequence of as many positive integers, their strides.
            Defaults to `None`: 1, and 2 for the last one if images have at
            least 20 pixels on each side.
        num_capsules: Positive integer, the types of capsules in all layers but
            the last. Defaults to `16`.
        capsule_dim: Positive integer, the length of all poses. Defaults to
            `16`.
        conv_strides: Sequence of positive integers, one for each convolutional
            capsule layer, whose windows are 3 x 3: their strides. Defaults to
            `(2, 1)`.
        num_iterations: Positive integer, the iterations of the stack. Defaults
            to `2`.
        concurrent: Boolean, whether all layers are routed together. Defaults to
            `True`.
        decoder_units: Sequence of positive integers, the sizes of the hidden
            layers of a decoder; `None`, the default, for none.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. Without a decoder it has no
            effect. Defaults to `0.0005`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels between 0 and 1.

    Output shape:
        `(batch, num_classes)`, the scores of the class capsules.

    Raises:
        ValueError: If an argument is not as described, the images are not of
            `image_shape` or too small for the windows, or labels do not fit
            `num_classes`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.models import InvertedAttentionCapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = InvertedAttentionCapsNet((8, 8, 1), 3, num_capsules=4)
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    ```
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=(32, 64),
        filter_strides=None,
        num_capsules=16,
        capsule_dim=16,
        conv_strides=(2, 1),
        num_iterations=2,
        concurrent=True,
        decoder_units=None,
        reconstruction_weight=0.0005,
        **kwargs,
    ):
        super().__init__(
            image_shape, num_classes, reconstruction_weight, **kwargs
        )
        self.filters = check_integers(filters, "filters")
        if not self.filters:
            raise ValueError(
                "Invalid value for argument `filters`. Expected at least one "
                f"convolution. Received: filters={filters!r}"
            )
        if filter_strides is None:
            last = 2 if min(self.image_shape[:2]) >= 20 else 1
            filter_strides = (1,) * (len(self.filters) - 1) + (last,)
        self.filter_strides = check_integers(
            filter_strides, "filter_strides", len(self.filters)
        )
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.conv_strides = check_integers(conv_strides, "conv_strides")
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.concurrent = check_boolean(concurrent, "concurrent")
        self.decoder_units = decoder_units
        if decoder_units is not None:
            self.decoder_units = check_integers(decoder_units, "decoder_units")
        self._check_windows()
        self._assemble()

    def _check_windows(self):
        for size in self.image_shape[:2]:
            for strides in self.filter_strides:
                size = output_length(size, 3, strides, "same")
            for strides in self.conv_strides:
                size = output_length(size, 3, strides, "valid")
            if size < 1:
                raise ValueError(
                    "The images are too small for these layers. Expected "
                    "larger images, smaller strides or fewer conv_strides. "
                    f"Received: image_shape={self.image_shape}, "
                    f"filter_strides={self.filter_strides}, "
                    f"conv_strides={self.conv_strides}"
                )

    def _make_encoder(self):
        layers = []
        for filters, strides in zip(
            self.filters, self.filter_strides, strict=True
        ):
            layers += [
                keras.layers.Conv2D(
                    filters,
                    3,
                    strides,
                    "same",
                    data_format="channels_last",
                    activation="relu",
                    kernel_initializer="he_normal",
                    dtype=self.dtype_policy,
                ),
                keras.layers.BatchNormalization(dtype=self.dtype_policy),
            ]
        primary_capsules = PrimaryCapsules(
            self.num_capsules,
            self.capsule_dim,
            kernel_size=1,
            activation=None,
            use_bias=False,
            name="primary_capsules",
            dtype=self.dtype_policy,
        )
        normalization = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy
        )
        options = {
            "capsule_dim": self.capsule_dim,
            # How often is up to the stack.
            "routing": InvertedAttentionRouting(num_iterations=1),
            "dtype": self.dtype_policy,
        }
        capsules = [
            ConvCapsules2D(
                self.num_capsules,
                kernel_size=3,
                strides=strides,
                name=f"conv_capsules_{index}",
                **options,
            )
            for index, strides in enumerate(self.conv_strides, 1)
        ]
        capsules.append(
            CapsuleLayer(self.num_classes, name="class_capsules", **options)
        )
        stack = CapsuleStack(
            capsules,
            self.num_iterations,
            self.concurrent,
            name="capsules",
            dtype=self.dtype_policy,
        )
        scores = PoseScores(name="class_scores", dtype=self.dtype_policy)
        return self._stack(
            self.image_shape,
            [*layers, primary_capsules, normalization, stack, scores],
            name="encoder",
        )

    def _make_decoder(self):
        if self.decoder_units is None:
            return None
        return self._dense_decoder(self.decoder_units)

    def get_config(self):
        config = {
            "filters": self.filters,
            "filter_strides": self.filter_strides,
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "conv_strides": self.conv_strides,
            "num_iterations": self.num_iterations,
            "concurrent": self.concurrent,
            "decoder_units": self.decoder_units,
        }
        return {**super().get_config(), **config}
