"""The network of matrix capsules."""

from collections.abc import Sequence
from typing import Any
from typing import Self

import keras

from keras_capsules import routing as routings
from keras_capsules.layers.conv_capsules import ConvCapsules2D
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.layers.pose_normalization import PoseNormalization
from keras_capsules.models import decoders
from keras_capsules.models import parts
from keras_capsules.models import pretrained
from keras_capsules.models.base import get_policy
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.routing.em import EMRouting
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_for_each
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integers
from keras_capsules.utils.validation import check_padding
from keras_capsules.utils.validation import check_sizes

# Images with a shorter side than this would vanish in the paper's windows.
_SMALLEST_STRIDED = 20


@keras.saving.register_keras_serializable(package="keras_capsules")
class MatrixCapsNet(CapsuleNetwork):
    """Capsules with matrix poses and activations, routed by EM.

    A convolution, primary capsules, two convolutional capsule layers and a
    layer of class capsules. Matrices of the class capsules are shared by all
    positions, which are told apart by their coordinates, added to the votes.
    Scores are the activations of the class capsules. `SpreadLoss` is the
    paper's loss for them; `MarginLoss` works too. See `CapsuleNetwork` for the
    methods; `encode` returns pairs of poses and activations. The paper's
    network has no decoder, and this one has none unless `decoder_units` are
    given.

    Two defaults differ from the paper. With the paper's values, the network
    stayed at chance for the 150 steps that we tried.

    - Poses are means of votes, so they shrink from layer to layer: variances
      become tiny and activations saturate. `normalization` therefore rescales
      the poses before each layer of capsules, so that votes start with
      variances of about 1.
    - A convolutional output capsule receives about as much as one input capsule
      has to give. Its Gaussian shrinks to a few votes, and each input capsule
      goes to a few output capsules by chance. The default routing therefore
      starts with Gaussians more than twice as wide as the votes, so that each
      input capsule is shared among most output capsules. The shares sharpen as
      the kernels grow.

    `MatrixCapsNet.paper()` is the paper's form.

    Notation: section 4.1 of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), A the
    `filters`, B the `num_primary_capsules`, C and D the `num_conv_capsules`.
    The default sizes are the paper's smaller network: 67,154 parameters with
    one channel and five classes. Initial weights are ours.

    Args:
        image_shape: Three positive integers, the images' `(height, width,
            channels)`. Defaults to `(28, 28, 1)`.
        num_classes: Positive integer. Defaults to `10`.
        filters: Positive integer, the filters of the convolution. Defaults to
            `64`.
        kernel_size: Positive integer or pair of them, the convolution's window.
            Defaults to `5`.
        conv_strides: Positive integer or pair of them, the convolution's
            strides. Defaults to `None`: the paper's 2, or 1 for images with a
            side of less than 20 pixels.
        padding: `"valid"` or `"same"`, of the convolution. Defaults to `None`:
            `"same"` for such images, otherwise `"valid"`.
        num_primary_capsules: Positive integer, the types of primary capsules.
            Defaults to `8`.
        num_conv_capsules: Sequence of positive integers, the types of capsules
            in each of the convolutional capsule layers, whose windows are
            3 x 3. Defaults to `(16, 16)`.
        capsule_strides: Positive integer, or one for each, the strides of these
            layers. Defaults to `(2, 1)`.
        capsule_dim: Pair of positive integers, the rows and columns of the
            class capsules' pose matrices and, in this network, of all others.
            Defaults to `(4, 4)`.
        routing: A routing algorithm that makes activations, such as `"em"`,
            `"variational_bayes"` or `"self_routing"`. Defaults to `None`, EM
            routing with options that suit this network: `EMRouting(
            num_iterations=2, inverse_temperature=1.0, min_variance=4.0,
            cost_scale="normalized", beta_u_initializer=Constant(-0.75))`. For
            variational Bayes, `VariationalBayesRouting(covariance_prior=100.0)`
            suits it.
        normalization: `"batch"`, which normalizes the poses of each type of
            capsules over the batch before each layer of capsules, without
            trained scale or offset; or `None`, as in the paper. Defaults to
            `"batch"`.
        coordinate_addition: Boolean, whether to add positions to the votes for
            class capsules. Defaults to `True`.
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
        `(batch, num_classes)`, the activations of the class capsules.

    Raises:
        ValueError: If an argument is not as described, the images do not have
            the shape `image_shape` or are too small for the windows, or labels
            do not fit `num_classes`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import SpreadLoss
    from keras_capsules.models import MatrixCapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=20)
    model = MatrixCapsNet((8, 8, 1), 3, filters=8, num_conv_capsules=(4, 4))
    model.compile("adam", loss=SpreadLoss(), metrics=["accuracy"])
    model.fit(images, labels, epochs=1, verbose=0)
    scores = model.predict(images, verbose=0)  # (20, 3)
    poses, activations = model.encode(images)  # (20, 3, 4, 4) and (20, 3)
    ```
    """

    @pretrained.takes_weights
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        filters: int = 64,
        kernel_size: Sizes = 5,
        conv_strides: Sizes | None = None,
        padding: str | None = None,
        num_primary_capsules: int = 8,
        num_conv_capsules: Sequence[int] = (16, 16),
        capsule_strides: int | Sequence[int] = (2, 1),
        capsule_dim: Sequence[int] = (4, 4),
        routing: routings.RoutingLike | None = None,
        normalization: str | None = "batch",
        coordinate_addition: bool = True,
        decoder_units: Sequence[int] | None = None,
        reconstruction_weight: float = 0.0005,
        weights: pretrained.Weights = None,
        **kwargs: Any,
    ):
        dtype = get_policy(self, kwargs)
        self.image_shape = check_integers(image_shape, "image_shape", 3)
        self.num_classes = check_integer(num_classes, "num_classes")
        small = min(self.image_shape[:2]) < _SMALLEST_STRIDED
        self.filters = check_integer(filters, "filters")
        self.kernel_size = check_sizes(kernel_size, "kernel_size", 2)
        if conv_strides is None:
            conv_strides = 1 if small else 2
        self.conv_strides = check_sizes(conv_strides, "conv_strides", 2)
        if padding is None:
            padding = "same" if small else "valid"
        self.padding = check_padding(padding)
        self.num_primary_capsules = check_integer(
            num_primary_capsules, "num_primary_capsules"
        )
        self.num_conv_capsules = check_integers(
            num_conv_capsules, "num_conv_capsules"
        )
        self.capsule_strides = check_for_each(
            capsule_strides, "capsule_strides", len(self.num_conv_capsules)
        )
        self.capsule_dim = check_integers(capsule_dim, "capsule_dim", 2)
        self.routing = (
            _default_routing() if routing is None else routings.get(routing)
        )
        if self.routing.activation_from != "routing":
            raise ValueError(
                "The capsules of this network have activations. Expected a "
                "routing that makes them, such as 'em', 'variational_bayes' or "
                f"'self_routing'. Received: routing={self.routing!r}"
            )
        if normalization is not None:
            check_choice(normalization, "normalization", ("batch",))
        self.normalization = normalization
        self.coordinate_addition = check_boolean(
            coordinate_addition, "coordinate_addition"
        )
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

    @classmethod
    def paper(cls, **kwargs: Any) -> Self:
        """The network with the paper's routing, and without normalization.

        Args:
            **kwargs: Arguments that differ.
        """
        return cls(**{"routing": EMRouting(), "normalization": None, **kwargs})

    def _check_windows(self):
        windows = [(self.kernel_size, self.conv_strides, self.padding)]
        windows += [(3, strides, "valid") for strides in self.capsule_strides]
        if min(parts.grid_after(self.image_shape, windows)) < 1:
            remedy = 'padding="same", ' if self.padding == "valid" else ""
            raise ValueError(
                "The images are too small for these windows; those of "
                "convolutional capsules are 3 x 3 and never padded. Expected "
                f"larger images, smaller conv_strides, {remedy}smaller "
                "capsule_strides or fewer num_conv_capsules. Received: "
                f"image_shape={self.image_shape}, "
                f"kernel_size={self.kernel_size}, "
                f"conv_strides={self.conv_strides}, padding={self.padding!r}, "
                f"capsule_strides={self.capsule_strides}"
            )

    def _make_capsules(self, x, dtype):
        x = parts.convolution(
            self.filters,
            self.kernel_size,
            dtype,
            strides=self.conv_strides,
            padding=self.padding,
            name="convolution",
        )(x)
        x = MatrixPrimaryCapsules(
            self.num_primary_capsules,
            self.capsule_dim,
            name="primary_capsules",
            dtype=dtype,
        )(x)
        # Variational Bayes routing may normalize the poses that it makes.
        normalized = self.routing.batch_normalization
        for index, (number, strides) in enumerate(
            zip(self.num_conv_capsules, self.capsule_strides, strict=True), 1
        ):
            name = f"conv_capsules_{index}"
            if index == 1 or not normalized:
                x = self._normalize(x, name, dtype)
            x = ConvCapsules2D(
                number,
                self.capsule_dim,
                kernel_size=3,
                strides=strides,
                routing=self.routing,
                name=name,
                dtype=dtype,
            )(x)
        if not self.num_conv_capsules or not normalized:
            x = self._normalize(x, "class_capsules", dtype)
        return parts.class_capsules(
            x,
            self.num_classes,
            self.capsule_dim,
            self.routing,
            dtype,
            share_over_positions=True,
            coordinate_addition=self.coordinate_addition,
        )

    def _normalize(self, x, name, dtype):
        """The input of the layer of this name."""
        if self.normalization is None:
            return x
        return PoseNormalization(name=f"{name}_normalization", dtype=dtype)(x)


def _default_routing():
    return EMRouting(
        num_iterations=2,
        inverse_temperature=1.0,
        min_variance=4.0,
        cost_scale="normalized",
        # About the logarithm of the first standard deviations, whose cost it
        # takes away.
        beta_u_initializer=keras.initializers.Constant(-0.75),
    )
