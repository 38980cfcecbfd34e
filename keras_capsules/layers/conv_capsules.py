"""The convolutional layer of capsules."""

import math

import keras
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.engine.windows import output_grid
from keras_capsules.layers._routed import RoutedLayer
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer_pair


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvCapsules2D(RoutedLayer):
    """Convolutional capsules: those in a window vote for those above it.

    As in a convolution, the matrices that make votes of poses depend on the
    place in the window and on the types of both capsules, and are the same for
    all windows. Routing goes on in each window as in `CapsuleLayer`. A child
    lies in several windows: with `EMRouting` and `VariationalBayesRouting` the
    capsules of all these windows compete for it, with the other routings those
    of each window do.

    Children that are padding are inactive: they have no activation and vote for
    nothing.

    Notation: the ConvCaps layers of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), K the
    `kernel_size`, B and C the types of capsules below and above; and of
    [Tsai et al., 2020](https://arxiv.org/abs/2002.04764).

    Args:
        num_capsules: Positive integer, the types of output capsules at each
            position.
        capsule_dim: Positive integer, the length of an output pose vector; or a
            pair of them, the rows and columns of an output pose matrix. Input
            poses are then matrices of as many rows.
        kernel_size: Positive integer or pair of them, a window's height and
            width in positions of the input.
        strides: Positive integer or pair of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        routing: Name or instance of a `keras_capsules.routing.Routing`.
            Defaults to `"dynamic"`.
        coordinate_addition: Boolean, whether to add the position of the input
            capsule to its votes: x and y, from 0 to 1 over the whole grid, to a
            vector's first two numbers, or to the first two numbers of a
            matrix's last column. Defaults to `False`.
        use_bias: Boolean, whether to add a bias to each weighted sum of
            votes. Defaults to `None`, which adds one if the routing does.
        kernel_initializer: Initializer of the kernel. Defaults to `None`, as in
            `CapsuleLayer`, with the capsules in a window as input capsules.
        bias_initializer: Initializer of the bias, if there is one. Defaults to
            `None`, `keras.initializers.Constant(0.1)`.
        kernel_regularizer: Optional regularizer of the kernel.
        bias_regularizer: Optional regularizer of the bias, if there is one.
        kernel_constraint: Optional constraint of the kernel.
        bias_constraint: Optional constraint of the bias, if there is one.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Call arguments:
        inputs: Capsules, see below.
        training: Boolean, handed to the routing.
        return_coupling: Boolean, whether to return the coupling coefficients
            as well. Defaults to `False`.
        outputs: Optional poses of output capsules, as the layer returned them
            earlier, to go on from for one iteration. The routing must take
            them, as `InvertedAttentionRouting` does.

    Input shape:
        Poses on a grid, `(batch, height, width, types, dim)`, or matrices
        `(batch, height, width, types, rows, dim)`; or a pair of poses and
        activations `(batch, height, width, types)`. Batch, height and width may
        be unknown.

    Output shape:
        Poses `(batch, new_height, new_width, num_capsules, capsule_dim)`, or
        matrices, or a pair of that and activations `(batch, new_height,
        new_width, num_capsules)`, as the routing makes them: see
        `CapsuleLayer`. With `return_coupling=True` a pair of that and the
        coupling coefficients `(batch, new_height, new_width, children,
        num_capsules)`; the children of a window are its places, row by row,
        times the types.

    Raises:
        ValueError: If an argument is not as described, or the input is not of
            this shape or smaller than a window that is not padded.

    Example:

    ```python
    import keras
    from keras_capsules import ConvCapsules2D

    capsules = keras.random.normal((2, 7, 9, 5, 8))
    layer = ConvCapsules2D(3, 16, kernel_size=3, strides=2)
    outputs = layer(capsules)  # (2, 3, 4, 3, 16)
    ```
    """

    def __init__(
        self,
        num_capsules,
        capsule_dim,
        kernel_size,
        strides=1,
        padding="valid",
        routing="dynamic",
        coordinate_addition=False,
        use_bias=None,
        kernel_initializer=None,
        bias_initializer=None,
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(
            num_capsules=num_capsules,
            capsule_dim=capsule_dim,
            routing=routing,
            coordinate_addition=coordinate_addition,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        self.strides = check_integer_pair(strides, "strides")
        self.padding = check_choice(padding, "padding", ("valid", "same"))

    def build(self, input_shape):
        poses = self._check_input_shape(input_shape)
        kernel_shape = (*self.kernel_size, poses[3])
        self._build_weights(kernel_shape, math.prod(kernel_shape), poses[-1])
        # Heights and widths may change.
        self._set_input_spec(input_shape, fixed=slice(3, None))

    def call(self, inputs, training=None, return_coupling=False, outputs=None):
        poses, activations = self._split(inputs)
        self._check_outputs(outputs, inputs)
        poses = self._add_coordinates(poses)
        batch, *size = ops.shape(poses)[:3]
        windows = Windows(size, self.kernel_size, self.strides, self.padding)
        kernel = ops.convert_to_tensor(self.kernel)
        kernel = ops.reshape(kernel, (-1, *kernel.shape[3:]))  # [i, d, j, e]
        num_inputs = kernel.shape[0]
        poses = windows.unfold(poses)
        poses = ops.reshape(poses, (-1, num_inputs, *poses.shape[-2:]))
        if activations is not None:
            activations = windows.unfold(activations)
            activations = ops.reshape(activations, (-1, num_inputs))
        routed = self._route(
            poses,
            activations,
            kernel,
            training,
            outputs,
            return_coupling,
            windows,
        )
        axes = (batch, *windows.output_size)
        return self._outputs(routed, axes, return_coupling)

    def compute_output_shape(self, input_shape):
        poses = self._check_input_shape(input_shape)
        return self._output_shape(poses[0], self._grid(poses))

    def compute_output_spec(
        self, inputs, training=None, return_coupling=False, outputs=None
    ):
        self._check_outputs(outputs, inputs)
        if not return_coupling:
            return self._output_spec(inputs)
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        num_inputs = math.prod(self.kernel_size) * first.shape[3]
        grid = self._grid(first.shape)
        shape = (first.shape[0], *grid, num_inputs, self.num_capsules)
        return self._output_spec(inputs, shape)

    def _grid(self, shape):
        return output_grid(shape, self.kernel_size, self.strides, self.padding)

    def _check_input_shape(self, input_shape):
        """The shape of the poses."""
        poses, _ = self._split_shape(input_shape)
        axes = self._pose_axes()
        if len(poses) != 4 + axes or not all(poses[3:]):
            pose = "rows, dim" if self._is_matrix else "dim"
            raise ValueError(
                "ConvCapsules2D takes capsules on a grid, (batch, height, "
                f"width, types, {pose}), with known types and poses. "
                f"Received: input_shape={poses}"
            )
        self._grid(poses)  # for its check
        return poses

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }
