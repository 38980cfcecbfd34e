"""A baseline: convolutions, pooling and dense layers."""

from collections.abc import Sequence
from typing import Any
from typing import Self

import keras

from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models.base import Network
from keras_capsules.models.base import get_policy
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers
from keras_capsules.utils.validation import check_number
from keras_capsules.utils.validation import check_sizes


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvNet(Network):
    """A convolutional network with max pooling and dense layers.

    Convolutions, each followed by a ReLU and pooling, then dense layers with
    dropout.

    By default it has about as many parameters as `EfficientCapsNet`: 159,254.
    With `filters=(64, 128, 256), units=(1570,)` it has about as many as the
    encoder of `CapsNet`: 6.8 million. `ConvNet.sabour_2017()` is the baseline
    of [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), with 35.4
    million.

    Scores are probabilities. To train the network on one class per image, use
    `activation="softmax"` and `"sparse_categorical_crossentropy"` (integer
    labels) or `"categorical_crossentropy"` (one-hot labels); on any number of
    classes, `activation="sigmoid"` and `"binary_crossentropy"` (multi-hot
    labels). `MarginLoss` takes labels of all forms and goes with either.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Sequence of positive integers, the filters of the
            convolutions. Defaults to `(32, 64, 64)`.
        kernel_size: Positive integer or pair of them, the window of all
            convolutions. Defaults to `3`.
        pool_size: Positive integer or pair of them, the window of the max
            pooling after each convolution; `1` for none. Incomplete windows at
            the margins count as well. Defaults to `2`.
        units: Sequence of positive integers, the sizes of the hidden dense
            layers. Defaults to `(100,)`.
        dropout: Number of at least 0 and below 1, the share of inputs of the
            last dense layer that is dropped in training. Defaults to `0.5`.
        activation: `"softmax"` or `"sigmoid"`, of the scores. Defaults to
            `"softmax"`.
        normalization: `"batch"`, of each convolution before its ReLU; or
            `None`. Defaults to `None`.
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
    from keras_capsules.models import ConvNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = ConvNet((8, 8, 1), 3, filters=(8, 16))
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: Sequence[int] = (32, 64, 64),
        kernel_size: Sizes = 3,
        pool_size: Sizes = 2,
        units: Sequence[int] = (100,),
        dropout: float = 0.5,
        activation: str = "softmax",
        normalization: str | None = None,
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
        self.kernel_size = check_sizes(kernel_size, "kernel_size", 2)
        self.pool_size = check_sizes(pool_size, "pool_size", 2)
        self.units = check_integers(units, "units")
        self.dropout = check_number(dropout, "dropout", minimum=0.0)
        if self.dropout >= 1:
            raise ValueError(
                "Invalid value for argument `dropout`. Expected a number "
                f"below 1. Received: dropout={dropout!r}"
            )
        if normalization is not None:
            check_choice(normalization, "normalization", ("batch",))
        self.normalization = normalization
        images = parts.image_input(self.image_shape, dtype)
        features = self._make_features(images, dtype)
        scores = parts.class_scores(
            images, features, self.num_classes, self.activation, dtype
        )
        super().__init__(images, scores, **kwargs)

    @classmethod
    def sabour_2017(cls, **kwargs: Any) -> Self:
        """The baseline of Sabour et al., with 35.4 million parameters.

        Args:
            **kwargs: Arguments that differ.
        """
        options = {
            "filters": (256, 256, 128),
            "kernel_size": 5,
            "pool_size": 1,
            "units": (328, 192),
        }
        return cls(**{**options, **kwargs})

    def _make_features(self, x, dtype):
        normalized = self.normalization is not None
        for index, filters in enumerate(self.filters, 1):
            x = parts.convolution(
                filters,
                self.kernel_size,
                dtype,
                padding="same",
                use_bias=not normalized,
                activation=None if normalized else "relu",
                name=f"convolution_{index}",
            )(x)
            if normalized:
                x = keras.layers.BatchNormalization(
                    name=f"normalization_{index}", dtype=dtype
                )(x)
                x = keras.layers.ReLU(name=f"relu_{index}", dtype=dtype)(x)
            if self.pool_size != (1, 1):
                x = keras.layers.MaxPooling2D(
                    self.pool_size,
                    padding="same",
                    data_format="channels_last",
                    name=f"pooling_{index}",
                    dtype=dtype,
                )(x)
        x = keras.layers.Reshape((-1,), name="flatten", dtype=dtype)(x)
        for index, units in enumerate(self.units, 1):
            x = keras.layers.Dense(
                units,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"hidden_{index}",
                dtype=dtype,
            )(x)
        return keras.layers.Dropout(self.dropout, name="dropout", dtype=dtype)(
            x
        )
