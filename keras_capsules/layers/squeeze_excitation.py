"""Attention to channels, and to capsule types."""

from typing import Any

import keras
from keras import ops

from keras_capsules.activations import safe_norm
from keras_capsules.layers.poses import fits_pair
from keras_capsules.layers.poses import is_pair
from keras_capsules.layers.poses import shapes_of
from keras_capsules.types import ActivationLike
from keras_capsules.types import Capsules
from keras_capsules.types import InitializerLike
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class SqueezeExcitation(keras.layers.Layer):
    """Rescales channels (or capsule types) by global context.

    Each channel is averaged over all positions. Two dense layers, the first of
    which has few units, turn these means into a factor between 0 and 1 for
    each channel:

    ```
    z = mean over positions of x
    s = gate_activation(activation(z * squeeze_kernel + squeeze_bias)
                        * excite_kernel + excite_bias)
    output = s * x
    ```

    With capsules, all numbers of a pose share the factor of their type, so that
    capsules get shorter but keep their direction. Then z is the mean of their
    lengths: it measures how much of a type is present, whatever its pose. An
    input of rank 4 counts as feature maps, one of rank 3 or 5 as capsules. With
    a pair of poses and activations, z is the mean of the activations, and the
    factors multiply the activations; poses pass unchanged.

    Notation: section 3 of
    [Hu et al., 2018](https://arxiv.org/abs/1709.01507), whose u_c are the
    channels of x, whose W_1 and W_2 are the two kernels, and whose r is the
    `ratio`. The paper leaves out biases for simplicity. It is about feature
    maps; the form for capsules is ours.

    Args:
        ratio: Positive integer, the number of channels or types for each unit
            of the first dense layer. It has at least one. Defaults to `16`.
        activation: Activation function of the first dense layer, as
            `keras.activations.get` takes it. Defaults to `"relu"`.
        gate_activation: Activation function of the second dense layer.
            Defaults to `"sigmoid"`.
        kernel_initializer: Initializer of both kernels. Defaults to
            `"glorot_uniform"`.
        bias_initializer: Initializer of both biases. Defaults to `"zeros"`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Input shape:
        Feature maps `(batch, height, width, channels)`, for any global
        `image_data_format`; capsules `(batch, height, width, types, dim)` or
        `(batch, types, dim)`; or a pair of poses, whose shape may also end in
        `rows, columns`, and activations `(batch, height, width, types)` or
        `(batch, types)`. All sizes may be unknown except the number of channels
        or types.

    Output shape:
        The shape of the input.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape.

    Example:

    ```python
    import keras
    from keras_capsules.layers import SqueezeExcitation

    features = keras.random.normal((2, 14, 14, 64))
    features = SqueezeExcitation()(features)  # (2, 14, 14, 64)
    capsules = keras.random.normal((2, 6, 6, 32, 8))
    capsules = SqueezeExcitation(ratio=4)(capsules)  # (2, 6, 6, 32, 8)

    poses = keras.random.normal((2, 6, 6, 32, 4, 4))
    activations = keras.random.uniform((2, 6, 6, 32))
    poses, activations = SqueezeExcitation(ratio=4)((poses, activations))
    ```
    """

    def __init__(
        self,
        ratio: int = 16,
        activation: ActivationLike = "relu",
        gate_activation: ActivationLike = "sigmoid",
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ratio = check_integer(ratio, "ratio")
        self.activation = keras.activations.get(activation)
        self.gate_activation = keras.activations.get(gate_activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Any) -> None:
        self._check_input_shape(input_shape)
        if is_pair(input_shape):
            poses, activations = map(len, input_shape)
            number = input_shape[1][-1]
            # For each, its rank and the axis of the types.
            axes = [(poses, activations - 1), (activations, -1)]
        else:
            axis = _channel_axis(len(input_shape))
            number = input_shape[axis]
            axes = [(len(input_shape), axis)]
        specs = [
            keras.layers.InputSpec(ndim=rank, axes={axis: number})
            for rank, axis in axes
        ]
        self.input_spec = specs if len(specs) == 2 else specs[0]
        units = max(1, number // self.ratio)
        self.squeeze_kernel, self.squeeze_bias = self._add_dense(
            "squeeze", number, units
        )
        self.excite_kernel, self.excite_bias = self._add_dense(
            "excite", units, number
        )

    def _add_dense(self, name, inputs, units):
        kernel = self.add_weight(
            name=f"{name}_kernel",
            shape=(inputs, units),
            initializer=self.kernel_initializer,
        )
        bias = self.add_weight(
            name=f"{name}_bias",
            shape=(units,),
            initializer=self.bias_initializer,
        )
        return kernel, bias

    def call(self, inputs: Capsules) -> Capsules:
        if isinstance(inputs, (list, tuple)):
            # The first pair was checked when the layer was built.
            self._check_input_shape(shapes_of(inputs))
            poses, activations = (
                ops.cast(each, self.compute_dtype) for each in inputs
            )
            means = ops.cast(activations, at_least_float32(activations.dtype))
            on_grid = len(activations.shape) == 4
            if on_grid:
                means = ops.mean(means, axis=(1, 2))
            factors = ops.cast(self._factors(means), activations.dtype)
            if on_grid:
                factors = ops.expand_dims(factors, (1, 2))
            return poses, activations * factors
        inputs = ops.cast(inputs, self.compute_dtype)  # inputs may be integers
        rank = len(inputs.shape)
        # In float32, because means are sums over many positions.
        dtype = at_least_float32(inputs.dtype)
        means = ops.cast(inputs, dtype)
        if rank != 4:
            means = safe_norm(means)
        if rank != 3:
            means = ops.mean(means, axis=(1, 2))
        factors = ops.cast(self._factors(means), inputs.dtype)
        axes = {3: (2,), 4: (1, 2), 5: (1, 2, 4)}[rank]
        return inputs * ops.expand_dims(factors, axes)

    def _factors(self, means):
        """The factor of each channel, `[b, c]`."""
        hidden = self.activation(
            _dense(means, self.squeeze_kernel, self.squeeze_bias)
        )
        return self.gate_activation(
            _dense(hidden, self.excite_kernel, self.excite_bias)
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._check_input_shape(input_shape)

    def _check_input_shape(self, input_shape):
        """The shape of the input, as a tuple."""
        if is_pair(input_shape):
            shapes = tuple(map(tuple, input_shape))
            if fits_pair(shapes) and len(shapes[1]) in (2, 4) and shapes[1][-1]:
                return shapes
        elif (
            len(input_shape) in (3, 4, 5)
            and input_shape[_channel_axis(len(input_shape))]
        ):
            return tuple(input_shape)
        raise ValueError(
            f"{type(self).__name__} takes feature maps (batch, height, width, "
            "channels), or capsules (batch, height, width, types, dim) or "
            "(batch, types, dim), or a pair of poses and activations, with a "
            "known number of channels or types. Received: "
            f"input_shape={tuple(input_shape)}"
        )

    def get_config(self) -> dict[str, Any]:
        config = {
            "ratio": self.ratio,
            "activation": keras.activations.serialize(self.activation),
            "gate_activation": keras.activations.serialize(
                self.gate_activation
            ),
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "bias_initializer": keras.initializers.serialize(
                self.bias_initializer
            ),
        }
        return {**super().get_config(), **config}


def _channel_axis(rank):
    """The axis of channels or capsule types."""
    return 3 if rank == 4 else rank - 2


def _dense(inputs, kernel, bias):
    kernel = ops.cast(kernel, inputs.dtype)
    return ops.matmul(inputs, kernel) + ops.cast(bias, inputs.dtype)
