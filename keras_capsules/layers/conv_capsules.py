"""The convolutional layers of capsules."""

import math
from typing import Any
from typing import Unpack

import keras
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.layers.coordinates import LocatedLayer
from keras_capsules.layers.on_grid import GridLayer
from keras_capsules.layers.poses import input_spec
from keras_capsules.layers.poses import shapes_of
from keras_capsules.layers.windowed import WindowOptions
from keras_capsules.routing import RoutingLike
from keras_capsules.types import CapsuleDim
from keras_capsules.types import Capsules
from keras_capsules.types import Sizes
from keras_capsules.types import Tensor


class ConvCapsules(GridLayer, LocatedLayer):
    """Convolutional capsules on a grid with `rank` axes.

    The base of `ConvCapsules1D`, `ConvCapsules2D` and `ConvCapsules3D`.

    Args:
        num_capsules: See `ConvCapsules2D`.
        capsule_dim: See `ConvCapsules2D`.
        kernel_size: See `ConvCapsules2D`.
        strides: See `ConvCapsules2D`.
        padding: See `ConvCapsules2D`.
        routing: See `ConvCapsules2D`.
        coordinate_addition: See `ConvCapsules2D`.
        **kwargs: See `ConvCapsules2D`.
    """

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: CapsuleDim,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        routing: RoutingLike = "dynamic",
        coordinate_addition: bool = False,
        **kwargs: Unpack[WindowOptions],
    ) -> None:
        super().__init__(
            num_capsules=num_capsules,
            capsule_dim=capsule_dim,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            routing=routing,
            coordinate_addition=coordinate_addition,
            **kwargs,
        )
        self._check_coordinates(self.rank)

    def build(self, input_shape: Any) -> None:
        poses = self._check_input_shape(input_shape)
        kernel_shape = (*self.kernel_size, poses[1 + self.rank])
        num_inputs = math.prod(kernel_shape)
        self._build_routed(kernel_shape, num_inputs, poses[-1], self.rank)
        # The sizes of the grid may change.
        self.input_spec = input_spec(
            self._split_shape(input_shape), 1 + self.rank
        )

    def call(
        self,
        inputs: Capsules,
        training: bool | None = None,
        return_coupling: bool = False,
        outputs: Tensor | None = None,
        mask: Any = None,
    ) -> Any:
        # The first input was checked when the layer was built.
        shape = self._check_input_shape(shapes_of(inputs))
        self._check_outputs(outputs, shape[0], self._grid(shape))
        poses, activations, input_mask = self._split(inputs, mask)
        batch, *size = ops.shape(poses)[: 1 + self.rank]
        windows = Windows(size, self.kernel_size, self.strides, self.padding)
        output_mask = self._mask_of_outputs(mask, windows.output_size)
        kernel = ops.convert_to_tensor(self.kernel)
        kernel = ops.reshape(kernel, (-1, *kernel.shape[1 + self.rank :]))
        num_inputs = kernel.shape[0]  # [i, d, j, e]
        poses = windows.unfold(poses)
        poses = ops.reshape(poses, (-1, num_inputs, *poses.shape[-2:]))
        if activations is not None:
            activations = windows.unfold(activations)
            activations = ops.reshape(activations, (-1, num_inputs))
        if input_mask is not None:
            input_mask = windows.unfold(ops.cast(input_mask, "int32"))
            input_mask = ops.reshape(input_mask, (-1, num_inputs))
            input_mask = ops.cast(input_mask, "bool")
        routed = self._route(
            poses,
            activations,
            kernel,
            rank=self.rank,
            outputs=outputs,
            windows=windows,
            mask=output_mask,
            training=bool(training),
            return_coupling=return_coupling,
        )
        axes = (batch, *windows.output_size)
        return self._outputs(routed, axes, return_coupling, input_mask)


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvCapsules1D(ConvCapsules):
    """Convolutional capsules along a signal or a sequence.

    As `ConvCapsules2D`, on a grid with one axis.

    The capsules that the mask of the output keeps are those of a text without
    its padding, so padding changes nothing in later layers that take masks.
    With `padding="same"` this holds for as many zeros behind the text as a
    multiple of the strides; other numbers move the windows. With `"valid"` it
    holds for any number, and a text shorter than a window has no capsules. It
    does not hold for coordinates, which run over the whole input. With
    `EMRouting` and `VariationalBayesRouting` it holds from `kernel_size - 1`
    zeros on: the windows over the end of the text then always compete for its
    last capsules.

    Args:
        num_capsules: See `ConvCapsules2D`, as for all arguments.
        capsule_dim: Positive integer or pair of them.
        kernel_size: Positive integer, the length of a window.
        strides: Positive integer. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        routing: A routing. Defaults to `"dynamic"`.
        coordinate_addition: Boolean, whether to add x, the position along the
            signal, to the votes. Defaults to `False`.
        **kwargs: Options of the weights and of `keras.layers.Layer`.

    Input shape:
        Poses `(batch, length, types, dim)`, or matrices `(batch, length, types,
        rows, dim)`; or a pair of poses and activations `(batch, length,
        types)`. Batch and length may be unknown. A mask `(batch, length)`
        excludes positions, such as the padding of texts.

    Output shape:
        The same as for `ConvCapsules2D`, with `new_length` as the grid.

    Example:

    ```python
    import keras
    from keras_capsules import ConvCapsules1D

    capsules = keras.random.normal((2, 100, 5, 8))
    outputs = ConvCapsules1D(3, 16, kernel_size=9, strides=4)(capsules)
    # (2, 23, 3, 16)
    ```
    """

    rank = 1


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvCapsules2D(ConvCapsules):
    """Convolutional capsules on a grid with height and width.

    The input capsules in each window vote for the output capsules at one
    position. As in a convolution, the matrix of a vote depends on the place of
    the input capsule in the window and on the types of both capsules, and is
    the same for all windows. Each window is routed as by `CapsuleLayer`. An
    input capsule lies in several windows. With `EMRouting` and
    `VariationalBayesRouting`, the output capsules of all these windows compete
    for it. With the other routings, output capsules compete in each window.

    Input capsules that are padding, or that a mask excludes, are inactive: they
    have no activation and vote for nothing. The output then has a mask of
    positions `(batch, new_height, new_width)`, for later layers: of those that
    there would be if the grid ended where the mask does. With
    `padding="valid"` they are the windows without an excluded position; with
    `"same"` they are the windows whose own position, each `strides`-th of the
    input, is not excluded. A position is excluded if all its types are.

    Notation: the ConvCaps layers of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), whose K
    is the `kernel_size` and whose B and C are the types of input and output
    capsules; and of
    [Tsai et al., 2020](https://arxiv.org/abs/2002.04764).

    Args:
        num_capsules: Positive integer, the types of output capsules at each
            position.
        capsule_dim: Positive integer, the length of an output pose vector; or a
            pair of them, the rows and columns of an output pose matrix. Input
            poses are then matrices with the same number of rows.
        kernel_size: Positive integer or pair of them, the height and width of a
            window in positions of the input.
        strides: Positive integer or pair of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        routing: A routing of `keras_capsules.routing`: its name, its class or
            an instance. Defaults to `"dynamic"`.
        coordinate_addition: Boolean, whether to add the position of the input
            capsule to its votes, see `CapsuleLayer`. Defaults to `False`.
        **kwargs: Options of the weights, see `CapsuleLayer`, and arguments of
            `keras.layers.Layer`, such as `name` and `dtype`. The
            `data_format` is `"channels_last"` and the `dilation_rate` 1.

    Call arguments:
        inputs: Capsules, see below.
        training: Boolean, handed to the routing.
        return_coupling: Boolean, whether to return the coupling coefficients
            as well. Defaults to `False`.
        outputs: Optional poses of output capsules, see `CapsuleLayer`.
        mask: Optional booleans, `False` for input capsules that do not count,
            of the shape of the first axes of capsules.

    Input shape:
        Poses `(batch, height, width, types, dim)`, or matrices `(batch,
        height, width, types, rows, dim)`; or a pair of poses and activations
        `(batch, height, width, types)`. Batch, height and width may be unknown.

    Output shape:
        Poses `(batch, new_height, new_width, num_capsules, capsule_dim)`, or
        matrices; or a pair of them and activations `(batch, new_height,
        new_width, num_capsules)`, depending on the routing: see
        `CapsuleLayer`. With `return_coupling=True` a pair of these and the
        coupling coefficients `(batch, new_height, new_width, input_capsules,
        num_capsules)`; the input capsules of a window are its places, row by
        row, times the types.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape, or is smaller than a window without padding.

    Example:

    ```python
    import keras
    from keras_capsules import ConvCapsules2D

    capsules = keras.random.normal((2, 7, 9, 5, 8))
    layer = ConvCapsules2D(3, 16, kernel_size=3, strides=2)
    outputs = layer(capsules)  # (2, 3, 4, 3, 16)
    ```
    """

    rank = 2


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvCapsules3D(ConvCapsules):
    """Convolutional capsules in a volume.

    As `ConvCapsules2D`, on a grid with three axes.

    Args:
        num_capsules: See `ConvCapsules2D`, as for all arguments.
        capsule_dim: Positive integer or pair of them.
        kernel_size: Positive integer or three of them, the depth, height and
            width of a window.
        strides: Positive integer or three of them. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        routing: A routing. Defaults to `"dynamic"`.
        coordinate_addition: Boolean, whether to add x, y and z, the positions
            along width, height and depth, to the votes. Defaults to `False`.
        **kwargs: Options of the weights and of `keras.layers.Layer`.

    Input shape:
        Poses `(batch, depth, height, width, types, dim)`, or matrices `(batch,
        depth, height, width, types, rows, dim)`; or a pair of poses and
        activations `(batch, depth, height, width, types)`. Batch, depth, height
        and width may be unknown.

    Output shape:
        The same as for `ConvCapsules2D`, with `new_depth, new_height,
        new_width` as the grid.

    Example:

    ```python
    import keras
    from keras_capsules import ConvCapsules3D

    capsules = keras.random.normal((2, 7, 6, 5, 2, 8))
    outputs = ConvCapsules3D(3, 16, kernel_size=3, strides=2)(capsules)
    # (2, 3, 2, 2, 3, 16)
    ```
    """

    rank = 3
