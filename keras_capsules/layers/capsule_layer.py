"""The fully connected layer of capsules."""

import math

import keras
from keras import ops

from keras_capsules.layers._routed import RoutedLayer
from keras_capsules.utils.validation import check_boolean


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLayer(RoutedLayer):
    """Fully connected capsules: every input capsule votes for every output.

    A vote is the input pose times a matrix of its own for each pair of
    capsules. `routing` decides how much of each vote an output capsule is made
    of. Votes are made for a few examples at a time: see
    `keras_capsules.engine`.

    Capsules are vectors, whose length says how likely their entity is present,
    or pairs of poses and activations; poses are vectors or, if `capsule_dim` is
    a pair, matrices. The layer takes either kind with any routing, and returns
    the kind that its routing makes: `DynamicRouting` and `SelfAttentionRouting`
    vectors, and they have no use for activations; `EMRouting`,
    `VariationalBayesRouting` and `SelfRouting` pairs, and if they are given
    vectors, their lengths are the activations; `InvertedAttentionRouting`
    poses without activations.

    Notation: `kernel` holds the matrices W_ij, transposed, and the output
    capsules are the v_j of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The paper has no
    `bias`, the authors' code does, inside the routing loop, starting at 0.1.

    Args:
        num_capsules: Positive integer, the number of output capsules.
        capsule_dim: Positive integer, the length of an output pose vector; or a
            pair of them, the rows and columns of an output pose matrix. Input
            poses are then matrices of as many rows.
        routing: Name or instance of a `keras_capsules.routing.Routing`.
            Defaults to `"dynamic"`.
        share_over_positions: Boolean, whether input capsules of one type have
            the same matrices at all positions. The types are then the last
            axis of capsules, as in a grid `(batch, height, width, types,
            dim)`. Weights of the routing, where it has some for each input
            capsule, are not shared. Defaults to `False`.
        coordinate_addition: Boolean, whether to add the position of the input
            capsule to its votes, for input on a grid: x and y, from 0 to 1, to
            a vector's first two numbers, or to the first two numbers of a
            matrix's last column. Defaults to `False`.
        use_bias: Boolean, whether to add a bias to each weighted sum of
            votes. Defaults to `None`, which adds one if the routing does.
        kernel_initializer: Initializer of the kernel. Defaults to `None`,
            a truncated normal whose standard deviation,
            `num_capsules / sqrt(input_capsules * capsule_dim)`, makes the
            uniformly coupled sum of votes as long as an input capsule, so that
            learning starts at once for a few as for thousands of input
            capsules. It is at most `1 / sqrt(capsule_dim)`, which makes votes
            as long as input capsules: longer ones would decide the first
            iteration of a routing by chance. Routings that make means of
            votes get `1 / sqrt(input_dim)`, and votes about as long as input
            poses. (Keras's own scaled initializers take this kernel for a
            convolution's, and make it many times too small.)
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
            c_ij as well. Defaults to `False`.
        outputs: Optional poses of output capsules, as the layer returned them
            earlier, to go on from for one iteration. The routing must take
            them, as `InvertedAttentionRouting` does.

    Input shape:
        Poses `(batch, ..., dim)` of rank 3 or more, such as the grid that
        `PrimaryCapsules` returns, or matrices `(batch, ..., rows, dim)`; or a
        pair of poses and activations `(batch, ...)`. All axes between the batch
        and the pose are flattened to one axis of input capsules; only the batch
        size may be unknown.

    Output shape:
        Poses `(batch, num_capsules, capsule_dim)`, or `(batch, num_capsules,
        rows, columns)`, or a pair of that and activations
        `(batch, num_capsules)`, as the routing makes them. With
        `return_coupling=True` a pair of that and the coupling coefficients
        `(batch, input_capsules, num_capsules)`.

    Raises:
        ValueError: If an argument is not as described, or the input is not of
            this shape.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer

    capsules = keras.random.normal((2, 6, 6, 32, 8))
    layer = CapsuleLayer(10, 16, routing="dynamic")
    digits, coupling = layer(capsules, return_coupling=True)
    # (2, 10, 16) and (2, 1152, 10); coupling sums to 1 over the last axis
    ```
    """

    def __init__(
        self,
        num_capsules,
        capsule_dim,
        routing="dynamic",
        share_over_positions=False,
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
        self.share_over_positions = check_boolean(
            share_over_positions, "share_over_positions"
        )

    def build(self, input_shape):
        capsules, pose = self._check_input_shape(input_shape)
        num_inputs = math.prod(capsules)
        kernels = capsules[-1] if self.share_over_positions else num_inputs
        self._build_weights((kernels,), num_inputs, pose[-1])
        self._set_input_spec(input_shape)

    def call(self, inputs, training=None, return_coupling=False, outputs=None):
        poses, activations = self._split(inputs)
        self._check_outputs(outputs, inputs)
        num_inputs = math.prod(poses.shape[1:-2])
        poses = self._add_coordinates(poses)
        poses = ops.reshape(poses, (-1, num_inputs, *poses.shape[-2:]))
        if activations is not None:
            activations = ops.reshape(activations, (-1, num_inputs))
        kernel = ops.convert_to_tensor(self.kernel)
        routed = self._route(
            poses, activations, kernel, training, outputs, return_coupling
        )
        return self._outputs(routed, (-1,), return_coupling)

    def compute_output_shape(self, input_shape):
        self._check_input_shape(input_shape)
        poses, _ = self._split_shape(input_shape)
        return self._output_shape(poses[0], ())

    def compute_output_spec(
        self, inputs, training=None, return_coupling=False, outputs=None
    ):
        self._check_outputs(outputs, inputs)
        if not return_coupling:
            return self._output_spec(inputs)
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        num_inputs = math.prod(first.shape[1 : -self._pose_axes()])
        shape = (first.shape[0], num_inputs, self.num_capsules)
        return self._output_spec(inputs, shape)

    def _check_input_shape(self, input_shape):
        """The sizes of the axes of capsules, and those of a pose."""
        poses, _ = self._split_shape(input_shape)
        axes = self._pose_axes()
        if len(poses) < 2 + axes or not all(poses[1:]):
            pose = "rows, dim" if self._is_matrix else "capsule_dim"
            raise ValueError(
                f"CapsuleLayer takes capsules of shape (batch, ..., {pose}), "
                f"of rank {2 + axes} or more, in which only the batch size "
                "may be unknown, for every input capsule has its own weights. "
                f"Received: input_shape={poses}"
            )
        capsules = poses[1:-axes]
        if self.coordinate_addition and len(capsules) != 3:
            raise ValueError(
                "Coordinates are those of capsules on a grid. Expected an "
                "input of shape (batch, height, width, types, ...). "
                f"Received: input_shape={poses}, coordinate_addition=True"
            )
        return capsules, poses[-axes:]

    def get_config(self):
        return {
            **super().get_config(),
            "share_over_positions": self.share_over_positions,
        }
