"""The networks that capsules are judged against: convolutions as usual."""

import keras

from keras_capsules.layers.squeeze_excitation import SqueezeExcitation
from keras_capsules.models._network import check_input_shape
from keras_capsules.models._network import check_integers
from keras_capsules.models._network import nan_like
from keras_capsules.models._network import of_shape
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair
from keras_capsules.utils.validation import check_number


class _Classifier(keras.Model):
    """The abstract base of both: a network from images to class scores.

    A subclass is final. Its constructor hands the common arguments on, stores
    its own, and calls `_assemble` at the end. It implements `_make_features`.
    """

    def __init__(self, image_shape, num_classes, activation, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.activation = check_choice(
            activation, "activation", ("softmax", "sigmoid")
        )

    def _make_features(self, images):
        """From symbolic images to what the scores are computed from."""
        raise NotImplementedError(
            f"{type(self).__name__} does not implement `_make_features`."
        )

    def _assemble(self):
        """Makes the network; for the end of a subclass's constructor."""
        # Scores are results: in 16 bits they would be rounded to two digits.
        dtype = at_least_float32(self.compute_dtype)
        images = keras.Input(self.image_shape, dtype=dtype)
        scores = keras.layers.Dense(
            self.num_classes, self.activation, name="scores", dtype=dtype
        )(self._make_features(images))
        self.network = keras.Model(images, scores, name="network")
        # Or else it would cast its input.
        self.network.dtype_policy = self.dtype_policy
        self.build((None, *self.image_shape))

    def build(self, input_shape):
        check_input_shape(input_shape, self.image_shape)
        self.input_spec = keras.layers.InputSpec(
            shape=(None, *self.image_shape)
        )

    def call(self, inputs, training=None):
        inputs = of_shape(inputs, self.image_shape)
        return nan_like(inputs, self.network(inputs, training=training))

    def compute_output_shape(self, input_shape):
        check_input_shape(input_shape, self.image_shape)
        return (input_shape[0], self.num_classes)

    def get_config(self):
        config = {
            "image_shape": self.image_shape,
            "num_classes": self.num_classes,
            "activation": self.activation,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvNet(_Classifier):
    """A convolutional network with max pooling and dense layers.

    Convolutions, each followed by pooling, then dense layers with dropout.

    By default it has about as many parameters as `EfficientCapsNet`: 159,254.
    With `filters=(64, 128, 256), units=(1570,)` they are about as many as in
    the encoder of `CapsNet`: 6.8 million. And

    ```python
    ConvNet(
        filters=(256, 256, 128), kernel_size=5, pool_size=1, units=(328, 192)
    )
    ```

    is the baseline of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), with 35.4 million.

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
        pool_size: Positive integer or pair of them: each convolution is
            followed by the maxima of as many pixels; `1` for none. What
            remains at the margins is pooled as well. Defaults to `2`.
        units: Sequence of positive integers, the sizes of the hidden dense
            layers. Defaults to `(100,)`.
        dropout: Number of at least 0 and below 1, the share of inputs of the
            last dense layer that is dropped in training. Defaults to `0.5`.
        activation: `"softmax"` or `"sigmoid"`, of the scores. Defaults to
            `"softmax"`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`. A pixel that is not a number makes
        all scores of its image NaN.

    Output shape:
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not as described, or the images are not
            of `image_shape`.

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

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=(32, 64, 64),
        kernel_size=3,
        pool_size=2,
        units=(100,),
        dropout=0.5,
        activation="softmax",
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, activation, **kwargs)
        self.filters = check_integers(filters, "filters")
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        self.pool_size = check_integer_pair(pool_size, "pool_size")
        self.units = check_integers(units, "units")
        self.dropout = check_number(dropout, "dropout", minimum=0.0)
        if self.dropout >= 1:
            raise ValueError(
                "Invalid value for argument `dropout`. Expected a number "
                f"below 1. Received: dropout={dropout!r}"
            )
        self._assemble()

    def _make_features(self, images):
        x = images
        for filters in self.filters:
            x = keras.layers.Conv2D(
                filters,
                self.kernel_size,
                padding="same",
                data_format="channels_last",
                activation="relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
            )(x)
            if self.pool_size != (1, 1):
                x = keras.layers.MaxPooling2D(
                    self.pool_size,
                    padding="same",
                    data_format="channels_last",
                    dtype=self.dtype_policy,
                )(x)
        x = keras.layers.Reshape((-1,), dtype=self.dtype_policy)(x)
        for units in self.units:
            x = keras.layers.Dense(
                units,
                activation="relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
            )(x)
        return keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)(x)

    def get_config(self):
        config = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "pool_size": self.pool_size,
            "units": self.units,
            "dropout": self.dropout,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_capsules")
class SqueezeExcitationNet(_Classifier):
    """A small residual network that weighs its channels.

    A convolution, then stages of residual blocks: two convolutions with batch
    normalization and a `SqueezeExcitation`, added to what goes in. Each stage
    but the first halves the map. The means over the last map are the features
    that the scores are computed from. By default it has about as many
    parameters as `EfficientCapsNet`: 162,780 trainable ones.

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
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`. A pixel that is not a number makes
        all scores of its image NaN.

    Output shape:
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not as described, or the images are not
            of `image_shape`.

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

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=(16, 32, 60),
        blocks=2,
        ratio=8,
        activation="softmax",
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, activation, **kwargs)
        self.filters = check_integers(filters, "filters")
        if not self.filters:
            raise ValueError(
                "Invalid value for argument `filters`. Expected at least one "
                f"stage. Received: filters={filters!r}"
            )
        self.blocks = check_integer(blocks, "blocks")
        self.ratio = check_integer(ratio, "ratio")
        self._assemble()

    def _make_features(self, images):
        x = self._convolve(images, self.filters[0])
        x = keras.layers.ReLU(dtype=self.dtype_policy)(x)
        for stage, filters in enumerate(self.filters):
            for block in range(self.blocks):
                halve = stage > 0 and block == 0
                x = self._residual_block(x, filters, 2 if halve else 1)
        return keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=self.dtype_policy
        )(x)

    def _residual_block(self, x, filters, strides):
        shortcut = x
        if strides > 1:
            shortcut = self._convolve(x, filters, 1, strides)
        x = self._convolve(x, filters, strides=strides)
        x = keras.layers.ReLU(dtype=self.dtype_policy)(x)
        x = self._convolve(x, filters)
        x = SqueezeExcitation(self.ratio, dtype=self.dtype_policy)(x)
        x = keras.layers.Add(dtype=self.dtype_policy)([shortcut, x])
        return keras.layers.ReLU(dtype=self.dtype_policy)(x)

    def _convolve(self, x, filters, kernel_size=3, strides=1):
        """A convolution and batch normalization."""
        x = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="same",
            data_format="channels_last",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
        )(x)
        return keras.layers.BatchNormalization(dtype=self.dtype_policy)(x)

    def get_config(self):
        config = {
            "filters": self.filters,
            "blocks": self.blocks,
            "ratio": self.ratio,
        }
        return {**super().get_config(), **config}
