"""The first layer of capsules, made from feature maps."""

import math

import keras
from keras import ops

from keras_capsules import activations
from keras_capsules.engine.windows import convolve
from keras_capsules.engine.windows import output_grid
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class PrimaryCapsules(keras.layers.Layer):
    """Makes capsules out of feature maps: a convolution, grouped and squashed.

    At every position of the output grid, `num_capsules` capsules of
    `capsule_dim` numbers each are computed from the window below, and their
    lengths are squashed to between 0 and 1:

    ```
    u = squash(scale * (x * kernel) + bias)
    ```

    With `depthwise=True` every number of a pose sees one channel of the input
    only, over the whole window, as in Efficient-CapsNet.

    Notation: u are the outputs u_i of the PrimaryCapsules in
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The paper shows
    the plain squash of a convolution. The authors' code divides the
    convolution by the number of capsule types first, for it routes with
    uniform coupling here: `scale=1 / num_capsules`, along with
    `kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.1)`,
    gives that form. `depthwise=True` with
    `activation="exponential_squash"` is the primary layer of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491).

    Args:
        num_capsules: Positive integer, the capsule types at each position.
        capsule_dim: Positive integer, the length of a pose vector.
        kernel_size: Positive integer or pair of them, the window's height and
            width in input pixels.
        strides: Positive integer or pair of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        depthwise: Boolean, see above; the input must then have
            `num_capsules * capsule_dim` channels, and both strides must be
            equal. Defaults to `False`.
        scale: Number above 0 that multiplies the convolution. Defaults to
            `1.0`.
        activation: `"squash"`, `"exponential_squash"`, or what else
            `keras.layers.Activation` takes; `None` for none. It is given
            poses along the last axis. Defaults to `"squash"`.
        use_bias: Boolean, whether to add a bias of shape
            `(num_capsules, capsule_dim)`. Defaults to `True`.
        kernel_initializer: Initializer of the kernel. Defaults to `None`,
            a truncated normal of standard deviation `sqrt(2 / fan_in)`, where
            `fan_in` counts the inputs that one number of a pose is made of:
            the window's pixels, times the channels unless `depthwise`.
        bias_initializer: Initializer of the bias. Defaults to `"zeros"`; the
            code of Sabour et al. has `keras.initializers.Constant(0.1)`.
        kernel_regularizer: Optional regularizer of the kernel.
        bias_regularizer: Optional regularizer of the bias.
        kernel_constraint: Optional constraint of the kernel.
        bias_constraint: Optional constraint of the bias.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        `(batch, height, width, channels)`, whatever the global
        `image_data_format`.

    Output shape:
        `(batch, new_height, new_width, num_capsules, capsule_dim)`.

    Raises:
        ValueError: If an argument is not as described, or the input is not of
            this shape, smaller than a window that is not padded, or, with
            `depthwise=True`, of another number of channels.

    Example:

    ```python
    import keras
    from keras_capsules import PrimaryCapsules

    features = keras.random.normal((2, 20, 20, 64))
    layer = PrimaryCapsules(32, 8, kernel_size=9, strides=2)
    capsules = layer(features)  # (2, 6, 6, 32, 8)
    ```
    """

    def __init__(
        self,
        num_capsules,
        capsule_dim,
        kernel_size,
        strides=1,
        padding="valid",
        depthwise=False,
        scale=1.0,
        activation="squash",
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
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
        self.depthwise = check_boolean(depthwise, "depthwise")
        if depthwise and self.strides[0] != self.strides[1]:
            raise ValueError(
                "With depthwise=True both strides must be equal, for not all "
                f"backends have others. Received: strides={strides!r}"
            )
        self.scale = check_number(
            scale, "scale", minimum=0.0, open_minimum=True
        )
        self.activation = activations.get(activation)
        self.use_bias = check_boolean(use_bias, "use_bias")
        self.kernel_initializer = initializers.get(kernel_initializer, None)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # for its checks
        channels = input_shape[-1]
        fan_in = math.prod(self.kernel_size)
        if self.depthwise:
            shape = (*self.kernel_size, channels, 1)
        else:
            fan_in *= channels
            filters = self.num_capsules * self.capsule_dim
            shape = (*self.kernel_size, channels, filters)
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=self.kernel_initializer
            or initializers.truncated_normal(math.sqrt(2 / fan_in)),
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
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)  # integers, too
        poses = convolve(
            inputs,
            self.kernel,
            self.strides,
            self.padding,
            (self.num_capsules, self.capsule_dim),
            self.depthwise,
        )
        if self.scale != 1.0:
            poses = poses * self.scale
        if self.bias is not None:
            poses = poses + ops.convert_to_tensor(self.bias)
        return self.activation(poses)

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or not input_shape[-1]:
            raise ValueError(
                "PrimaryCapsules take feature maps of shape (batch, height, "
                "width, channels) with a known number of channels. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        grid = output_grid(
            input_shape, self.kernel_size, self.strides, self.padding
        )
        filters = self.num_capsules * self.capsule_dim
        if self.depthwise and input_shape[-1] != filters:
            raise ValueError(
                "With depthwise=True every number of a pose has one input "
                "channel. Expected num_capsules * capsule_dim = "
                f"{filters} channels. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        return (input_shape[0], *grid, self.num_capsules, self.capsule_dim)

    def get_config(self):
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "depthwise": self.depthwise,
            "scale": self.scale,
            "activation": activations.serialize(self.activation),
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
