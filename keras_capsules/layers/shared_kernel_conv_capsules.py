"""Convolutional capsules that share one kernel among all input types."""

from typing import Any
from typing import Unpack

import keras
from keras import ops

from keras_capsules.activations import squash
from keras_capsules.engine.windows import convolve
from keras_capsules.layers.weighted import WeightedLayer
from keras_capsules.layers.windowed import WindowedLayer
from keras_capsules.layers.windowed import WindowOptions
from keras_capsules.routing import tracing
from keras_capsules.routing.votes import highest_of
from keras_capsules.types import Shape
from keras_capsules.types import Sizes
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class SharedKernelConvCapsules2D(WindowedLayer, WeightedLayer):
    """Routing between grids of capsules, with one kernel for all input types.

    Each input type is an image, whose channels are the numbers of its poses.
    One convolution, the same for all input types, turns it into an image of
    votes for every output type. So the kernel is no larger than the kernel of a
    single type. Dynamic routing follows, in which an input type divides itself
    among all output types at all positions:

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
    squashed as one vector: their joint length is the probability that the type
    is present. Shares and poses are then small on large grids, so this is a
    layer for the small grids of deep networks. Unlike in other layers, all
    votes are in memory at once: `types * num_capsules * capsule_dim` numbers
    for each position and image. The layer takes no mask: padding would have to
    be left out of the softmax and of the joint squash.

    Notation: the 3D convolution based routing of
    [Rajasegaran et al., 2019](https://arxiv.org/abs/1904.09546) (DeepCaps),
    whose intermediate votes are V, whose B_s and K_s are b and c, and whose
    softmax_3D is the softmax over j and x. (The convolution is a 3D convolution
    that steps from type to type.) The joint squash and the bias are from the
    authors' code. That code scrambles types, poses and positions when it
    lays them out for the convolution. This layer does not.

    Args:
        num_capsules: Positive integer, the output capsule types.
        capsule_dim: Positive integer, the length of an output pose vector.
        kernel_size: Positive integer or pair of them, the height and width of a
            window. Defaults to `3`.
        strides: Positive integer or pair of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"same"`.
        num_iterations: Positive integer, the number of weighted sums, as in
            `DynamicRouting`. Defaults to `3`.
        joint_squash: Boolean, whether all poses of a type are squashed as one;
            if not, each by itself. Defaults to `True`.
        **kwargs: Options of the weights: `use_bias`, `True` by default, a bias
            of shape `(num_capsules, capsule_dim)`; `kernel_initializer`,
            `"he_normal"` by default, of a kernel of shape `(height, width,
            input_dim, num_capsules * capsule_dim)`; `bias_initializer`, by
            default `keras.initializers.Constant(0.1)`; `kernel_regularizer`,
            `bias_regularizer`, `kernel_constraint` and `bias_constraint`. And
            arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Capsules, see below.
        return_coupling: Boolean, whether to return the coupling coefficients
            c_ijx as well. Defaults to `False`.

    Input shape:
        `(batch, height, width, types, dim)`; batch, height and width may be
        unknown.

    Output shape:
        `(batch, new_height, new_width, num_capsules, capsule_dim)`. With
        `return_coupling=True` a pair of these and the coupling coefficients
        `(batch, types, new_height, new_width, num_capsules)`, which sum to 1
        over the last three axes.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape, or is smaller than a window without padding.

    Example:

    ```python
    import keras
    from keras_capsules.layers import SharedKernelConvCapsules2D

    capsules = keras.random.normal((2, 4, 4, 32, 8))
    layer = SharedKernelConvCapsules2D(16, 8, strides=2)
    outputs = layer(capsules)  # (2, 2, 2, 16, 8)
    ```
    """

    rank = 2
    default_bias_initializer = keras.initializers.Constant(0.1)

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: int,
        kernel_size: Sizes = 3,
        strides: Sizes = 1,
        padding: str = "same",
        num_iterations: int = 3,
        joint_squash: bool = True,
        **kwargs: Unpack[WindowOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size, strides=strides, padding=padding, **kwargs
        )
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = check_integer(capsule_dim, "capsule_dim")
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.joint_squash = check_boolean(joint_squash, "joint_squash")

    def build(self, input_shape: Shape) -> None:
        self._check_input_shape(input_shape)
        types, input_dim = input_shape[3:]
        self.kernel = self.add_kernel(
            (
                *self.kernel_size,
                input_dim,
                self.num_capsules * self.capsule_dim,
            ),
            "he_normal",
        )
        self.bias = self.add_bias((self.num_capsules, self.capsule_dim))
        self.input_spec = keras.layers.InputSpec(
            ndim=5, axes={3: types, 4: input_dim}
        )

    def call(self, inputs: Tensor, return_coupling: bool = False) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)  # inputs may be integers
        self._check_input_shape(inputs.shape)
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
        iterations = list(self._route(votes, *sizes[:2]))
        if tracing.is_tracing():
            self._record(images, batch, [each for _, each in iterations])
        outputs, coupling = (
            ops.cast(each, inputs.dtype) for each in iterations[-1]
        )
        return (outputs, coupling) if return_coupling else outputs

    # Not a `Routing`: that routes every window by itself, but here all windows
    # of an image share one softmax, and one squash.

    def _route(self, votes, height, width):
        """Yields poses and coupling `[b, i, h, w, j]` after each iteration."""
        dtype = at_least_float32(votes.dtype)
        votes = ops.cast(votes, dtype)
        number = ops.cast(self.num_capsules * height * width, dtype)
        # In the first iteration, all shares are the same.
        outputs = self._squash(ops.sum(votes, axis=1) / number)
        yield outputs, ops.ones_like(votes[..., 0]) / number
        total = outputs
        for _ in range(1, self.num_iterations):
            logits = ops.sum(votes * total[:, None], axis=-1)
            coupling = _softmax(logits, axis=(2, 3, 4))  # [b, i, h, w, j]
            outputs = self._squash(ops.sum(coupling[..., None] * votes, axis=1))
            yield outputs, coupling
            total = total + outputs

    def _squash(self, sums):
        """From weighted sums of votes to poses, `[b, h, w, j, e]`."""
        if self.bias is not None:
            bias = ops.convert_to_tensor(self.bias)
            sums = sums + ops.cast(bias, sums.dtype)
        return squash(sums, axis=(1, 2, 4) if self.joint_squash else -1)

    def _record(self, images, batch, coupling):
        """Records a type as an input capsule, for all outputs of all places."""
        types = images.shape[0] // batch
        coupling = [
            ops.transpose(ops.reshape(each, (batch, types, -1)), (0, 2, 1))
            for each in coupling
        ]
        poses = ops.reshape(images, (batch, types, 1, -1))
        tracing.record(tracing.Trace(coupling, poses))

    def compute_output_spec(
        self, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if args or kwargs.get("return_coupling"):
            return keras.Operation.compute_output_spec(
                self, inputs, *args, **kwargs
            )
        return super().compute_output_spec(inputs, **kwargs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check_input_shape(input_shape)
        grid = self.grid_of(input_shape, self.rank)
        return (input_shape[0], *grid, self.num_capsules, self.capsule_dim)

    def _check_input_shape(self, input_shape):
        if len(input_shape) != 5 or not all(input_shape[3:]):
            raise ValueError(
                f"{type(self).__name__} takes capsules of shape (batch, "
                "height, width, types, dim) with known types and dim. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.grid_of(input_shape, self.rank)  # raises if no window fits

    def get_config(self) -> dict[str, Any]:
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "num_iterations": self.num_iterations,
            "joint_squash": self.joint_squash,
        }
        return {**super().get_config(), **config}


def _softmax(logits, axis):
    """Softmax over several axes at once, of which sizes may be unknown."""
    powers = ops.exp(logits - highest_of(logits, axis))
    return powers / ops.sum(powers, axis=axis, keepdims=True)
