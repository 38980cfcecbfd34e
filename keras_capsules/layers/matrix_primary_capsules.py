"""The first layer of capsules with matrix poses and activations."""

import math

import keras
from keras import ops

from keras_capsules.engine.windows import convolve
from keras_capsules.engine.windows import output_grid
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_integer_pair


@keras.saving.register_keras_serializable(package="keras_capsules")
class MatrixPrimaryCapsules(keras.layers.Layer):
    """Makes capsules with poses and activations out of feature maps.

    At every position of the output grid, `num_capsules` capsules are computed
    from the window below: their poses by a linear convolution, and their
    activations, from 0 to 1, by another with a sigmoid. What comes after them
    has to use both for both to be trained: dynamic, self-attention and inverted
    attention routing have no use for activations, of which Keras warns on
    TensorFlow.

    Notation: the primary capsules of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), B the
    `num_capsules`. The paper's are `kernel_size=1` and matrices of 4 x 4. The
    authors' code shifts the logits of activations by -1:
    `activation_bias_initializer=keras.initializers.Constant(-1.0)`.

    Args:
        num_capsules: Positive integer, the capsule types at each position.
        capsule_dim: Pair of positive integers, the rows and columns of a pose
            matrix; or a positive integer, the length of a pose vector. Defaults
            to `(4, 4)`.
        kernel_size: Positive integer or pair of them, the window's height and
            width in input pixels. Defaults to `1`.
        strides: Positive integer or pair of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        kernel_initializer: Initializer of both kernels. Defaults to `None`, a
            truncated normal of standard deviation `sqrt(1 / fan_in)`, where
            `fan_in` counts the window's pixels times the channels.
        pose_bias_initializer: Initializer of the poses' bias. Defaults to
            `"zeros"`.
        activation_bias_initializer: Initializer of the bias of the activations'
            logits. Defaults to `"zeros"`.
        kernel_regularizer: Optional regularizer of both kernels.
        bias_regularizer: Optional regularizer of both biases.
        kernel_constraint: Optional constraint of both kernels.
        bias_constraint: Optional constraint of both biases.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        `(batch, height, width, channels)`, whatever the global
        `image_data_format`.

    Output shape:
        A pair of poses `(batch, new_height, new_width, num_capsules, rows,
        columns)`, or `(..., num_capsules, capsule_dim)`, and activations
        `(batch, new_height, new_width, num_capsules)`.

    Raises:
        ValueError: If an argument is not as described, or the input is not of
            this shape or smaller than a window that is not padded.

    Example:

    ```python
    import keras
    from keras_capsules import MatrixPrimaryCapsules

    features = keras.random.normal((2, 14, 14, 64))
    poses, activations = MatrixPrimaryCapsules(8)(features)
    # (2, 14, 14, 8, 4, 4) and (2, 14, 14, 8)
    ```
    """

    def __init__(
        self,
        num_capsules,
        capsule_dim=(4, 4),
        kernel_size=1,
        strides=1,
        padding="valid",
        kernel_initializer=None,
        pose_bias_initializer="zeros",
        activation_bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        if isinstance(capsule_dim, (list, tuple)):
            self.capsule_dim = check_integer_pair(capsule_dim, "capsule_dim")
            self._pose_shape = self.capsule_dim
        else:
            self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
            self._pose_shape = (self.capsule_dim,)
        self.kernel_size = check_integer_pair(kernel_size, "kernel_size")
        self.strides = check_integer_pair(strides, "strides")
        self.padding = check_choice(padding, "padding", ("valid", "same"))
        self.kernel_initializer = initializers.get(kernel_initializer, None)
        self.pose_bias_initializer = keras.initializers.get(
            pose_bias_initializer
        )
        self.activation_bias_initializer = keras.initializers.get(
            activation_bias_initializer
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # for its checks
        channels = input_shape[-1]
        fan_in = math.prod(self.kernel_size) * channels
        default = initializers.truncated_normal(math.sqrt(1 / fan_in))
        pose_size = math.prod(self._pose_shape)
        # One convolution for both would need no less work; two variables keep
        # regularizers and constraints of both apart.
        for name, number, shape, bias_initializer in (
            ("pose", pose_size, self._pose_shape, self.pose_bias_initializer),
            ("activation", 1, (), self.activation_bias_initializer),
        ):
            kernel = self.add_weight(
                name=f"{name}_kernel",
                shape=(
                    *self.kernel_size,
                    channels,
                    self.num_capsules * number,
                ),
                initializer=self.kernel_initializer or default,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            bias = self.add_weight(
                name=f"{name}_bias",
                shape=(self.num_capsules, *shape),
                initializer=bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
            setattr(self, f"{name}_kernel", kernel)
            setattr(self, f"{name}_bias", bias)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)  # integers, too
        poses, logits = (
            convolve(
                inputs,
                kernel,
                self.strides,
                self.padding,
                (self.num_capsules, *shape),
            )
            + ops.convert_to_tensor(bias)
            for kernel, bias, shape in (
                (self.pose_kernel, self.pose_bias, self._pose_shape),
                (self.activation_kernel, self.activation_bias, ()),
            )
        )
        return poses, ops.sigmoid(logits)

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or not input_shape[-1]:
            raise ValueError(
                "MatrixPrimaryCapsules take feature maps of shape (batch, "
                "height, width, channels) with a known number of channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        grid = output_grid(
            input_shape, self.kernel_size, self.strides, self.padding
        )
        shape = (input_shape[0], *grid, self.num_capsules)
        return (*shape, *self._pose_shape), shape

    def get_config(self):
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "kernel_initializer": self.kernel_initializer
            and keras.initializers.serialize(self.kernel_initializer),
            "pose_bias_initializer": keras.initializers.serialize(
                self.pose_bias_initializer
            ),
            "activation_bias_initializer": keras.initializers.serialize(
                self.activation_bias_initializer
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
