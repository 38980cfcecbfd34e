"""What all capsule networks have in common."""

import contextlib
import contextvars
import math

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.layers.capsule_length import CapsuleLength
from keras_capsules.layers.capsule_mask import CapsuleMask
from keras_capsules.layers.poses import fits
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number

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


class CapsuleNetwork(keras.Model):
    """The abstract base of the networks: an encoder, scores, and a decoder.

    The encoder makes class capsules of images, in either of two forms:

    - vector capsules, one tensor `(batch, num_classes, dim)`: scores are the
      lengths;
    - pose-activation capsules, a pair of poses `(batch, num_classes, dim)` or
      `(batch, num_classes, rows, dim)` and of activations
      `(batch, num_classes)`: scores are the activations.

    The decoder draws images from poses of which only those of the labelled
    classes, or of the class with the highest score, are not zero. As a layer
    of another model, a network gives scores alone: the reconstruction is no
    part of that model's loss, and the decoder learns nothing.

    A subclass is final. Its constructor hands the common arguments on, stores
    its own, and calls `_assemble` at the end. It implements `_make_encoder`
    and, if it has one, `_make_decoder`; both return a `keras.Sequential` or a
    functional model, best made by `_stack` or `_functional`.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`.
        num_classes: Positive integer.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error of the drawing, which is summed over the pixels. Without a
            decoder it has no effect.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.
    """

    def __init__(
        self, image_shape, num_classes, reconstruction_weight, **kwargs
    ):
        super().__init__(**kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        self.reconstruction_weight = check_number(
            reconstruction_weight, "reconstruction_weight", minimum=0.0
        )
        # Scores and pixels are results, not intermediates: in 16 bits they
        # would be rounded to two or three digits.
        self._output_dtype = at_least_float32(self.compute_dtype)

    def _make_encoder(self):
        """The network from images to class capsules."""
        raise NotImplementedError(
            f"{type(self).__name__} does not implement `_make_encoder`."
        )

    def _make_decoder(self):
        """The network from the poses of class capsules to images, or `None`."""
        return None

    def _assemble(self):
        """Makes all parts; for the end of a subclass's constructor."""
        self.encoder = self._make_encoder()
        outputs = self.encoder.outputs
        self._capsule_shapes = tuple(tuple(x.shape[1:]) for x in outputs)
        self.scores = CapsuleLength(name="scores", dtype=self._output_dtype)
        self.mask = CapsuleMask(name="mask", dtype=self.dtype_policy)
        self.decoder = self._make_decoder()
        if self.decoder is not None:
            self._reconstruction_error = keras.metrics.Mean(
                name="reconstruction_error"
            )
        self.build((None, *self.image_shape))

    # Parts for subclasses to be made of.

    def _class_capsules(self, capsule_dim, routing, **kwargs):
        """The layers that end an encoder: class capsules, in either form."""
        # Activations are scores, and a layer returns them in its own dtype.
        in_full = routing.activation_from == "routing"
        layers = [
            CapsuleLayer(
                self.num_classes,
                capsule_dim,
                routing=routing,
                name="class_capsules",
                dtype=self._output_dtype if in_full else self.dtype_policy,
                **kwargs,
            )
        ]
        if routing.activation_from == "nothing":
            layers.append(
                PoseScores(name="class_scores", dtype=self.dtype_policy)
            )
        return layers

    def _dense_decoder(self, units):
        """A decoder of dense layers, its hidden ones of these sizes."""
        hidden = [
            keras.layers.Dense(
                number,
                activation="relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
            )
            for number in units
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
            self._pose_shape, [flatten, *hidden, pixels, reshape], "decoder"
        )

    @property
    def _pose_shape(self):
        """`(num_classes, ..., dim)`, what a decoder is given."""
        return self._capsule_shapes[0]

    def _stack(self, input_shape, layers, name):
        """Layers in a row, as an encoder or a decoder."""
        inputs = self._inputs(input_shape)
        return self._with_dtype(keras.Sequential([inputs, *layers], name=name))

    def _functional(self, inputs, outputs, name):
        """A graph of layers, as an encoder or a decoder."""
        return self._with_dtype(keras.Model(inputs, outputs, name=name))

    # Both dtypes are set, for a model would cast its input to them.

    def _inputs(self, shape):
        return keras.Input(shape, dtype=self._output_dtype)

    def _with_dtype(self, model):
        model.dtype_policy = self.dtype_policy
        return model

    # The network as a whole.

    def build(self, input_shape):
        check_input_shape(input_shape, self.image_shape)
        shapes = tuple((None, *shape) for shape in self._capsule_shapes)
        for layer in (self.scores, self.mask):
            layer.build(shapes if len(shapes) > 1 else shapes[0])
        self.input_spec = keras.layers.InputSpec(
            shape=(None, *self.image_shape)
        )

    def call(self, inputs, training=None):
        inputs = of_shape(inputs, self.image_shape)
        capsules = self.encoder(inputs, training=training)
        if isinstance(capsules, (list, tuple)):
            capsules = tuple(nan_like(inputs, each) for each in capsules)
        else:
            capsules = nan_like(inputs, capsules)
        scores = self.scores(capsules)
        return (scores, capsules) if _stepping.get() is self else scores

    def compute_output_shape(self, input_shape):
        check_input_shape(input_shape, self.image_shape)
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
            as `images` are. If the capsules have activations beside their
            poses, a pair of both: the scores are the activations then, and
            not the lengths of the poses.

        Raises:
            ValueError: If the images are not of the shape of the network, or
                `batch_size` is not a positive integer.
        """
        batch_size = check_integer(batch_size, "batch_size")
        images = _as_array(images)
        _check_shape(images, self.image_shape, "images")
        return _apply(self.encoder, images, batch_size)

    def decode(self, capsules, labels=None, batch_size=128):
        """Draws images from class capsules.

        Args:
            capsules: What `encode` returns, arrays or tensors as there:
                `(batch, num_classes, capsule_dim)`, or the pair.
            labels: Optional integer, one-hot or multi-hot labels, the classes
                to draw from. Without them, the longest capsule is drawn or,
                of a pair, the one with the highest activation.
            batch_size: Positive integer, as in `encode`.

        Returns:
            Images `(batch, height, width, channels)`.

        Raises:
            ValueError: If the network has no decoder, shapes or labels do not
                fit it, or `batch_size` is not a positive integer.
        """
        batch_size = check_integer(batch_size, "batch_size")
        if self.decoder is None:
            options = ", ".join(
                f"{name}={value!r}"
                for name, value in self.get_config().items()
                if name.startswith("decoder")
            )
            raise ValueError(
                "This network was made without a decoder. Received: "
                f"{options or type(self).__name__}"
            )
        if len(self._capsule_shapes) == 1:
            capsules = poses = _as_array(capsules)
            _check_shape(capsules, self._pose_shape, "capsules")
        else:
            capsules = _as_pair(capsules)
            poses = capsules[0]
            for each, shape, name in zip(
                capsules,
                self._capsule_shapes,
                ("capsules[0]", "capsules[1]"),
                strict=True,
            ):
                _check_shape(each, shape, name)
        masked = self.mask(capsules, labels=labels)
        if isinstance(poses, np.ndarray):
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
            "reconstruction_weight": self.reconstruction_weight,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_capsules")
class PoseScores(keras.layers.Layer):
    """Adds activations to capsules that have poses alone.

    Where neither the length of a pose nor the routing says whether a class is
    present, a dense layer with one output, which all capsules share, and a
    sigmoid find it out from the pose. Poses pass unchanged.
    """

    def __init__(self, **kwargs):
        # Poses keep their dtype, scores are at least float32.
        super().__init__(autocast=False, **kwargs)
        self.dense = keras.layers.Dense(
            1,
            activation="sigmoid",
            dtype=at_least_float32(self.compute_dtype),
        )

    def build(self, input_shape):
        self.dense.build((None, input_shape[1], math.prod(input_shape[2:])))

    def call(self, inputs):
        flat = ops.reshape(
            inputs, (-1, inputs.shape[1], math.prod(inputs.shape[2:]))
        )
        return inputs, self.dense(flat)[:, :, 0]

    def compute_output_spec(self, inputs):
        poses = keras.KerasTensor(inputs.shape, dtype=inputs.dtype)
        scores = keras.KerasTensor(inputs.shape[:2], dtype=self.dense.dtype)
        return poses, scores


def check_input_shape(input_shape, image_shape):
    """Raises if these cannot be the sizes of a batch of such images."""
    if not fits(input_shape[1:], image_shape):
        raise ValueError(
            f"Expected images of shape {image_shape}. Received: "
            f"input_shape={tuple(input_shape)}"
        )


def of_shape(images, image_shape):
    """Returns images as floats if they are of this shape, or else raises."""
    given = tuple(images.shape[1:])
    if None not in given and given != image_shape:
        raise ValueError(
            f"Expected images of shape {image_shape}. Received: "
            f"inputs.shape={tuple(images.shape)}"
        )
    if None in given:
        # TensorFlow opens the sizes after batches of different ones, and a
        # wrong one may fit the convolutions by chance. This fails at run time
        # for all sizes but 1.
        shape = (ops.shape(images)[0], *image_shape)
        images = ops.broadcast_to(images, shape)
    # Pixels may be integers, of which TensorFlow cannot tell in a graph
    # whether they are finite.
    return ops.cast(images, at_least_float32(images.dtype))


def nan_like(images, outputs):
    """Makes an image's outputs NaN if one of its pixels is not a number.

    Fused convolutions make zeros of values that are no numbers.
    """
    finite = ops.all(ops.isfinite(images), axis=(1, 2, 3))  # [b]
    finite = ops.reshape(finite, (-1, *[1] * (len(outputs.shape) - 1)))
    return ops.where(finite, outputs, np.nan)


def check_integers(value, name, number=None):
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


def _split(predictions):
    """Scores, and the capsules if a step of the model computed them."""
    if isinstance(predictions, tuple):
        return predictions
    return predictions, None


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


def _as_pair(value):
    """A pair of arrays or of tensors."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(
            "Expected `capsules` to be a pair of poses and activations, as "
            f"`encode` returns. Received: capsules={value!r}"
        )
    return tuple(_as_array(each) for each in value)


def _check_shape(value, shape, name):
    given = tuple(value.shape)
    if given[1:] != shape:
        raise ValueError(
            f"Expected `{name}` of shape (batch, "
            f"{', '.join(map(str, shape))}). Received: {name}.shape={given}"
        )


def _apply(model, inputs, batch_size):
    """Arrays through `predict`, compiled and in batches; tensors at once."""
    if isinstance(inputs, np.ndarray) and not len(inputs):
        # Keras predicts nothing of an empty batch, not even its shape.
        one = np.zeros((1, *inputs.shape[1:]), inputs.dtype)
        outputs = keras.tree.map_structure(
            lambda array: array[:0], model.predict(one, verbose=0)
        )
    elif isinstance(inputs, np.ndarray):
        outputs = model.predict(inputs, batch_size=batch_size, verbose=0)
    else:
        outputs = model(inputs)
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else outputs
