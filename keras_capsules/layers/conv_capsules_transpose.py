"""The transposed convolutional layer of capsules."""

import functools
import math
from typing import Any
from typing import Unpack

import keras
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.engine.windows import dilate
from keras_capsules.layers.on_grid import GridLayer
from keras_capsules.layers.on_grid import any_in_windows
from keras_capsules.layers.poses import input_spec
from keras_capsules.layers.poses import shapes_of
from keras_capsules.layers.windowed import WindowOptions
from keras_capsules.routing import RoutingLike
from keras_capsules.types import CapsuleDim
from keras_capsules.types import Capsules
from keras_capsules.types import Sizes
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean


@keras.saving.register_keras_serializable(package="keras_capsules")
class ConvCapsules2DTranspose(GridLayer):
    """Transposed convolutional capsules, which make a grid larger.

    A transposed convolution of the poses of each input type makes its votes at
    each position of the output grid. There the input types are routed to the
    output types, as by `CapsuleLayer`. Positions do not compete:

    ```
    V_ijx = sum over positions y of u_iy W_j[x - strides * y]
    v_jx  = routing of V_ijx over the input types i
    ```

    If capsules have activations, or the routing needs them, the activation of
    an input type at an output position is the largest activation of the
    capsules that contribute to its vote. Input capsules that a mask excludes
    contribute nothing. The output then has a mask of the positions that there
    would be if the grid ended where the mask does.

    Notation: the deconvolutional capsules of
    [LaLonde and Bagci, 2018](https://arxiv.org/abs/1804.04241) (SegCaps), whose
    M are the matrices W, shared by all input types. Their layer has
    `kernel_size=4`, `strides=2`, `padding="same"` and dynamic routing.

    Args:
        num_capsules: Positive integer, the types of output capsules at each
            position.
        capsule_dim: Positive integer, the length of an output pose vector; or a
            pair of them, the rows and columns of an output pose matrix. Input
            poses are then matrices with the same number of rows.
        kernel_size: Positive integer or pair of them, the height and width of
            the output window of an input capsule.
        strides: Positive integer or pair of them, by which the grid grows.
            Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        routing: A routing of `keras_capsules.routing`: its name, its class or
            an instance. Defaults to `"dynamic"`.
        share_over_types: Boolean, whether all input types have the same
            kernel. Defaults to `True`.
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
        The same as for `ConvCapsules2D`.

    Output shape:
        Poses `(batch, new_height, new_width, num_capsules, capsule_dim)`, or
        matrices, or a pair, depending on the routing. With `padding="same"` the
        new height is the height times the stride; with `"valid"` it is larger
        by `max(kernel_size - strides, 0)`. With `return_coupling=True` a
        pair of these and the coupling coefficients `(batch, new_height,
        new_width, types, num_capsules)`.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape.

    Example:

    ```python
    import keras
    from keras_capsules import ConvCapsules2DTranspose

    capsules = keras.random.normal((2, 7, 9, 5, 8))
    layer = ConvCapsules2DTranspose(3, 16, 4, strides=2, padding="same")
    outputs = layer(capsules)  # (2, 14, 18, 3, 16)
    ```
    """

    rank = 2

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: CapsuleDim,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        routing: RoutingLike = "dynamic",
        share_over_types: bool = True,
        **kwargs: Unpack[WindowOptions],
    ) -> None:
        super().__init__(
            num_capsules=num_capsules,
            capsule_dim=capsule_dim,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            routing=routing,
            **kwargs,
        )
        self.share_over_types = check_boolean(
            share_over_types, "share_over_types"
        )

    def build(self, input_shape: Any) -> None:
        poses = self._check_input_shape(input_shape)
        types, input_dim = poses[3], poses[-1]
        num_places = math.prod(self.kernel_size)
        self._build_routed(
            (*self.kernel_size, 1 if self.share_over_types else types),
            types,
            input_dim,
            pose_dim=num_places * input_dim,
            # The number of positions that vote for one output position.
            num_summed=max(1.0, num_places / math.prod(self.strides)),
        )
        self.input_spec = input_spec(self._split_shape(input_shape), 3)

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
        poses, activations, _ = self._split(inputs, mask)
        batch, *size = ops.shape(poses)[:3]
        grid = self._grid((batch, *size))
        output_mask = self._mask_of_outputs(mask, grid)
        types, rows, dim = poses.shape[3:]
        num_places = math.prod(self.kernel_size)
        # The poses of a window are one long pose, because votes are added up.
        poses = self._unfold(poses)  # [b P, k, types, p, d]
        poses = ops.transpose(poses, (0, 2, 3, 1, 4))
        poses = ops.reshape(poses, (-1, types, rows, num_places * dim))
        if activations is not None:
            activations = self._unfold(activations)
            # Not `max`, which does not take an empty batch.
            activations = functools.reduce(
                ops.maximum, [activations[:, n] for n in range(num_places)]
            )
        # The output window of an input capsule is the input window of an output
        # capsule, seen from the other end.
        kernel = ops.flip(ops.convert_to_tensor(self.kernel), 0)
        kernel = ops.flip(kernel, 1)
        kernel = ops.reshape(kernel, (num_places, *kernel.shape[2:]))
        kernel = ops.transpose(kernel, (1, 0, 2, 3, 4))  # [types, k, d, j, e]
        kernel = ops.reshape(
            kernel, (kernel.shape[0], num_places * dim, *kernel.shape[3:])
        )
        routed = self._route(
            poses,
            activations,
            kernel,
            outputs=outputs,
            mask=output_mask,
            training=bool(training),
            return_coupling=return_coupling,
        )
        return self._outputs(routed, (batch, *grid), return_coupling)

    def _unfold(self, values):
        """The values that contribute to each output, `[b P, k, ...]`."""
        rest = values.shape[3:]
        sizes = ops.shape(values)[1:3]
        values = ops.reshape(values, (-1, *sizes, math.prod(rest)))
        values = dilate(values, self.strides)
        margins = []
        for window, excess in zip(self.kernel_size, self._excess, strict=True):
            cropped = 0 if self.padding == "valid" else excess // 2
            end = excess if self.padding == "valid" else cropped
            margins.append((window - 1 - cropped, end))
        values = ops.pad(values, [(0, 0), *margins, (0, 0)])
        size = ops.shape(values)[1:3]
        values = Windows(size, self.kernel_size, (1, 1), "valid").unfold(values)
        return ops.reshape(values, (*ops.shape(values)[:2], *rest))

    @property
    def _excess(self):
        """By how much output windows are larger than the strides."""
        return [
            max(window - stride, 0)
            for window, stride in zip(
                self.kernel_size, self.strides, strict=True
            )
        ]

    def _grid(self, shape):
        return [
            None
            if length is None
            else length * stride + (excess if self.padding == "valid" else 0)
            for length, stride, excess in zip(
                shape[1:3], self.strides, self._excess, strict=True
            )
        ]

    def _output_mask(self, mask):
        marked = ops.cast(mask, "float32")
        axes = len(mask.shape) - 1
        for axis, stride in enumerate(self.strides[:axes], start=1):
            marked = ops.repeat(marked, stride, axis)
        if self.padding == "same":
            return marked > 0.5
        # Output windows reach further than the strides.
        excess = self._excess[:axes]
        marked = ops.pad(marked, [(0, 0), *((each, each) for each in excess)])
        return any_in_windows(marked, [1 + each for each in excess], [1] * axes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "share_over_types": self.share_over_types,
        }
