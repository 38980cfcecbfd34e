"""Networks that end in class capsules, with an optional decoder."""

import contextlib
import contextvars
import functools
from collections.abc import Mapping
from typing import Any
from typing import Self

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.capsule_mask import CapsuleMask
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.models import batches
from keras_capsules.models import graphs
from keras_capsules.models import saving
from keras_capsules.models.base import Network
from keras_capsules.models.base import get_policy
from keras_capsules.models.parts import output_dtype
from keras_capsules.models.reconstruction import SquaredError
from keras_capsules.models.reconstruction import objects_of
from keras_capsules.types import Capsules
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number

# The network whose training or test step is being run or traced. Its forward
# pass then returns the class capsules beside the scores, because the loss needs
# both and would have to compute them again. No tensor is kept here.
_stepping = contextvars.ContextVar("stepping", default=None)


@contextlib.contextmanager
def _step_of(model):
    token = _stepping.set(model)
    try:
        yield
    finally:
        _stepping.reset(token)


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleNetwork(Network):
    """A network of your own layers that ends in class capsules.

    The network is a functional `keras.Model` from `inputs` to class scores.
    `capsules` are either

    - vector capsules `(batch, num_classes, dim)`, whose lengths are the scores
      (if their routing gives lengths no such meaning, as inverted attention
      does, add a `PoseScores` layer);
    - or a pair of poses `(batch, num_classes, dim)` or
      `(batch, num_classes, rows, dim)` and activations `(batch, num_classes)`,
      which are the scores.

    A decoder reconstructs the input from the capsule of the labelled class: the
    poses of all other classes are zeroed. Its squared error is part of the loss
    in `fit` and `evaluate`, so a capsule learns to hold the pose of its entity:

    ```
    loss = compiled loss
         + reconstruction_weight * (mean over examples of the sum over pixels of
                                    (reconstruction - input)^2)
    ```

    `fit` and `evaluate` take integer, one-hot or multi-hot labels. They report
    the mean squared error of a pixel as `reconstruction_error`. A sample weight
    applies to both parts of the loss. As a layer of another functional
    model, a network is the `keras.Model` from its inputs to its scores, whose
    layers it shares: the decoder is no part of that model. A Sequential or
    subclassed model takes `keras.Model(network.input, network.output)`.

    By default the capsules of all present classes are decoded together. Where
    objects overlap, each can be drawn by itself, from the capsule of its class
    alone, and be compared with its own image. `y` is then a dictionary:

    - `"scores"`: labels as above, usually multi-hot;
    - `"target_classes"`: integers `(batch, objects)`, a class for each object;
    - `"targets"`: `(batch, objects, height, width, channels)`, their images.

    The squared errors of the objects are summed. (The key `"scores"` is
    `model.output_names[0]`.)

    Args:
        inputs: A `keras.Input`, or a list or dictionary of them. The first
            input is `model.inputs[0]`; Keras sorts dictionaries by key.
        capsules: The class capsules, computed from `inputs` by layers.
        decoder: Optional `keras.Model` from poses, as described above, to
            reconstructions. These have the shape of the first input.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error. It has no effect without a decoder. Defaults to `0.0005`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`. `dtype` is
            the dtype of the scores (at least float32); the layers keep their
            own.

    Output shape:
        `(batch, num_classes)`, the class scores. An input that is not finite
        makes all scores of its example NaN.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import CapsuleLayer, MarginLoss, PrimaryCapsules
    from keras_capsules.models import CapsuleNetwork

    images = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3, activation="relu")(images)
    x = PrimaryCapsules(4, 8, kernel_size=3, strides=2)(x)
    capsules = CapsuleLayer(3, 16)(x)
    decoder = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="sigmoid"),
            keras.layers.Reshape((8, 8, 1)),
        ]
    )
    model = CapsuleNetwork(images, capsules, decoder)
    model.compile("adam", MarginLoss(), metrics=["accuracy"])
    x = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    model.fit(x, np.random.randint(3, size=20), verbose=0)
    scores = model.predict(x, verbose=0)  # (20, 3)
    poses = model.encode(x)  # (20, 3, 16)
    reconstructions = model.decode(poses)  # (20, 8, 8, 1)
    ```
    """

    def __init__(
        self,
        inputs: Any,
        capsules: Capsules,
        decoder: keras.Model | None = None,
        reconstruction_weight: float = 0.0005,
        **kwargs: Any,
    ):
        policy = get_policy(self, kwargs)
        reconstruction_weight = check_number(
            reconstruction_weight, "reconstruction_weight", minimum=0.0
        )
        capsules = graphs.check_capsules(capsules)
        dtype = output_dtype(policy)
        features, scores = graphs.add_scores(inputs, capsules, dtype)
        super().__init__(inputs, scores, **kwargs)
        self.reconstruction_weight = reconstruction_weight
        # A function, because Keras would wrap a dictionary of inputs.
        self._graph = lambda: (inputs, capsules, features)
        self._capsule_shapes = [
            tuple(x.shape[1:]) for x in keras.tree.flatten(capsules)
        ]
        # Not part of the graph, because they also take labels.
        self.mask = CapsuleMask(name="mask", dtype=policy)
        self.mask.build(keras.tree.map_structure(lambda x: x.shape, capsules))
        self.decoder = decoder
        if decoder is not None:
            self._check_decoder()
            self._reconstruction_error = keras.metrics.Mean(
                name="reconstruction_error"
            )
            self._squared_error = SquaredError(dtype=dtype)
            if not self.trainable:
                decoder.trainable = False

    def _check_decoder(self):
        poses, expected = self._capsule_shapes[0], self.inputs[0].shape
        shape = self.decoder(
            keras.Input(poses, dtype=output_dtype(self.dtype_policy))
        ).shape
        if shape[1:] != expected[1:]:
            raise ValueError(
                "The decoder has to make reconstructions of the shape of the "
                f"first input. Expected {expected}. Received: a decoder that "
                f"makes {tuple(shape)} from poses of shape {(None, *poses)}"
            )

    @functools.cached_property
    def encoder(self) -> keras.Model:
        """The part of the network from inputs to class capsules."""
        # Made when it is needed, and kept where Keras does not find it, because
        # it shares the layers of this network.
        inputs, _, features = self._graph()
        return keras.Model(inputs, features, name="encoder")

    @functools.cached_property
    def _encoder_with_scores(self):
        inputs, _, features = self._graph()
        return keras.Model(inputs, (self.output, features))

    @functools.cached_property
    def _without_decoder(self):
        inputs, _, _ = self._graph()
        return keras.Model(inputs, self.output, name=self.name)

    @functools.cached_property
    def _guarded_decoder(self):
        """The decoder, whose images of poses that are not finite are NaN."""
        dtype = output_dtype(self.dtype_policy)
        poses = keras.Input(self._capsule_shapes[0], dtype=dtype)
        decoded = PropagateNaN(name="propagate_nan", dtype=dtype)(
            poses, self.decoder(poses)
        )
        return keras.Model(poses, decoded, name="guarded_decoder")

    def quantize(
        self, mode: str | None = None, config: Any = None, **kwargs: Any
    ) -> None:
        super().quantize(mode, config=config, **kwargs)
        # Their compiled functions still hold the old weights.
        for name in (
            "encoder",
            "_encoder_with_scores",
            "_without_decoder",
            "_guarded_decoder",
        ):
            self.__dict__.pop(name, None)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        symbolic = any(
            isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(inputs)
        )
        if self.decoder is None or not symbolic:
            return super().__call__(inputs, *args, **kwargs)
        # Another model takes this one as a layer. Its training would find no
        # gradients for the decoder.
        inputs = batches.arrange(self, inputs)
        return self._without_decoder(inputs, *args, **kwargs)

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        if _stepping.get() is not self:
            return super().call(inputs, training=training, mask=mask)
        inputs = batches.arrange(self, inputs)
        return tuple(self._encoder_with_scores(inputs, training=training))

    def encode(self, images: Any, batch_size: int = 128) -> Capsules:
        """Computes the class capsules of images, or of other inputs.

        Args:
            images: The input of the network. Arrays are encoded in batches, a
                tensor of the backend at once, so the method can be part of
                other computations.
            batch_size: Positive integer, the batch size for arrays. Defaults
                to `128`.

        Returns:
            Capsules `(batch, num_classes, dim)`, an array or a tensor as
            `images` are; or a pair of poses and activations, if these are the
            capsules of this network.

        Raises:
            ValueError: If the images do not have the shape that the network
                takes, or `batch_size` is not a positive integer.
        """
        batch_size = check_integer(batch_size, "batch_size")
        if len(self.inputs) == 1:
            images = batches.as_array(
                batches.in_order(self, images)[0], "images"
            )
            batches.check_shape(images, self.inputs[0].shape[1:], "images")
        images = batches.arrange(self, images)
        return batches.apply(self.encoder, images, batch_size)

    def decode(
        self, capsules: Capsules, labels: Any = None, batch_size: int = 128
    ) -> Tensor:
        """Reconstructs images from class capsules.

        Args:
            capsules: Capsules as `encode` returns them, arrays or tensors.
            labels: Optional integer, one-hot or multi-hot labels, the classes
                to decode. By default, the class with the highest score is
                decoded.
            batch_size: Positive integer, as in `encode`.

        Returns:
            Images, of the shape that the network takes.

        Raises:
            ValueError: If the network has no decoder, capsules or labels do
                not fit it, or `batch_size` is not a positive integer.
        """
        batch_size = check_integer(batch_size, "batch_size")
        if self.decoder is None:
            options = ", ".join(
                f"{name}={value!r}"
                for name, value in self.get_config().items()
                if name.startswith("decoder")
            )
            raise ValueError(
                f"This network was made without a decoder. Received: {options}"
            )
        if len(self._capsule_shapes) == 1:
            capsules = poses = batches.as_array(capsules, "capsules")
            batches.check_shape(capsules, self._capsule_shapes[0], "capsules")
        else:
            capsules = batches.as_pair(capsules)
            poses = capsules[0]
            for index, shape in enumerate(self._capsule_shapes):
                name = f"capsules[{index}]"
                batches.check_shape(capsules[index], shape, name)
        masked = self.mask(capsules, labels=labels)
        if isinstance(poses, np.ndarray):
            masked = ops.convert_to_numpy(masked)
        return batches.apply(self._guarded_decoder, masked, batch_size)

    def reconstruct(
        self, images: Any, labels: Any = None, batch_size: int = 128
    ) -> Tensor:
        """Encodes images and decodes them again.

        Args:
            images: As in `encode`.
            labels: As in `decode`.
            batch_size: Positive integer, as in `encode`.

        Returns:
            Images, of the shape that the network takes.

        Raises:
            ValueError: As in `encode` and `decode`.
        """
        capsules = self.encode(images, batch_size)
        return self.decode(capsules, labels, batch_size)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        with _step_of(self):
            return super().train_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with _step_of(self):
            return super().test_step(*args, **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Adds the reconstruction loss to the compiled loss of the scores."""
        if self.loss is None:  # JAX would train on the reconstruction alone
            raise ValueError(
                "No loss to compute. Provide a `loss` argument in `compile()`."
            )
        scores, capsules = _split(y_pred)
        objects = None if self.decoder is None else objects_of(y, self)
        y = batches.unpack(y, self.output_names[0])
        sample_weight = batches.unpack(sample_weight, self.output_names[0])
        loss = super().compute_loss(x, y, scores, sample_weight, training)
        if self.decoder is None:
            return loss
        if x is None:
            raise ValueError(
                "The loss needs the input, because the reconstruction is "
                "compared with it. Expected `x`, as in "
                "compute_loss(x, y, scores). Received: x=None"
            )
        if capsules is None:
            capsules = self._encode_again(x, training)
        if objects is None:  # a drawing of the whole image
            objects = [(y, batches.in_order(self, x)[0])]
        penalties, errors = [], []
        for labels, target in objects:
            masked = self.mask(capsules, labels=labels)
            decoded = self._guarded_decoder(masked, training=training)
            # Keras also takes images without a last axis of size 1.
            target = ops.reshape(target, ops.shape(decoded))
            target = ops.cast(target, decoded.dtype)
            penalty = self._squared_error(target, decoded, sample_weight)
            penalties.append(ops.cast(penalty, loss.dtype))
            axes = tuple(range(1, len(decoded.shape)))
            errors.append(ops.mean(ops.square(decoded - target), axis=axes))
        self._reconstruction_error.update_state(
            sum(errors) / len(errors), sample_weight
        )
        return loss + self.reconstruction_weight * sum(penalties)

    def _encode_again(self, x, training):
        """The capsules in a custom loop, which hands on scores alone."""
        # Without updates: the call that made the scores has made them already,
        # of batch normalization's averages and random seeds.
        state = [(each, each.value) for each in self.encoder.variables]
        with keras.StatelessScope(state_mapping=state):
            return self.encoder(batches.arrange(self, x), training=training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        scores, _ = _split(y_pred)
        y = batches.unpack(y, self.output_names[0])
        sample_weight = batches.unpack(sample_weight, self.output_names[0])
        return super().compute_metrics(x, y, scores, sample_weight)

    def get_layer(
        self, name: str | None = None, index: int | None = None
    ) -> keras.layers.Layer:
        """Returns a layer of the graph, or the decoder.

        Args:
            name: The layer's name; `"decoder"` is the decoder.
            index: The layer's index among `layers`, instead of a name.
        """
        is_in_graph = any(layer.name == name for layer in self.layers)
        if name == "decoder" and index is None and not is_in_graph:
            if self.decoder is not None:
                return self.decoder
        return super().get_layer(name, index)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Prints summaries of the network and of its decoder.

        Args:
            *args: Arguments of `keras.Model.summary`.
            **kwargs: Arguments of `keras.Model.summary`. With `layer_range`,
                the decoder is left out.
        """
        super().summary(*args, **kwargs)
        if self.decoder is not None and kwargs.get("layer_range") is None:
            self.decoder.summary(*args, **kwargs)

    # A subclass with a constructor of its own is saved as its options, other
    # networks as the graphs that they were given.

    def get_config(self) -> dict[str, Any]:
        if type(self).__init__ is not CapsuleNetwork.__init__:
            return super().get_config()
        inputs, capsules, _ = self._graph()
        encoder = keras.Model(inputs, capsules, name="encoder")
        serialize = keras.saving.serialize_keras_object
        decoder = self.decoder
        # Layers say of themselves, but not of layers that they keep, whether
        # they are trainable.
        frozen = saving.frozen_layers(self)
        return {
            **keras.Model.get_config(self),
            **({"frozen": frozen} if frozen else {}),
            "encoder": serialize(encoder),
            "decoder": decoder if decoder is None else serialize(decoder),
            "reconstruction_weight": self.reconstruction_weight,
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Self:
        options = dict(config)
        if "encoder" in options:
            deserialize = functools.partial(
                keras.saving.deserialize_keras_object,
                custom_objects=custom_objects,
            )
            encoder = deserialize(options.pop("encoder"))
            options["inputs"] = encoder.input
            options["capsules"] = encoder.output
            options["decoder"] = deserialize(options["decoder"])
        return super().from_config(options, custom_objects)


def _split(predictions):
    """Scores, and the capsules if a step of the model computed them."""
    if isinstance(predictions, tuple):
        return predictions
    return predictions, None
