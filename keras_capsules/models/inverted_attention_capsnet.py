"""The network of capsules that are routed concurrently."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.layers.conv_capsules import ConvCapsules2D
from keras_capsules.layers.pose_scores import PoseScores
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models import decoders
from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models.base import get_policy
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.routing.inverted_attention import InvertedAttentionRouting
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_for_each
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers


@keras.saving.register_keras_serializable(package="keras_capsules")
class InvertedAttentionCapsNet(CapsuleNetwork):
    """Capsules routed by inverted attention, all layers of them together.

    Convolutions, primary capsules whose poses are normalized, and a
    `CapsuleStack` of convolutional capsule layers and a layer of class
    capsules. The length of a pose says nothing about the presence of a class: a
    `PoseScores` layer makes scores. See `CapsuleNetwork` for the loss and the
    methods; `encode` returns pairs of poses and scores. The paper's network has
    no decoder, and this one has none unless `decoder_units` are given.

    Notation: [Tsai et al., 2020](https://arxiv.org/abs/2002.04764). The paper
    has a residual network below the capsules; here are a few convolutions. It
    has a softmax and cross-entropy above; for one class of many, the sigmoid
    and `MarginLoss` or binary cross-entropy do the same here.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Sequence of positive integers, the filters of the convolutions
            of 3 x 3, each followed by batch normalization. Defaults to
            `(32, 64)`.
        conv_strides: Positive integer, or one for each, their strides.
            Defaults to `None`: 1, and 2 for the last one if images have at
            least 20 pixels on each side.
        num_primary_capsules: Positive integer, the types of primary capsules.
            Defaults to `16`.
        num_conv_capsules: Sequence of positive integers, the types of capsules
            in each of the convolutional capsule layers, whose windows are
            3 x 3. Defaults to `(16, 16)`.
        capsule_strides: Positive integer, or one for each, the strides of these
            layers. Defaults to `(2, 1)`.
        capsule_dim: Positive integer, the length of the class capsules' poses
            and, in this network, of all others. Defaults to `16`.
        num_iterations: Positive integer, the iterations of the stack. Defaults
            to `2`.
        concurrent: Boolean, whether all layers are routed together. Defaults to
            `True`.
        decoder_units: Sequence of positive integers, the sizes of the hidden
            layers of a decoder; `None`, the default, for none.
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
        all scores of its image NaN.

    Output shape:
        `(batch, num_classes)`, the scores of the class capsules.

    Raises:
        ValueError: If an argument is not as described, the images do not have
            the shape `image_shape` or are too small for the windows, or labels
            do not fit `num_classes`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.models import InvertedAttentionCapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = InvertedAttentionCapsNet(
        (8, 8, 1), 3, num_primary_capsules=4, num_conv_capsules=(4, 4)
    )
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: Sequence[int] = (32, 64),
        conv_strides: int | Sequence[int] | None = None,
        num_primary_capsules: int = 16,
        num_conv_capsules: Sequence[int] = (16, 16),
        capsule_strides: int | Sequence[int] = (2, 1),
        capsule_dim: int = 16,
        num_iterations: int = 2,
        concurrent: bool = True,
        decoder_units: Sequence[int] | None = None,
        reconstruction_weight: float = 0.0005,
        weights: pretrained.Weights = None,
        **kwargs: Any,
    ):
        dtype = get_policy(self, kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.filters = check_integers(filters, "filters")
        if not self.filters:
            raise ValueError(
                "Invalid value for argument `filters`. Expected at least one "
                f"convolution. Received: filters={filters!r}"
            )
        if conv_strides is None:
            last = 2 if min(self.image_shape[:2]) >= 20 else 1
            conv_strides = (1,) * (len(self.filters) - 1) + (last,)
        self.conv_strides = check_for_each(
            conv_strides, "conv_strides", len(self.filters)
        )
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.num_conv_capsules = check_integers(
            num_conv_capsules, "num_conv_capsules"
        )
        self.capsule_strides = check_for_each(
            capsule_strides, "capsule_strides", len(self.num_conv_capsules)
        )
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.concurrent = check_boolean(concurrent, "concurrent")
        self.decoder_units = check_integers(
            decoder_units, "decoder_units", optional=True
        )
        self._check_windows()
        images = parts.image_input(self.image_shape, dtype)
        capsules = self._make_capsules(images, dtype)
        decoder = decoders.dense_decoder(
            capsules, self.image_shape, self.decoder_units, dtype
        )
        super().__init__(
            images, capsules, decoder, reconstruction_weight, **kwargs
        )

    def _check_windows(self):
        windows = [(3, strides, "same") for strides in self.conv_strides]
        windows += [(3, strides, "valid") for strides in self.capsule_strides]
        if min(parts.grid_after(self.image_shape, windows)) < 1:
            raise ValueError(
                "The images are too small for these layers. Expected larger "
                "images, smaller strides or fewer num_conv_capsules. Received: "
                f"image_shape={self.image_shape}, "
                f"conv_strides={self.conv_strides}, "
                f"capsule_strides={self.capsule_strides}"
            )

    def _make_capsules(self, x, dtype):
        for index, (filters, strides) in enumerate(
            zip(self.filters, self.conv_strides, strict=True), 1
        ):
            x = parts.convolution(
                filters,
                3,
                dtype,
                strides=strides,
                padding="same",
                name=f"convolution_{index}",
            )(x)
            x = keras.layers.BatchNormalization(
                name=f"normalization_{index}", dtype=dtype
            )(x)
        x = PrimaryCapsules(
            self.num_primary_capsules,
            self.capsule_dim,
            kernel_size=1,
            activation=None,
            use_bias=False,
            name="primary_capsules",
            dtype=dtype,
        )(x)
        x = keras.layers.LayerNormalization(
            epsilon=1e-5, name="pose_normalization", dtype=dtype
        )(x)
        # The stack decides about the iterations.
        routing = InvertedAttentionRouting(num_iterations=1)
        layers = [
            ConvCapsules2D(
                number,
                self.capsule_dim,
                kernel_size=3,
                strides=strides,
                routing=routing,
                name=f"conv_capsules_{index}",
                dtype=dtype,
            )
            for index, (number, strides) in enumerate(
                zip(self.num_conv_capsules, self.capsule_strides, strict=True),
                1,
            )
        ]
        layers.append(
            CapsuleLayer(
                self.num_classes,
                self.capsule_dim,
                routing=routing,
                name="classes",
                dtype=dtype,
            )
        )
        x = CapsuleStack(
            layers,
            self.num_iterations,
            self.concurrent,
            name="class_capsules",
            dtype=dtype,
        )(x)
        return PoseScores(name="class_scores", dtype=dtype)(x)
