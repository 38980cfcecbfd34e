"""The fully connected layer of capsules."""

import math
from typing import Any
from typing import Unpack

import keras
from keras import ops

from keras_capsules.layers.coordinates import LocatedLayer
from keras_capsules.layers.poses import input_spec
from keras_capsules.layers.poses import shapes_of
from keras_capsules.layers.weighted import WeightOptions
from keras_capsules.routing import RoutingLike
from keras_capsules.types import CapsuleDim
from keras_capsules.types import Capsules
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_boolean


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleLayer(LocatedLayer):
    """Fully connected capsules: every input capsule votes for every output.

    A vote is the pose of an input capsule times a matrix. Each pair of an input
    and an output capsule has its own matrix. `routing` decides how much of
    each vote goes into an output capsule. Votes are made for a few examples at
    a time: see `keras_capsules.engine`.

    Capsules are vectors, whose length is the probability that their entity is
    present, or pairs of poses and activations. Poses are vectors or, if
    `capsule_dim` is a pair, matrices. The layer takes either kind with any
    routing, and returns the kind that its routing makes:

    - `DynamicRouting` and `SelfAttentionRouting` make vectors, and ignore the
      activations of input capsules.
    - `EMRouting`, `VariationalBayesRouting` and `SelfRouting` make pairs. If
      the input capsules are vectors, their lengths are the activations.
    - `InvertedAttentionRouting` makes poses without activations.

    Input capsules that a mask excludes, such as the padding of a sequence, vote
    for nothing: the output is the same as without them. The output has no mask.

    Notation: `kernel` holds the matrices W_ij, transposed, and the output
    capsules are the v_j of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). The paper has no
    `bias`. The authors' code adds one inside the routing loop, which starts at
    0.1.

    Args:
        num_capsules: Positive integer, the number of output capsules.
        capsule_dim: Positive integer, the length of an output pose vector; or a
            pair of them, the rows and columns of an output pose matrix. Input
            poses are then matrices with the same number of rows.
        routing: A routing of `keras_capsules.routing`: its name, its class or
            an instance. Defaults to `"dynamic"`.
        share_over_positions: Boolean, whether input capsules of one type have
            the same matrices at all positions. The types are then the last
            axis of capsules, as in a grid `(batch, height, width, types,
            dim)`. A sequence `(batch, length, dim)` has one type. The number of
            positions may be unknown and vary, unless the routing has weights
            for each input capsule: those are not shared. Defaults to `False`.
        coordinate_addition: Boolean, whether to add the position of the input
            capsule to its votes, for input on a grid with one to three axes.
            Coordinates run from 0 to 1: x along the last axis of the grid, y
            along the one before, z along the one before that. They are added
            to the first numbers of a vector, or of the last column of a
            matrix. Defaults to `False`.
        **kwargs: Options of the weights: `use_bias`, `None` by default, which
            adds a bias if the routing takes one; `kernel_initializer`, by
            default a truncated normal with which the sum of all votes, equally
            shared, is as long as an input capsule; `bias_initializer`, by
            default `keras.initializers.Constant(0.1)`; `kernel_regularizer`,
            `bias_regularizer`, `kernel_constraint` and `bias_constraint`. And
            arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Capsules, see below.
        training: Boolean, whether the layer is called in training. In a graph
            whose batch size is unknown, only `True` saves memory: the votes of
            all examples are made at once otherwise.
        return_coupling: Boolean, whether to return the coupling coefficients
            c_ij as well. Defaults to `False`.
        outputs: Optional poses of output capsules, as the layer returned them
            earlier, to go on from for one iteration. The routing must take
            them, as `InvertedAttentionRouting` does.
        mask: Optional booleans, `False` for input capsules that do not count,
            of the shape of the first axes of capsules, such as `(batch,
            length)`. Layers such as `keras.layers.Embedding` attach it to
            their output.

    Input shape:
        Poses `(batch, ..., dim)` of rank 3 or more, such as the grid that
        `PrimaryCapsules` returns, or matrices `(batch, ..., rows, dim)`; or a
        pair of poses and activations `(batch, ...)`. All axes between the batch
        and the pose are flattened to one axis of input capsules. The batch size
        may be unknown, and with `share_over_positions=True` all sizes but those
        of the types and the pose.

    Output shape:
        Poses `(batch, num_capsules, capsule_dim)`, or `(batch, num_capsules,
        rows, columns)`; or a pair of them and activations
        `(batch, num_capsules)`, depending on the routing. With
        `return_coupling=True` a pair of these and the coupling coefficients
        `(batch, input_capsules, num_capsules)`.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            have this shape.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer

    capsules = keras.random.normal((2, 6, 6, 32, 8))
    layer = CapsuleLayer(10, 16, routing="dynamic")
    digits, coupling = layer(capsules, return_coupling=True)
    # (2, 10, 16) and (2, 1152, 10); coupling sums to 1 over the last axis

    words = keras.Input((None,), dtype="int32")  # 0 is padding
    states = keras.layers.Embedding(1000, 8, mask_zero=True)(words)
    layer = CapsuleLayer(5, 16, share_over_positions=True)
    topics = layer(keras.layers.GRU(8, return_sequences=True)(states))
    ```
    """

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: CapsuleDim,
        routing: RoutingLike = "dynamic",
        share_over_positions: bool = False,
        coordinate_addition: bool = False,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(
            num_capsules=num_capsules,
            capsule_dim=capsule_dim,
            routing=routing,
            coordinate_addition=coordinate_addition,
            **kwargs,
        )
        self.share_over_positions = check_boolean(
            share_over_positions, "share_over_positions"
        )

    def build(self, input_shape: Any) -> None:
        capsules, pose = self._check_input_shape(input_shape)
        num_inputs = None if None in capsules else math.prod(capsules)
        num_kernels = num_inputs
        if self.share_over_positions:
            num_kernels = capsules[-1] if len(capsules) > 1 else 1
        spec = self._build_routed(
            (num_kernels,), num_inputs, pose[-1], rank=len(capsules) - 1
        )
        first_fixed = 1
        if self.share_over_positions and self._routes_any_number(spec):
            # The number of positions may change.
            first_fixed = max(2, len(capsules))
        self.input_spec = input_spec(
            self._split_shape(input_shape), first_fixed
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
        capsules, _ = self._check_input_shape(shapes_of(inputs))
        poses, activations, mask = self._split(inputs, mask)
        self._check_outputs(outputs, poses.shape[0])
        num_inputs = math.prod(ops.shape(poses)[1:-2])
        poses = ops.reshape(poses, (-1, num_inputs, *poses.shape[-2:]))
        if activations is not None:
            activations = ops.reshape(activations, (-1, num_inputs))
        count = some = None
        if mask is not None:
            mask = ops.reshape(mask, (-1, num_inputs))
            some = ops.any(mask, axis=1)
            count = ops.cast(mask, at_least_float32(self.compute_dtype))
            count = ops.sum(count, axis=1, keepdims=True)
        routed = self._route(
            poses,
            activations,
            ops.convert_to_tensor(self.kernel),
            rank=len(capsules) - 1,
            outputs=outputs,
            num_inputs=count,
            mask=some,
            training=bool(training),
            return_coupling=return_coupling,
        )
        return self._outputs(routed, (-1,), return_coupling, mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        self._check_input_shape(input_shape)
        poses, _ = self._split_shape(input_shape)
        return self._output_shape(poses[0])

    def _check_input_shape(self, input_shape):
        """The sizes of the axes of capsules, and of the axes of a pose."""
        poses, _ = self._split_shape(input_shape)
        axes = self._num_pose_axes
        capsules, pose = poses[1:-axes], poses[-axes:]
        # Sizes that the kernel's shape depends on.
        fixed = (*capsules, *pose)
        if self.share_over_positions:
            fixed = (*capsules[1:][-1:], *pose)
        if len(poses) < 2 + axes or not all(fixed):
            last = "rows, dim" if self._is_matrix else "capsule_dim"
            raise ValueError(
                f"{type(self).__name__} takes capsules of shape (batch, ..., "
                f"{last}), of rank {2 + axes} or more, in which only the batch "
                "size may be unknown, because every input capsule has its own "
                "weights. With share_over_positions=True the number of "
                "positions may be unknown as well. Received: "
                f"input_shape={poses}"
            )
        self._check_coordinates(len(capsules) - 1)
        return capsules, pose

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "share_over_positions": self.share_over_positions,
        }
