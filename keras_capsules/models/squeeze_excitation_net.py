"""A baseline: a residual network with channel attention."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules.layers.squeeze_excitation import SqueezeExcitation
from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models.base import Network
from keras_capsules.models.base import get_policy
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers


@keras.saving.register_keras_serializable(package="keras_capsules")
class SqueezeExcitationNet(Network):
    """A small residual network with channel attention.

    A convolution, then stages of residual blocks: two convolutions with batch
    normalization and a `SqueezeExcitation`, added to the input of the block.
    Each stage but the first halves the map. The scores are computed from the
    means over the last map. By default it has about as many parameters as
    `EfficientCapsNet`: 162,780 trainable ones.

    Scores are probabilities. To train the network on one class per image, use
    `activation="softmax"` and `"sparse_categorical_crossentropy"` (integer
    labels) or `"categorical_crossentropy"` (one-hot labels); on any number of
    classes, `activation="sigmoid"` and `"binary_crossentropy"` (multi-hot
    labels). `MarginLoss` takes labels of all forms and goes with either.

    Notation: SE-ResNet in
    [Hu et al., 2018](https://arxiv.org/abs/1709.01507), in the size of the
    networks for CIFAR-10 in
    [He et al., 2016](https://arxiv.org/abs/1512.03385).

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Sequence of at least one positive integer, the channels of
            each stage. Defaults to `(16, 32, 60)`.
        blocks: Positive integer, the residual blocks of a stage. Defaults to
            `2`.
        ratio: Positive integer, of `SqueezeExcitation`. Defaults to `8`.
        activation: `"softmax"` or `"sigmoid"`, of the scores. Defaults to
            `"softmax"`.
        weights: The name of trained weights (see `docs/weights.md`), which
            bring their own defaults of all arguments; or the path of a file
            that `save_weights` wrote. Defaults to `None`, random weights.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`. A pixel that is not finite makes
        all scores of its image NaN.

    Output shape:
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not as described, or the images do not
            have the shape `image_shape`.

    Example:

    ```python
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.models import SqueezeExcitationNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = SqueezeExcitationNet(
        (8, 8, 1), 3, filters=(8, 16), blocks=1, activation="sigmoid"
    )
    model.compile("adam", MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: Sequence[int] = (16, 32, 60),
        blocks: int = 2,
        ratio: int = 8,
        activation: str = "softmax",
        weights: pretrained.Weights = None,
        **kwargs: Any,
    ):
        dtype = get_policy(self, kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.activation = check_choice(
            activation, "activation", ("softmax", "sigmoid")
        )
        self.filters = check_integers(filters, "filters")
        if not self.filters:
            raise ValueError(
                "Invalid value for argument `filters`. Expected at least one "
                f"stage. Received: filters={filters!r}"
            )
        self.blocks = check_integer(blocks, "blocks")
        self.ratio = check_integer(ratio, "ratio")
        images = parts.image_input(self.image_shape, dtype)
        features = self._make_features(images, dtype)
        scores = parts.class_scores(
            images, features, self.num_classes, self.activation, dtype
        )
        super().__init__(images, scores, **kwargs)

    def _make_features(self, x, dtype):
        x = _convolve(x, self.filters[0], "stem", dtype)
        x = keras.layers.ReLU(name="stem", dtype=dtype)(x)
        for stage, filters in enumerate(self.filters, 1):
            for block in range(1, self.blocks + 1):
                strides = 2 if stage > 1 and block == 1 else 1
                name = f"stage_{stage}_block_{block}"
                x = self._residual_block(x, filters, strides, name, dtype)
        return keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", name="means", dtype=dtype
        )(x)

    def _residual_block(self, x, filters, strides, name, dtype):
        shortcut = x
        if strides > 1:
            shortcut = _convolve(
                x, filters, f"{name}_shortcut", dtype, 1, strides
            )
        x = _convolve(x, filters, f"{name}_first", dtype, strides=strides)
        x = keras.layers.ReLU(name=f"{name}_relu", dtype=dtype)(x)
        x = _convolve(x, filters, f"{name}_second", dtype)
        x = SqueezeExcitation(
            self.ratio, name=f"{name}_attention", dtype=dtype
        )(x)
        x = keras.layers.Add(name=f"{name}_sum", dtype=dtype)([shortcut, x])
        return keras.layers.ReLU(name=name, dtype=dtype)(x)


def _convolve(x, filters, name, dtype, kernel_size=3, strides=1):
    """A convolution and batch normalization."""
    x = parts.convolution(
        filters,
        kernel_size,
        dtype,
        strides=strides,
        padding="same",
        use_bias=False,
        activation=None,
        name=f"{name}_convolution",
    )(x)
    return keras.layers.BatchNormalization(
        name=f"{name}_normalization", dtype=dtype
    )(x)
