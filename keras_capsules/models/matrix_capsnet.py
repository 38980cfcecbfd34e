"""The network of matrix capsules."""

import keras

from keras_capsules import routing as routings
from keras_capsules.engine.windows import output_length
from keras_capsules.layers.conv_capsules import ConvCapsules2D
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.models._network import CapsuleNetwork
from keras_capsules.models._network import check_integers
from keras_capsules.routing.em import EMRouting
from keras_capsules.routing.variational_bayes import VariationalBayesRouting
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair

# Images with a shorter side than this would vanish in the paper's windows.
_SMALLEST_STRIDED = 20


@keras.saving.register_keras_serializable(package="keras_capsules")
class MatrixCapsNet(CapsuleNetwork):
    """Capsules with matrix poses and activations, routed by EM.

    A convolution, primary capsules, two convolutional capsule layers and a
    layer of class capsules. Matrices of the class capsules are shared by all
    positions, which are told apart by their coordinates, added to the votes.
    Scores are the activations of the class capsules. `SpreadLoss` is the
    paper's loss for them, `MarginLoss` works too.

    It is one `keras.Model`, with `fit`, `predict`, `encode`, `decode` and
    `reconstruct` as described in `CapsNet`; `encode` returns pairs of poses and
    activations. The paper's network has no decoder, and this one has none
    unless `decoder_units` are given.

    Two things are not as in the paper, with whose options this network stayed
    at chance for the 150 steps that we tried. Poses are means of votes, and
    shrink from layer to layer: variances get tiny and activations saturate. So
    `normalization` scales poses back before each layer of capsules, and votes
    start with variances of about 1. And a convolutional capsule gets about as
    much as one child has to give: its Gaussian shrinks to few votes, and most
    of a child goes to few parents by chance. So the names of routings mean, in
    this network,

    ```
    "em"                 EMRouting(num_iterations=2, inverse_temperature=1.0,
                                   min_variance=4.0, cost_scale="normalized",
                                   beta_u_initializer=Constant(-0.75))
    "variational_bayes"  VariationalBayesRouting(covariance_prior=100.0)
    ```

    with which Gaussians begin more than twice as wide as the votes, and
    children share themselves out among most parents. Kernels may grow, and
    shares get sharper. Give an instance for other options:
    `normalization=None, routing=EMRouting()` is the paper's form.

    Notation: section 4.1 of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), A the
    `filters`, B the `num_primary_capsules`, C and D the `conv_capsules`. The
    default sizes are the paper's smaller network: 67,154 parameters with one
    channel and five classes. Initial weights are ours.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Positive integer, the filters of the convolution. Defaults to
            `64`.
        kernel_size: Positive integer or pair of them, the convolution's window.
            Defaults to `5`.
        strides: Positive integer or pair of them, the convolution's strides.
            Defaults to `None`: the paper's 2, or 1 for images with a side of
            less than 20 pixels.
        padding: `"valid"` or `"same"`, of the convolution. Defaults to `None`:
            `"valid"`, or `"same"` for images with a side of less than 20
            pixels.
        num_primary_capsules: Positive integer, the types of primary capsules.
            Defaults to `8`.
        conv_capsules: Sequence of positive integers, the types of capsules in
            each of the convolutional capsule layers. Defaults to `(16, 16)`.
        conv_strides: Sequence of as many positive integers, their strides;
            their windows are 3 x 3. Defaults to `(2, 1)`.
        capsule_dim: Pair of positive integers, the rows and columns of all pose
            matrices. Defaults to `(4, 4)`.
        routing: Name or instance of a `keras_capsules.routing.Routing` that
            makes activations: `"em"`, `"variational_bayes"`, which mean what is
            said above, or `"self_routing"`. Defaults to `"em"`.
        normalization: `"batch"`, which normalizes the poses of each type of
            capsules over the batch before each layer of capsules, without
            trained scale or offset; or `None`, as in the paper. Defaults to
            `"batch"`.
        coordinate_addition: Boolean, whether to add positions to the votes for
            class capsules. Defaults to `True`.
        decoder_units: Sequence of positive integers, the sizes of the hidden
            layers of a decoder; `None`, the default, for none.
        reconstruction_weight: Number of at least 0, the weight of the squared
            error, which is summed over the pixels. Without a decoder it has no
            effect. Defaults to `0.0005`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Input shape:
        `(batch, height, width, channels)`, pixels between 0 and 1.

    Output shape:
        `(batch, num_classes)`, the activations of the class capsules.

    Raises:
        ValueError: If an argument is not as described, the images are not of
            `image_shape` or too small for the windows, or labels do not fit
            `num_classes`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import SpreadLoss
    from keras_capsules.models import MatrixCapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = MatrixCapsNet((8, 8, 1), 3, filters=8, conv_capsules=(4, 4))
    model.compile("adam", loss=SpreadLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    poses, activations = model.encode(images)  # (20, 3, 4, 4) and (20, 3)
    ```
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        filters=64,
        kernel_size=5,
        strides=None,
        padding=None,
        num_primary_capsules=8,
        conv_capsules=(16, 16),
        conv_strides=(2, 1),
        capsule_dim=(4, 4),
        routing="em",
        normalization="batch",
        coordinate_addition=True,
        decoder_units=None,
        reconstruction_weight=0.0005,
        **kwargs,
    ):
        super().__init__(
            image_shape, num_classes, reconstruction_weight, **kwargs
        )
        small = min(self.image_shape[:2]) < _SMALLEST_STRIDED
        self.filters = check_integer(filters, "filters")
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        if strides is None:
            strides = 1 if small else 2
        self.strides = check_integer_pair(strides, "strides")
        if padding is None:
            padding = "same" if small else "valid"
        self.padding = check_choice(padding, "padding", ("valid", "same"))
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.conv_capsules = check_integers(conv_capsules, "conv_capsules")
        self.conv_strides = check_integers(
            conv_strides, "conv_strides", len(self.conv_capsules)
        )
        self.capsule_dim = check_integers(capsule_dim, "capsule_dim", 2)
        self.routing = _get_routing(routing)
        if self.routing.activation_from != "routing":
            raise ValueError(
                "The capsules of this network have activations. Expected a "
                "routing that makes them, such as 'em', 'variational_bayes' or "
                f"'self_routing'. Received: routing={self.routing!r}"
            )
        if normalization is not None:
            check_choice(normalization, "normalization", ("batch",))
        self.normalization = normalization
        self.coordinate_addition = coordinate_addition
        self.decoder_units = decoder_units
        if decoder_units is not None:
            self.decoder_units = check_integers(decoder_units, "decoder_units")
        self._check_windows()
        self._assemble()

    def _check_windows(self):
        for size, window, stride in zip(
            self.image_shape[:2], self.kernel_size, self.strides, strict=True
        ):
            size = output_length(size, window, stride, self.padding)
            for conv_stride in self.conv_strides:
                size = output_length(size, 3, conv_stride, "valid")
            if size < 1:
                remedy = "smaller conv_strides or fewer conv_capsules"
                if self.padding == "valid":
                    remedy = 'padding="same", ' + remedy
                raise ValueError(
                    "The images are too small for these windows; those of "
                    "convolutional capsules are 3 x 3 and never padded. "
                    f"Expected larger images, smaller strides, {remedy}. "
                    f"Received: image_shape={self.image_shape}, "
                    f"kernel_size={self.kernel_size}, strides={self.strides}, "
                    f"padding={self.padding!r}, "
                    f"conv_strides={self.conv_strides}"
                )

    def _make_encoder(self):
        convolution = keras.layers.Conv2D(
            self.filters,
            self.kernel_size,
            self.strides,
            self.padding,
            data_format="channels_last",
            activation="relu",
            kernel_initializer="he_normal",
            name="convolution",
            dtype=self.dtype_policy,
        )
        primary_capsules = MatrixPrimaryCapsules(
            self.num_primary_capsules,
            self.capsule_dim,
            name="primary_capsules",
            dtype=self.dtype_policy,
        )
        conv_capsules = [
            ConvCapsules2D(
                number,
                self.capsule_dim,
                kernel_size=3,
                strides=strides,
                routing=self.routing,
                name=f"conv_capsules_{index}",
                dtype=self.dtype_policy,
            )
            for index, (number, strides) in enumerate(
                zip(self.conv_capsules, self.conv_strides, strict=True), 1
            )
        ]
        class_capsules = self._class_capsules(
            self.capsule_dim,
            self.routing,
            share_over_positions=True,
            coordinate_addition=self.coordinate_addition,
        )
        layers = [convolution, primary_capsules]
        # Variational Bayes routing may normalize the poses that it makes.
        done = getattr(self.routing, "batch_normalization", False)
        for index, layer in enumerate([*conv_capsules, *class_capsules]):
            if self.normalization is not None and (index == 0 or not done):
                layers.append(
                    PoseNormalization(
                        name=f"{layer.name}_normalization",
                        dtype=self.dtype_policy,
                    )
                )
            layers.append(layer)
        return self._stack(self.image_shape, layers, name="encoder")

    def _make_decoder(self):
        if self.decoder_units is None:
            return None
        return self._dense_decoder(self.decoder_units)

    def get_config(self):
        config = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "num_primary_capsules": self.num_primary_capsules,
            "conv_capsules": self.conv_capsules,
            "conv_strides": self.conv_strides,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "normalization": self.normalization,
            "coordinate_addition": self.coordinate_addition,
            "decoder_units": self.decoder_units,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_capsules")
class PoseNormalization(keras.layers.Layer):
    """Normalizes matrix poses on a grid; activations pass unchanged.

    The mean and variance are those of all numbers in the poses of a type, over
    the batch and the grid: the numbers of a pose keep their proportions.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Batches are small: the usual momentum of 0.99 would lag behind for
        # hundreds of steps.
        self.normalization = keras.layers.BatchNormalization(
            axis=3,
            momentum=0.9,
            epsilon=1e-3,
            center=False,
            scale=False,
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        self.normalization.build(tuple(input_shape[0]))

    def call(self, inputs, training=None):
        poses, activations = inputs
        return self.normalization(poses, training=training), activations

    def compute_output_shape(self, input_shape):
        return tuple(map(tuple, input_shape))


def _get_routing(identifier):
    """A routing; of a name, with the options that suit this network."""
    if not isinstance(identifier, str):
        return routings.get(identifier)
    if identifier == "em":
        return EMRouting(
            num_iterations=2,
            inverse_temperature=1.0,
            min_variance=4.0,
            cost_scale="normalized",
            # About the logarithm of the first standard deviations, whose cost
            # it takes away.
            beta_u_initializer=keras.initializers.Constant(-0.75),
        )
    if identifier == "variational_bayes":
        return VariationalBayesRouting(covariance_prior=100.0)
    return routings.get(identifier)
