"""Convolutional capsules that share one kernel among all types of children."""

import math

import keras
from keras import ops

from keras_capsules.activations import squash
from keras_capsules.engine.windows import convolve
from keras_capsules.engine.windows import output_grid
from keras_capsules.utils import initializers
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvCapsules3D(keras.layers.Layer):
    """Routing between grids of capsules, with votes from a 3D convolution.

    Each type of input capsule is an image, whose channels are the numbers of
    its poses. One convolution, the same for all types, makes of it an image of
    votes for every type of output capsule: its kernel is as small as that of
    one type. (As a 3D convolution, it steps from type to type.) Dynamic
    routing follows, in which an input type shares itself out among all output
    types at all positions:

    ```
    V_i = convolution of u_i with kernel, at each position x
    b_ijx = 0
    repeat num_iterations times:
        c_ijx = softmax over j and x of b_ijx
        s_jx = sum_i c_ijx V_ijx + bias_j
        v_j = squash(s_j)
        b_ijx = b_ijx + <V_ijx, v_jx>
    ```

    With `joint_squash`, all poses of an output type, over the whole grid, are
    squashed as one vector: their lengths together say whether the type is
    there. Shares and poses are then small on large grids, so this is a layer
    for the small grids of deep networks. Unlike in other layers, all votes are
    in memory at once, `types * num_capsules * capsule_dim` numbers for each
    position and image.

    Notation: the 3D convolution based routing of
    [Rajasegaran et al., 2019](https://arxiv.org/abs/1904.09546) (DeepCaps),
    with V the intermediate votes, b and c the B_s and K_s, and softmax over j
    and x softmax_3D. The joint squash and the bias are those of the authors'
    code. That code scrambles types, poses and positions when it lays them out
    for the convolution; here they are in their places.

    Args:
        num_capsules: Positive integer, the output capsule types.
        capsule_dim: Positive integer, the length of an output pose vector.
        kernel_size: Positive integer or pair of them, the window's height and
            width. Defaults to `3`.
        strides: Positive integer or pair of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"same"`.
        num_iterations: Positive integer, the number of weighted sums, as in
            `DynamicRouting`. Defaults to `3`.
        joint_squash: Boolean, whether all poses of a type are squashed as one;
            if not, each by itself. Defaults to `True`.
        use_bias: Boolean, whether to add a bias of shape
            `(num_capsules, capsule_dim)`. Defaults to `True`.
        kernel_initializer: Initializer of the kernel, of shape
            `(height, width, input_dim, num_capsules * capsule_dim)`. Defaults
            to `"he_normal"`.
        bias_initializer: Initializer of the bias. Defaults to `None`,
            `keras.initializers.Constant(0.1)`.
        kernel_regularizer: Optional regularizer of the kernel.
        bias_regularizer: Optional regularizer of the bias.
        kernel_constraint: Optional constraint of the kernel.
        bias_constraint: Optional constraint of the bias.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        `(batch, height, width, types, dim)`; batch, height and width may be
        unknown.

    Output shape:
        `(batch, new_height, new_width, num_capsules, capsule_dim)`.

    Raises:
        ValueError: If an argument is not as described, or the input is not of
            this shape, or smaller than a window that is not padded.

    Example:

    ```python
    import keras
    from keras_capsules.layers import ConvCapsules3D

    capsules = keras.random.normal((2, 4, 4, 32, 8))
    layer = ConvCapsules3D(16, 8, strides=2)
    parents = layer(capsules)  # (2, 2, 2, 16, 8)
    ```
    """

    def __init__(
        self,
        num_capsules,
        capsule_dim,
        kernel_size=3,
        strides=1,
        padding="same",
        num_iterations=3,
        joint_squash=True,
        use_bias=True,
        kernel_initializer="he_normal",
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
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        self.strides = check_integer_pair(strides, "strides")
        self.padding = check_choice(padding, "padding", ("valid", "same"))
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.joint_squash = check_boolean(joint_squash, "joint_squash")
        self.use_bias = check_boolean(use_bias, "use_bias")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(
            bias_initializer, keras.initializers.Constant(0.1)
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # for its checks
        types, input_dim = input_shape[3:]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(
                *self.kernel_size,
                input_dim,
                self.num_capsules * self.capsule_dim,
            ),
            initializer=self.kernel_initializer,
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
        self.input_spec = keras.layers.InputSpec(
            ndim=5, axes={3: types, 4: input_dim}
        )

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)  # integers, too
        self.compute_output_shape(inputs.shape)  # for its checks
        batch, height, width = ops.shape(inputs)[:3]
        types, input_dim = inputs.shape[3:]
        # One image for each type.
        images = ops.reshape(
            ops.transpose(inputs, (0, 3, 1, 2, 4)),
            (batch * types, height, width, input_dim),
        )
        votes = convolve(
            images,
            self.kernel,
            self.strides,
            self.padding,
            (self.num_capsules, self.capsule_dim),
        )
        sizes = ops.shape(votes)[1:]
        votes = ops.reshape(votes, (batch, types, *sizes))  # [b, i, h, w, j, e]
        return ops.cast(self._route(votes, *sizes[:2]), inputs.dtype)

    def _route(self, votes, height, width):
        dtype = at_least_float32(votes.dtype)
        votes = ops.cast(votes, dtype)
        number = ops.cast(self.num_capsules * height * width, dtype)
        outputs = self._squash(ops.sum(votes, axis=1) / number)
        total = outputs
        for _ in range(1, self.num_iterations):
            logits = ops.sum(votes * total[:, None], axis=-1)
            coupling = _softmax(logits, axis=(2, 3, 4))  # [b, i, h, w, j]
            outputs = self._squash(ops.sum(coupling[..., None] * votes, axis=1))
            total = total + outputs
        return outputs

    def _squash(self, sums):
        """From weighted sums of votes to poses, `[b, h, w, j, e]`."""
        if self.bias is not None:
            bias = ops.convert_to_tensor(self.bias)
            sums = sums + ops.cast(bias, sums.dtype)
        return squash(sums, axis=(1, 2, 4) if self.joint_squash else -1)

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 5 or not all(input_shape[3:]):
            raise ValueError(
                "ConvCapsules3D takes capsules of shape (batch, height, width, "
                "types, dim) with known types and dim. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        grid = output_grid(
            input_shape, self.kernel_size, self.strides, self.padding
        )
        return (input_shape[0], *grid, self.num_capsules, self.capsule_dim)

    def get_config(self):
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "num_iterations": self.num_iterations,
            "joint_squash": self.joint_squash,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
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


def _softmax(logits, axis):
    """Softmax over several axes at once, of which sizes may be unknown."""
    highest = ops.max(
        ops.stop_gradient(logits),
        axis=axis,
        keepdims=True,
        initial=-math.inf,  # for an empty batch
    )
    powers = ops.exp(logits - highest)
    return powers / ops.sum(powers, axis=axis, keepdims=True)
