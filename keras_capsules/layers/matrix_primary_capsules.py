"""The first layer of capsules with poses and activations."""

import math
from typing import Any
from typing import Unpack

import keras
from keras import ops

from keras_capsules import activations
from keras_capsules.engine.windows import convolve
from keras_capsules.layers.poses import check_capsule_dim
from keras_capsules.layers.weighted import WeightedLayer
from keras_capsules.layers.windowed import WindowedLayer
from keras_capsules.layers.windowed import WindowOptions
from keras_capsules.layers.windowed import check_features
from keras_capsules.types import ActivationLike
from keras_capsules.types import CapsuleDim
from keras_capsules.types import InitializerLike
from keras_capsules.types import Shape
from keras_capsules.types import Sizes
from keras_capsules.types import Tensor
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class MatrixPrimaryCapsules(WindowedLayer, WeightedLayer):
    """Makes capsules with poses and activations out of feature maps.

    At every position of the output grid, `num_capsules` capsules are computed
    from the window below: their poses by a convolution, and their activations,
    from 0 to 1, by another one with a sigmoid. The input is a signal, an image
    or a volume. Both are trained only if the next layer uses both. Dynamic,
    self-attention and inverted attention routing ignore activations; TensorFlow
    then warns of missing gradients.

    Notation: the primary capsules of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), whose B is
    `num_capsules`. The paper has `kernel_size=1` and matrices of 4 x 4. The
    authors' code shifts the logits of activations by -1:
    `activation_bias_initializer=keras.initializers.Constant(-1.0)`.

    Args:
        num_capsules: Positive integer, the capsule types at each position.
        capsule_dim: Pair of positive integers, the rows and columns of a pose
            matrix; or a positive integer, the length of a pose vector. Defaults
            to `(4, 4)`.
        kernel_size: Positive integer or tuple of them, the sizes of a window
            along the axes of the input, such as height and width. Defaults to
            `1`.
        strides: Positive integer or tuple of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        activation: Activation function of the poses, as in `PrimaryCapsules`.
            Defaults to `None`, none.
        activation_bias_initializer: Initializer of the bias of the logits of
            the activations. Defaults to `"zeros"`.
        **kwargs: Options of the weights, for poses and activations alike:
            `use_bias`, `True` by default; `kernel_initializer`, by default a
            truncated normal of standard deviation `sqrt(1 / fan_in)`, where
            `fan_in` counts the places of the window times the channels;
            `kernel_regularizer`, `bias_regularizer`, `kernel_constraint` and
            `bias_constraint`. `bias_initializer`, `"zeros"` by default, is that
            of the poses. And arguments of `keras.layers.Layer`, such as `name`
            and `dtype`. The `data_format` is `"channels_last"` and the
            `dilation_rate` 1.

    Input shape:
        `(batch, length, channels)`, `(batch, height, width, channels)` or
        `(batch, depth, height, width, channels)`, for any global
        `image_data_format`. All sizes but the channels may be unknown.

    Output shape:
        A pair of poses, of the new grid, such as `(batch, new_height,
        new_width, num_capsules, rows, columns)`, or `(..., num_capsules,
        capsule_dim)`, and activations, such as `(batch, new_height, new_width,
        num_capsules)`.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape or is smaller than a window without padding.

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
        num_capsules: int,
        capsule_dim: CapsuleDim = (4, 4),
        kernel_size: Sizes = 1,
        strides: Sizes = 1,
        padding: str = "valid",
        activation: ActivationLike = None,
        activation_bias_initializer: InitializerLike = "zeros",
        **kwargs: Unpack[WindowOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size, strides=strides, padding=padding, **kwargs
        )
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = check_capsule_dim(capsule_dim)
        self._pose: tuple[int, ...] = (
            self.capsule_dim
            if isinstance(self.capsule_dim, tuple)
            else (self.capsule_dim,)
        )
        self.activation = activations.get(activation)
        self.activation_bias_initializer = keras.initializers.get(
            activation_bias_initializer
        )

    def build(self, input_shape: Shape) -> None:
        rank = self._check_input_shape(input_shape)
        kernel_size, _ = self.sizes_for(rank)
        channels: Any = input_shape[-1]
        fan_in = math.prod(kernel_size) * channels
        default = initializers.truncated_normal(math.sqrt(1 / fan_in))
        # One convolution for both would need no less work. Two variables keep
        # regularizers and constraints of both apart.
        weights: list[tuple[str, tuple[int, ...], Any]] = [
            ("pose", self._pose, self.bias_initializer),
            ("activation", (), self.activation_bias_initializer),
        ]
        for name, pose, initializer in weights:
            filters = self.num_capsules * math.prod(pose)
            shape = (*kernel_size, channels, filters)
            kernel = self.add_kernel(shape, default, f"{name}_kernel")
            setattr(self, f"{name}_kernel", kernel)
            shape = (self.num_capsules, *pose)
            bias = self.add_bias(shape, f"{name}_bias", initializer)
            setattr(self, f"{name}_bias", bias)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={-1: channels}
        )

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs = ops.cast(inputs, self.compute_dtype)  # inputs may be integers
        poses = self._convolve(
            inputs, self.pose_kernel, self.pose_bias, self._pose
        )
        logits = self._convolve(
            inputs, self.activation_kernel, self.activation_bias, ()
        )
        return self.activation(poses), ops.sigmoid(logits)

    def _convolve(self, inputs, kernel, bias, pose):
        _, strides = self.sizes_for(len(inputs.shape) - 2)
        shape = (self.num_capsules, *pose)
        result = convolve(inputs, kernel, strides, self.padding, shape)
        return result if bias is None else result + ops.convert_to_tensor(bias)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        rank = self._check_input_shape(input_shape)
        grid = self.grid_of(input_shape, rank)
        shape = (input_shape[0], *grid, self.num_capsules)
        return (*shape, *self._pose), shape

    def _check_input_shape(self, input_shape):
        """The number of axes of the grid."""
        rank = check_features(input_shape, type(self).__name__)
        self.grid_of(input_shape, rank)  # raises if no window fits
        return rank

    def get_config(self) -> dict[str, Any]:
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "activation": activations.serialize(self.activation),
            "activation_bias_initializer": keras.initializers.serialize(
                self.activation_bias_initializer
            ),
        }
        return {**super().get_config(), **config}
