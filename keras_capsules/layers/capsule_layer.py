"""The fully connected layer of capsules."""

import math

import keras
from keras import ops

from keras_capsules import _initializers as initializers
from keras_capsules import routing as routings
from keras_capsules._validation import check_boolean
from keras_capsules._validation import check_integer
from keras_capsules.votes import Votes

# How much longer than its input capsule a vote may be at the start. Longer
# votes, in layers of many outputs and few inputs, would let the first
# iteration of a routing decide everything by chance.
_LONGEST_VOTE = 4.0


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLayer(keras.layers.Layer):
    """Fully connected capsules: every input capsule votes for every output.

    A vote is the input pose times a matrix of its own for each pair of
    capsules. `routing` decides how much of each vote an output capsule is
    made of. The tensor of votes never exists: see `keras_capsules.votes`.

    Notation: `kernel` holds the matrices W_ij, transposed, and the output
    capsules are the v_j of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The paper has no
    `bias`, the authors' code does, inside the routing loop, starting at 0.1.

    Args:
        num_capsules: Positive integer, the number of output capsules.
        capsule_dim: Positive integer, the length of an output pose vector.
        routing: Name or instance of a `keras_capsules.routing.Routing`.
            Defaults to `"dynamic"`.
        use_bias: Boolean, whether to add a bias to each weighted sum of
            votes. Defaults to `True`.
        kernel_initializer: Initializer of the kernel. Defaults to `None`,
            a truncated normal whose standard deviation,
            `num_capsules / sqrt(input_capsules * capsule_dim)` and at most
            `4 / sqrt(capsule_dim)`, makes the uniformly coupled sum of votes
            as long as an input capsule, so that learning starts at once for a
            few as for thousands of input capsules. (Keras's own scaled
            initializers take this kernel for a convolution's, and make it
            many times too small.)
        bias_initializer: Initializer of the bias. Defaults to `None`,
            `keras.initializers.Constant(0.1)`.
        kernel_regularizer: Optional regularizer of the kernel.
        bias_regularizer: Optional regularizer of the bias.
        kernel_constraint: Optional constraint of the kernel.
        bias_constraint: Optional constraint of the bias.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Call arguments:
        inputs: Capsules, see below.
        training: Boolean, handed to the routing.
        return_coupling: Boolean, whether to return the coupling coefficients
            c_ij as well. Defaults to `False`.

    Input shape:
        `(batch, ..., capsule_dim)` of rank 3 or more, such as the grid that
        `PrimaryCapsules` returns. All axes between the first and the last are
        flattened to one axis of input capsules; only the batch size may be
        unknown.

    Output shape:
        `(batch, num_capsules, capsule_dim)`. With `return_coupling=True` a
        pair of that and the coupling coefficients
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
        use_bias=True,
        kernel_initializer=None,
        bias_initializer=None,
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.routing = routings.get(routing)
        self.use_bias = check_boolean(use_bias, "use_bias")
        self.kernel_initializer = initializers.get(kernel_initializer, None)
        self.bias_initializer = initializers.get(
            bias_initializer, keras.initializers.Constant(0.1)
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape):
        self._check_input_shape(input_shape)
        num_inputs = math.prod(input_shape[1:-1])
        self.kernel = self.add_weight(
            name="kernel",
            shape=(
                num_inputs,
                input_shape[-1],
                self.num_capsules,
                self.capsule_dim,
            ),
            initializer=self.kernel_initializer
            or self._default_initializer(num_inputs),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.num_capsules, self.capsule_dim),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.routing_weights = self.routing.build(
            self, num_inputs, self.num_capsules, (1, self.capsule_dim)
        )
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape),
            axes=dict(enumerate(input_shape[1:], start=1)),
        )

    def _default_initializer(self, num_inputs):
        gain = min(self.num_capsules / math.sqrt(num_inputs), _LONGEST_VOTE)
        return initializers.truncated_normal(gain / math.sqrt(self.capsule_dim))

    def call(self, inputs, training=None, return_coupling=False):
        num_inputs, input_dim = self.kernel.shape[:2]
        inputs = ops.cast(inputs, self.compute_dtype)  # integers, too
        votes = Votes(
            ops.reshape(inputs, (-1, num_inputs, 1, input_dim)),
            ops.convert_to_tensor(self.kernel),
        )
        bias = None
        if self.bias is not None:
            bias = ops.convert_to_tensor(self.bias)
            bias = bias[:, None, None]  # [j, 1, p, e]
        routed = self.routing(
            votes,
            bias=bias,
            weights=self.routing_weights,
            training=bool(training),
        )
        poses = ops.transpose(routed.poses[:, :, 0], (1, 0, 2))  # [b, j, e]
        if not return_coupling:
            return poses
        if routed.coupling is None:
            raise ValueError(
                "This routing has no coupling coefficients to return. "
                f"Received: return_coupling=True, routing={self.routing!r}"
            )
        return poses, ops.transpose(routed.coupling, (1, 2, 0))  # [b, i, j]

    def compute_output_shape(self, input_shape):
        self._check_input_shape(input_shape)
        return (input_shape[0], self.num_capsules, self.capsule_dim)

    def compute_output_spec(self, inputs, training=None, return_coupling=False):
        shape = self.compute_output_shape(inputs.shape)
        poses = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_coupling:
            return poses
        shape = (shape[0], math.prod(inputs.shape[1:-1]), self.num_capsules)
        return poses, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _check_input_shape(self, input_shape):
        if isinstance(input_shape[0], (list, tuple)):
            raise ValueError(
                "CapsuleLayer takes one tensor of capsules. Received: "
                f"input_shape={input_shape}"
            )
        if len(input_shape) < 3 or not all(input_shape[1:]):
            raise ValueError(
                "CapsuleLayer takes capsules of shape (batch, ..., "
                "capsule_dim), of rank 3 or more, in which only the batch size "
                "may be unknown, for every input capsule has its own weights. "
                f"Received: input_shape={tuple(input_shape)}"
            )

    def get_config(self):
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer
            and keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
            "kernel_regularizer": keras.regularizers.serialize(
                self.kernel_regularizer
            ),
            "bias_regularizer": keras.regularizers.serialize(
                self.bias_regularizer
            ),
            "kernel_constraint": keras.constraints.serialize(
                self.kernel_constraint
            ),
            "bias_constraint": keras.constraints.serialize(
                self.bias_constraint
            ),
        }
        return {**super().get_config(), **config}
