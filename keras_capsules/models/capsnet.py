"""The network that made capsules known."""

import contextlib
import contextvars
import math

import keras
import numpy as np
from keras import ops

from keras_capsules import routing as routings
from keras_capsules._dtypes import at_least_float32
from keras_capsules._validation import check_choice
from keras_capsules._validation import check_integer
from keras_capsules._validation import check_integer_pair
from keras_capsules._validation import check_number
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import CapsuleMask
from keras_capsules.layers import PrimaryCapsules

# The model whose training or test step is being run or traced. Its forward
# pass then returns the class capsules beside the scores, for the loss needs
# both, and would have to compute them again. No tensor is kept here.
_stepping = contextvars.ContextVar("stepping", default=None)


@contextlib.contextmanager
def _step_of(model):
    token = _stepping.set(model)
    try:
        yield
    finally:
        _stepping.reset(token)


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsNet(keras.Model):
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
    weighs both parts of the loss.

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
        routing: Name or instance of a `keras_capsules.routing.Routing`.
            Defaults to `"dynamic"`.
        decoder_units: Sequence of positive integers, the sizes of the
            decoder's hidden layers; `None` for a network without decoder.
            Defaults to `(512, 1024)`.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. Defaults to `0.0005`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels between 0 and 1, for the
        decoder draws with a sigmoid. A pixel that is not a number makes all
        scores of its image NaN, and in `fit` the loss: add
        `keras.callbacks.TerminateOnNaN()` to stop there.

    Output shape:
        `(batch, num_classes)`, the lengths of the class capsules.

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
        super().__init__(**kwargs)
        self.image_shape = _check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.filters = check_integer(filters, "filters")
        if kernel_size is None:
            kernel_size = _fitting_kernel_size(self.image_shape)
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        self.strides = _check_integers(strides, "strides", 2)
        self.padding = check_choice(padding, "padding", ("valid", "same"))
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.primary_dim = check_integer(primary_dim, "primary_dim")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.decoder_units = decoder_units
        if decoder_units is not None:
            self.decoder_units = _check_integers(decoder_units, "decoder_units")
        self.reconstruction_weight = check_number(
            reconstruction_weight, "reconstruction_weight", minimum=0.0
        )
        self._check_window()
        # Scores and pixels are results, not intermediates: in 16 bits they
        # would be rounded to two or three digits.
        self._output_dtype = at_least_float32(self.compute_dtype)
        self.encoder = self._make_encoder()
        self.scores = CapsuleLength(name="scores", dtype=self._output_dtype)
        self.mask = CapsuleMask(name="mask", dtype=self.dtype_policy)
        self.decoder = None
        if decoder_units is not None:
            self.decoder = self._make_decoder()
            self._reconstruction_error = keras.metrics.Mean(
                name="reconstruction_error"
            )
        self.build((None, *self.image_shape))

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
        class_capsules = CapsuleLayer(
            self.num_classes,
            self.capsule_dim,
            routing=self.routing,
            name="class_capsules",
            dtype=self.dtype_policy,
        )
        return self._stack(
            self.image_shape,
            [convolution, primary_capsules, class_capsules],
            name="encoder",
        )

    def _make_decoder(self):
        hidden = [
            keras.layers.Dense(
                units,
                activation="relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
            )
            for units in self.decoder_units
        ]
        pixels = keras.layers.Dense(
            math.prod(self.image_shape),
            activation="sigmoid",
            dtype=self._output_dtype,
        )
        reshape = keras.layers.Reshape(
            self.image_shape, dtype=self._output_dtype
        )
        # Not Flatten, which depends on the global image data format.
        flatten = keras.layers.Reshape((-1,), dtype=self.dtype_policy)
        return self._stack(
            (self.num_classes, self.capsule_dim),
            [flatten, *hidden, pixels, reshape],
            name="decoder",
        )

    def _stack(self, input_shape, layers, name):
        # Both dtypes are set, for a Sequential would cast its input to them.
        inputs = keras.Input(input_shape, dtype=self._output_dtype)
        stack = keras.Sequential([inputs, *layers], name=name)
        stack.dtype_policy = self.dtype_policy
        return stack

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

    def build(self, input_shape):
        if tuple(input_shape[1:]) != self.image_shape:
            raise ValueError(
                f"Expected images of shape {self.image_shape}. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        for layer in (self.scores, self.mask):
            layer.build((None, self.num_classes, self.capsule_dim))
        self.input_spec = keras.layers.InputSpec(
            shape=(None, *self.image_shape)
        )

    def call(self, inputs, training=None):
        given = tuple(inputs.shape[1:])
        if None not in given and given != self.image_shape:
            raise ValueError(
                f"Expected images of shape {self.image_shape}. Received: "
                f"inputs.shape={tuple(inputs.shape)}"
            )
        if None in given:
            # TensorFlow opens the sizes after batches of different ones, and
            # a wrong one may fit the convolutions by chance. This fails at run
            # time for all sizes but 1.
            shape = (ops.shape(inputs)[0], *self.image_shape)
            inputs = ops.broadcast_to(inputs, shape)
        capsules = self.encoder(inputs, training=training)
        # Fused convolutions make zeros of values that are no numbers.
        finite = ops.all(ops.isfinite(inputs), axis=(1, 2, 3), keepdims=True)
        capsules = ops.where(finite[:, 0], capsules, np.nan)
        scores = self.scores(capsules)
        return (scores, capsules) if _stepping.get() is self else scores

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    def encode(self, images, batch_size=128):
        """Computes the class capsules of images.

        Args:
            images: `(batch, height, width, channels)`. Arrays are encoded in
                batches, a tensor of the backend in one piece, so that the
                method can be part of other computations.
            batch_size: Positive integer, the images in a batch of an array.
                Defaults to `128`.

        Returns:
            Capsules `(batch, num_classes, capsule_dim)`, an array or a tensor
            as `images` are.

        Raises:
            ValueError: If the images are not of the shape of the network.
        """
        images = _as_array(images)
        _check_shape(images, self.image_shape, "images")
        return _apply(self.encoder, images, batch_size)

    def decode(self, capsules, labels=None, batch_size=128):
        """Draws images from class capsules.

        Args:
            capsules: `(batch, num_classes, capsule_dim)`, an array or a
                tensor as in `encode`.
            labels: Optional integer, one-hot or multi-hot labels, the classes
                to draw from. Without them, the longest capsule is drawn.
            batch_size: Positive integer, as in `encode`.

        Returns:
            Images `(batch, height, width, channels)`.

        Raises:
            ValueError: If the network has no decoder, or shapes or labels do
                not fit it.
        """
        if self.decoder is None:
            raise ValueError(
                "This network was made without a decoder. "
                "Received: decoder_units=None"
            )
        capsules = _as_array(capsules)
        shape = (self.num_classes, self.capsule_dim)
        _check_shape(capsules, shape, "capsules")
        masked = self.mask(capsules, labels=labels)
        if isinstance(capsules, np.ndarray):
            masked = ops.convert_to_numpy(masked)
        return _apply(self.decoder, masked, batch_size)

    def reconstruct(self, images, labels=None, batch_size=128):
        """Encodes images and decodes them again.

        Args:
            images: As in `encode`.
            labels: As in `decode`.
            batch_size: Positive integer, as in `encode`.

        Returns:
            Images `(batch, height, width, channels)`.

        Raises:
            ValueError: As in `encode` and `decode`.
        """
        capsules = self.encode(images, batch_size)
        return self.decode(capsules, labels, batch_size)

    def train_step(self, *args, **kwargs):
        with _step_of(self):
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        with _step_of(self):
            return super().test_step(*args, **kwargs)

    def compute_loss(
        self,
        x=None,
        y=None,
        y_pred=None,
        sample_weight=None,
        training=True,
    ):
        """The compiled loss of the scores, and that of the reconstruction."""
        if self.loss is None:  # JAX would train on the reconstruction alone
            raise ValueError(
                "No loss to compute. Provide a `loss` argument in `compile()`."
            )
        scores, capsules = _split(y_pred)
        loss = super().compute_loss(
            x=x,
            y=y,
            y_pred=scores,
            sample_weight=sample_weight,
            training=training,
        )
        if self.decoder is None:
            return loss
        if capsules is None:
            capsules = self.encoder(x, training=training)
        masked = self.mask(capsules, labels=y)
        drawn = self.decoder(masked, training=training)
        errors = ops.square(drawn - ops.cast(x, drawn.dtype))
        errors = ops.mean(errors, axis=(1, 2, 3))  # [b]
        self._reconstruction_error.update_state(errors, sample_weight)
        if sample_weight is not None:
            weights = ops.cast(sample_weight, errors.dtype)
            errors = errors * ops.reshape(weights, (-1,))
        pixels = math.prod(self.image_shape)
        penalty = self.reconstruction_weight * pixels * ops.mean(errors)
        return loss + ops.cast(penalty, loss.dtype)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        scores, _ = _split(y_pred)
        return super().compute_metrics(x, y, scores, sample_weight)

    def get_config(self):
        config = {
            "image_shape": self.image_shape,
            "num_classes": self.num_classes,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "num_primary_capsules": self.num_primary_capsules,
            "primary_dim": self.primary_dim,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "decoder_units": self.decoder_units,
            "reconstruction_weight": self.reconstruction_weight,
        }
        return {**super().get_config(), **config}


def _split(predictions):
    """Scores, and the capsules if a step of the model computed them."""
    if isinstance(predictions, tuple):
        return predictions
    return predictions, None


def _fitting_kernel_size(image_shape):
    third = max(1, (min(image_shape[:2]) + 1) // 3)
    return min(9, third - 1 + third % 2)


def _check_integers(value, name, number=None):
    """Returns `value` as a tuple of positive integers, `number` of them."""
    try:
        values = tuple(check_integer(each, name) for each in value)
    except (TypeError, ValueError):
        values = None
    if values is None or number not in (None, len(values)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected "
            f"{'' if number is None else f'{number} '}positive integers. "
            f"Received: {name}={value!r}"
        )
    return values


def _as_array(value):
    """Lists as arrays; arrays and tensors as they are."""
    if isinstance(value, (list, tuple)):
        return np.asarray(value)
    if not hasattr(value, "shape"):
        raise ValueError(
            "Expected an array, a list or a tensor; of a data set, one batch. "
            f"Received: {value!r}"
        )
    return value


def _check_shape(value, shape, name):
    given = tuple(value.shape)
    if given[1:] != shape:
        raise ValueError(
            f"Expected `{name}` of shape (batch, "
            f"{', '.join(map(str, shape))}). Received: {name}.shape={given}"
        )


def _apply(model, inputs, batch_size):
    """Arrays through `predict`, compiled and in batches; tensors at once."""
    if isinstance(inputs, np.ndarray):
        return model.predict(inputs, batch_size=batch_size, verbose=0)
    return model(inputs)
