"""The network that made capsules known."""

import keras

from keras_capsules import routing as routings
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models._network import CapsuleNetwork
from keras_capsules.models._network import check_integers
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsNet(CapsuleNetwork):
    """A capsule network with dynamic routing and a reconstructing decoder.

    A convolution, primary capsules and a layer of class capsules, whose
    lengths are the class scores. In training, a decoder of dense layers draws
    the image from the capsule of the labelled class, and the squared error of
    the drawing is part of the loss, so that the capsule learns to hold the
    pose of what it stands for:

    ```
    loss = compiled loss
         + reconstruction_weight * (mean over images of the sum over pixels of
                                    (reconstruction - image)^2)
    ```

    It is one `keras.Model`: `fit(images, labels)` and `evaluate` with integer,
    one-hot or multi-hot labels, `predict(images)` for the class scores,
    `encode`, `decode` and `reconstruct` for what is within. Both report the
    mean squared error of a pixel as `reconstruction_error`. A sample weight
    weighs both parts of the loss. As a layer of another model it gives scores
    alone: the reconstruction is no part of that model's loss, and its decoder
    learns nothing.

    Notation: section 4 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). With the default
    arguments this is the paper's network for MNIST: 6,804,384 parameters, and
    1,411,344 more in the decoder. The paper's own code adds a bias to the
    capsule layers, as we do. Initial weights are ours, scaled so that
    learning starts at once for images of any size.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Positive integer, the filters of the first convolution.
            Defaults to `256`.
        kernel_size: Positive integer or pair of them, the window of both
            convolutions. Defaults to `None`, the paper's 9 or, for images
            of less than 26 pixels, the largest odd number up to a third of
            the shorter side plus one.
        strides: Pair of positive integers, the strides of the first
            convolution and of the primary capsules. Defaults to `(1, 2)`.
        padding: `"valid"` or `"same"`, of both. Defaults to `"valid"`.
        num_primary_capsules: Positive integer, the types of primary capsules
            at each position. Defaults to `32`.
        primary_dim: Positive integer, the length of their poses. Defaults to
            `8`.
        capsule_dim: Positive integer, the length of the class capsules'
            poses. Defaults to `16`.
        routing: Name or instance of a `keras_capsules.routing.Routing`. If it
            makes activations, these are the scores; if it makes poses alone,
            as `"inverted_attention"` does, a dense layer with one output and
            a sigmoid, the same for all classes, makes scores of them.
            Defaults to `"dynamic"`.
        decoder_units: Sequence of positive integers, the sizes of the
            decoder's hidden layers; `None` for a network without decoder.
            Defaults to `(512, 1024)`.
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
    from keras_capsules.models import CapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = CapsNet((8, 8, 1), 3, filters=16, num_primary_capsules=4)
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    capsules = model.encode(images)  # (20, 3, 16)
    drawn = model.reconstruct(images)  # (20, 8, 8, 1)
    ```
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=256,
        kernel_size=None,
        strides=(1, 2),
        padding="valid",
        num_primary_capsules=32,
        primary_dim=8,
        capsule_dim=16,
        routing="dynamic",
        decoder_units=(512, 1024),
        reconstruction_weight=0.0005,
        **kwargs,
    ):
        super().__init__(
            image_shape, num_classes, reconstruction_weight, **kwargs
        )
        self.filters = check_integer(filters, "filters")
        if kernel_size is None:
            kernel_size = _fitting_kernel_size(self.image_shape)
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        self.strides = check_integers(strides, "strides", 2)
        self.padding = check_choice(padding, "padding", ("valid", "same"))
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.primary_dim = check_integer(primary_dim, "primary_dim")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_units = decoder_units
        if decoder_units is not None:
            self.decoder_units = check_integers(decoder_units, "decoder_units")
        self._check_window()
        self._assemble()

    def _make_encoder(self):
        convolution = keras.layers.Conv2D(
            self.filters,
            self.kernel_size,
            self.strides[0],
            self.padding,
            data_format="channels_last",
            activation="relu",
            kernel_initializer="he_normal",
            name="convolution",
            dtype=self.dtype_policy,
        )
        primary_capsules = PrimaryCapsules(
            self.num_primary_capsules,
            self.primary_dim,
            self.kernel_size,
            self.strides[1],
            self.padding,
            name="primary_capsules",
            dtype=self.dtype_policy,
        )
        class_capsules = self._class_capsules(self.capsule_dim, self.routing)
        return self._stack(
            self.image_shape,
            [convolution, primary_capsules, *class_capsules],
            name="encoder",
        )

    def _make_decoder(self):
        if self.decoder_units is None:
            return None
        return self._dense_decoder(self.decoder_units)

    def _check_window(self):
        if self.padding != "valid":
            return
        for size, window in zip(
            self.image_shape[:2], self.kernel_size, strict=True
        ):
            first = (size - window) // self.strides[0] + 1
            if first < window:
                raise ValueError(
                    "The images are too small for two convolutions with this "
                    "window. Expected larger images, a smaller kernel_size "
                    'or padding="same". Received: '
                    f"image_shape={self.image_shape}, "
                    f"kernel_size={self.kernel_size}, strides={self.strides}"
                )

    def get_config(self):
        config = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "num_primary_capsules": self.num_primary_capsules,
            "primary_dim": self.primary_dim,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "decoder_units": self.decoder_units,
        }
        return {**super().get_config(), **config}


def _fitting_kernel_size(image_shape):
    third = max(1, (min(image_shape[:2]) + 1) // 3)
    return min(9, third - 1 + third % 2)
