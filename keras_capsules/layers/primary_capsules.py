"""The first layer of capsules, made from feature maps."""

import math
from typing import Any
from typing import Unpack

import keras
from keras import ops

from keras_capsules import activations
from keras_capsules.engine.windows import convolve
from keras_capsules.layers.weighted import WeightedLayer
from keras_capsules.layers.windowed import WindowedLayer
from keras_capsules.layers.windowed import WindowOptions
from keras_capsules.layers.windowed import check_features
from keras_capsules.types import ActivationLike
from keras_capsules.types import Shape
from keras_capsules.types import Sizes
from keras_capsules.types import Tensor
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class PrimaryCapsules(WindowedLayer, WeightedLayer):
    """Makes capsules out of feature maps: a convolution, grouped and squashed.

    At every position of the output grid, `num_capsules` capsules of
    `capsule_dim` numbers each are computed from the window below. Their lengths
    are squashed to between 0 and 1:

    ```
    u = squash(pre_squash_scale * (x * kernel) + bias)
    ```

    With `depthwise=True` every number of a pose sees only one channel of the
    input, over the whole window, as in Efficient-CapsNet. The input is a
    signal, an image or a volume.

    Notation: u are the outputs u_i of the PrimaryCapsules in
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The paper shows
    the plain squash of a convolution. The authors' code divides the
    convolution by the number of capsule types first, because it routes with
    uniform coupling here: `pre_squash_scale=1 / num_capsules`, along with
    `kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.1)`,
    gives that form. `depthwise=True` with
    `activation="exponential_squash"` is the primary layer of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491).

    Args:
        num_capsules: Positive integer, the capsule types at each position.
        capsule_dim: Positive integer, the length of a pose vector.
        kernel_size: Positive integer or tuple of them, the sizes of a window
            along the axes of the input, such as height and width.
        strides: Positive integer or tuple of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        depthwise: Boolean, see above. The input must then have
            `num_capsules * capsule_dim` channels and be a signal or an image,
            and all strides must be equal. Defaults to `False`.
        pre_squash_scale: Number above 0 that multiplies the convolution.
            Defaults to `1.0`.
        activation: `"squash"`, `"exponential_squash"`, or any other activation
            that `keras.layers.Activation` takes; `None` for none. It is given
            poses along the last axis. Defaults to `"squash"`.
        **kwargs: Options of the weights: `use_bias`, `True` by default, a bias
            of shape `(num_capsules, capsule_dim)`; `kernel_initializer`, by
            default a truncated normal of standard deviation
            `sqrt(2 / fan_in)`, where `fan_in` counts the inputs of one number
            of a pose: the places of the window, times the channels unless
            `depthwise`; `bias_initializer`, `"zeros"` by default (the code of
            Sabour et al. has `keras.initializers.Constant(0.1)`);
            `kernel_regularizer`, `bias_regularizer`, `kernel_constraint` and
            `bias_constraint`. And arguments of `keras.layers.Layer`, such as
            `name` and `dtype`. The `data_format` is `"channels_last"` and the
            `dilation_rate` 1.

    Input shape:
        `(batch, length, channels)`, `(batch, height, width, channels)` or
        `(batch, depth, height, width, channels)`, for any global
        `image_data_format`. All sizes but the channels may be unknown.

    Output shape:
        The input shape with the new grid, and `num_capsules, capsule_dim` in
        place of the channels, such as `(batch, new_height, new_width,
        num_capsules, capsule_dim)`.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape, is smaller than a window without padding or, with
            `depthwise=True`, has another number of channels.

    Example:

    ```python
    import keras
    from keras_capsules import PrimaryCapsules

    features = keras.random.normal((2, 20, 20, 64))
    layer = PrimaryCapsules(32, 8, kernel_size=9, strides=2)
    capsules = layer(features)  # (2, 6, 6, 32, 8)

    signal = keras.random.normal((2, 100, 3))
    capsules = PrimaryCapsules(4, 8, kernel_size=9)(signal)  # (2, 92, 4, 8)
    ```
    """

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        depthwise: bool = False,
        pre_squash_scale: float = 1.0,
        activation: ActivationLike = "squash",
        **kwargs: Unpack[WindowOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size, strides=strides, padding=padding, **kwargs
        )
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.depthwise = check_boolean(depthwise, "depthwise")
        if depthwise and len({*keras.tree.flatten(self.strides)}) > 1:
            raise ValueError(
                "With depthwise=True all strides must be equal, because not "
                "every backend supports unequal strides there. "
                f"Received: strides={self.strides!r}"
            )
        self.pre_squash_scale = check_number(
            pre_squash_scale, "pre_squash_scale", minimum=0.0, open_minimum=True
        )
        self.activation = activations.get(activation)

    def build(self, input_shape: Shape) -> None:
        rank = self._check_input_shape(input_shape)
        kernel_size, _ = self.sizes_for(rank)
        channels: Any = input_shape[-1]
        fan_in = math.prod(kernel_size)
        if self.depthwise:
            shape = (*kernel_size, channels, 1)
        else:
            fan_in *= channels
            filters = self.num_capsules * self.capsule_dim
            shape = (*kernel_size, channels, filters)
        self.kernel = self.add_kernel(
            shape, initializers.truncated_normal(math.sqrt(2 / fan_in))
        )
        self.bias = self.add_bias((self.num_capsules, self.capsule_dim))
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={-1: channels}
        )

    def call(self, inputs: Tensor) -> Tensor:
        inputs = ops.cast(inputs, self.compute_dtype)  # inputs may be integers
        _, strides = self.sizes_for(len(inputs.shape) - 2)
        poses = convolve(
            inputs,
            self.kernel,
            strides,
            self.padding,
            (self.num_capsules, self.capsule_dim),
            self.depthwise,
        )
        if self.pre_squash_scale != 1.0:
            poses = poses * self.pre_squash_scale
        if self.bias is not None:
            poses = poses + ops.convert_to_tensor(self.bias)
        if len(poses.shape) <= 5:
            return self.activation(poses)
        # Volumes: LiteRT cannot calibrate products of so many axes.
        shape = ops.shape(poses)
        poses = ops.reshape(poses, (-1, *poses.shape[-2:]))
        return ops.reshape(self.activation(poses), shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        rank = self._check_input_shape(input_shape)
        grid = self.grid_of(input_shape, rank)
        return (input_shape[0], *grid, self.num_capsules, self.capsule_dim)

    def _check_input_shape(self, input_shape):
        """The number of axes of the grid."""
        rank = check_features(input_shape, type(self).__name__)
        self.grid_of(input_shape, rank)  # raises if no window fits
        if self.depthwise and rank > 2:
            raise ValueError(
                "With depthwise=True the input is a signal or an image, "
                "because not all backends have depthwise convolutions of "
                f"volumes. Received: input_shape={tuple(input_shape)}"
            )
        filters = self.num_capsules * self.capsule_dim
        if self.depthwise and input_shape[-1] != filters:
            raise ValueError(
                "With depthwise=True every number of a pose has one input "
                "channel. Expected num_capsules * capsule_dim = "
                f"{filters} channels. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        return rank

    def get_config(self) -> dict[str, Any]:
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "depthwise": self.depthwise,
            "pre_squash_scale": self.pre_squash_scale,
            "activation": activations.serialize(self.activation),
        }
        return {**super().get_config(), **config}
