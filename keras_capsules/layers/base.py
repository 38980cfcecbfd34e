"""The base of layers that route votes.

Axes of shapes: b batch, i input capsule, j output capsule, p pose row, d input
dimension, e output dimension, k kernel: i, or a divisor of it if input capsules
share matrices. A vector is a matrix of one row.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules import routing as routings
from keras_capsules.activations import safe_norm
from keras_capsules.layers.poses import broadcast_mask
from keras_capsules.layers.poses import check_capsule_dim
from keras_capsules.layers.poses import fits
from keras_capsules.layers.poses import split_shape
from keras_capsules.layers.weighted import WeightedLayer
from keras_capsules.types import CapsuleDim
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_integer


class RoutedLayer(WeightedLayer):
    """A layer in which input capsules vote for output capsules.

    A subclass makes its weights in `build` (`_build_routed`). In `call` it
    brings its input to poses `[b, i, p, d]` (`_split`), routes them (`_route`)
    and shapes the result (`_outputs`).

    Args:
        num_capsules: See `CapsuleLayer`.
        capsule_dim: See `CapsuleLayer`.
        routing: See `CapsuleLayer`.
        use_bias: See `CapsuleLayer`.
        **kwargs: See `WeightedLayer`.
    """

    default_bias_initializer = keras.initializers.Constant(0.1)

    def __init__(
        self,
        *,
        num_capsules: int,
        capsule_dim: CapsuleDim,
        routing: routings.RoutingLike = "dynamic",
        use_bias: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if "num_iterations" in kwargs:
            number = kwargs["num_iterations"]
            raise ValueError(
                "The number of iterations is an option of the routing. "
                f"Expected routing=DynamicRouting(num_iterations={number!r}), "
                "or another routing of keras_capsules.routing. Received: "
                f"num_iterations={number!r}"
            )
        routing = routings.get(routing)
        if use_bias and not routing.takes("bias"):
            raise ValueError(
                "This routing adds no bias. Expected use_bias=False or None. "
                f"Received: use_bias={use_bias!r}, routing={routing!r}"
            )
        if use_bias is None:
            use_bias = routing.takes("bias")
        super().__init__(use_bias=use_bias, **kwargs)
        self.num_capsules = check_integer(num_capsules, "num_capsules")
        self.capsule_dim = check_capsule_dim(capsule_dim)
        self._is_matrix = isinstance(self.capsule_dim, tuple)
        self._pose_shape = (
            self.capsule_dim if self._is_matrix else (1, self.capsule_dim)
        )
        self.routing = routing
        self.supports_masking = True

    def _build_routed(
        self,
        kernel_shape,
        num_inputs,
        input_dim,
        pose_dim=None,
        num_summed=1.0,
    ):
        """Makes kernel and bias, and the weights of the routing.

        Args:
            kernel_shape: The axes before `[d, j, e]` in the kernel's shape.
            num_inputs: The number of input capsules of an output capsule, or
                `None` if it is unknown.
            input_dim: The kernel's d.
            pose_dim: The d of the poses that are routed, if it is another.
            num_summed: The number of input poses that make one of them.

        Returns:
            The `RoutingSpec` that the routing was built with.
        """
        rows, out_dim = self._pose_shape
        if self.routing.averages:
            stddev = 1 / math.sqrt(input_dim)
        else:
            # Longer votes than input capsules, in layers of many outputs and
            # few inputs, would let the first iteration decide by chance.
            gain = min(self.num_capsules / math.sqrt(num_inputs or 1), 1.0)
            stddev = gain / math.sqrt(out_dim)
        stddev /= math.sqrt(num_summed)
        self.kernel = self.add_kernel(
            (*kernel_shape, input_dim, self.num_capsules, out_dim),
            initializers.truncated_normal(stddev),
            autocast=False,  # votes are made in at least float32
        )
        self.bias = self.add_bias((self.num_capsules, *self._output_pose))
        spec = routings.RoutingSpec(
            num_inputs,
            self.num_capsules,
            self._pose_shape,
            (rows, pose_dim or input_dim),
        )
        try:
            self.routing_weights = self.routing.build(self, spec)
        except (TypeError, ValueError) as error:
            if num_inputs is not None:
                raise
            raise ValueError(
                "This routing has weights for each input capsule. Expected a "
                "known number of input capsules. Received: "
                f"routing={self.routing!r}, input capsules of unknown number"
            ) from error
        return spec

    def _routes_any_number(self, spec):
        """Whether the routing has no weights for each input capsule."""
        try:
            # On a layer that is thrown away.
            self.routing.build(
                keras.layers.Layer(), spec._replace(num_inputs=None)
            )
        except (TypeError, ValueError):
            return False
        return True

    @property
    def _output_pose(self):
        """The shape of an output pose, as the layer returns it."""
        return self._pose_shape if self._is_matrix else self._pose_shape[1:]

    @property
    def _num_pose_axes(self):
        return len(self._output_pose)

    @property
    def _returns_pair(self):
        return self.routing.activation_from == "routing"

    # Inputs: vectors or matrices, with or without activations.

    def _split_shape(self, input_shape):
        """The shapes of poses and, or `None`, of activations."""
        return split_shape(input_shape, self.capsule_dim, type(self).__name__)

    def _split(self, inputs, mask):
        """Poses `[..., p, d]`; activations and mask, each `[...]` or `None`."""
        activations = None
        if isinstance(inputs, (list, tuple)):
            inputs, activations = inputs
            activations = ops.cast(activations, self.compute_dtype)
        poses = ops.cast(inputs, self.compute_dtype)  # inputs may be integers
        if activations is None and self._returns_pair:
            # Matrices have no length that could serve as activation: all are
            # fully active, except padding.
            activations = (
                ops.ones(ops.shape(poses)[:-2], dtype=poses.dtype)
                if self._is_matrix
                else safe_norm(poses)
            )
        if not self._is_matrix:
            poses = ops.expand_dims(poses, -2)
        poses = self._located(poses)
        mask = broadcast_mask(mask, ops.shape(poses)[:-2])
        if mask is not None:
            # Votes of zero add nothing to sums. Where a routing divides by
            # the activations, an activation of zero counts for nothing.
            poses = ops.where(ops.expand_dims(mask, (-2, -1)), poses, 0.0)
            if activations is not None:
                activations = ops.where(mask, activations, 0.0)
        return poses, activations, mask

    def _located(self, poses):
        """Poses with their places, for subclasses that add them."""
        return poses

    def _check_outputs(self, outputs, batch, grid=()):
        """Raises if there are outputs, but not as the layer returns them."""
        if outputs is None:
            return
        expected = (batch, *grid, self.num_capsules, *self._output_pose)
        shape = tuple(np.shape(outputs))
        if not fits(shape, expected):
            raise ValueError(
                "Expected outputs as the layer returns them, poses of shape "
                f"{expected}. Received: outputs.shape={shape}"
            )

    def _route(self, poses, activations, kernel, outputs=None, **options):
        """Routes `[b, i, p, d]`, `[b, i]` with a kernel `[k, d, j, e]`."""
        size = math.prod(self._pose_shape)
        bias = None
        if self.bias is not None:
            bias = ops.reshape(self.bias, (self.num_capsules, size))
        if outputs is not None:
            outputs = ops.cast(outputs, self.compute_dtype)
            outputs = ops.reshape(outputs, (-1, self.num_capsules, size))
        return self.routing(
            poses,
            kernel,
            activations=activations,
            bias=bias,
            weights=self.routing_weights,
            outputs=outputs,
            **options,
        )

    def _outputs(self, routed, axes, return_coupling, mask=None):
        """The results of the layer: poses, activations, coupling.

        Args:
            routed: The `Routed` of the routing.
            axes: Sizes of the axes before the capsules: of the batch and, if
                there is one, of the grid.
            return_coupling: Whether to return the coupling as well.
            mask: `[b, i]`, or `None`.
        """
        dtype = self.compute_dtype
        shape = (*axes, self.num_capsules)
        outputs = ops.reshape(
            ops.cast(routed.poses, dtype), (*shape, *self._output_pose)
        )
        if self._returns_pair:
            activations = ops.cast(routed.activations, dtype)
            outputs = outputs, ops.reshape(activations, shape)
        if not return_coupling:
            return outputs
        if routed.coupling is None:
            raise ValueError(
                "This routing has no coupling coefficients to return. "
                f"Received: return_coupling=True, routing={self.routing!r}"
            )
        coupling = ops.transpose(routed.coupling, (0, 2, 1))  # [b, i, j]
        coupling = ops.cast(coupling, dtype)
        if mask is not None:
            coupling = ops.where(mask[..., None], coupling, 0.0)
        return outputs, ops.reshape(coupling, (*axes, *ops.shape(coupling)[1:]))

    def _output_shape(self, batch, grid=()):
        poses = (batch, *grid, self.num_capsules, *self._output_pose)
        if not self._returns_pair:
            return poses
        return poses, (batch, *grid, self.num_capsules)

    def compute_output_spec(
        self, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        has_outputs = kwargs.get("outputs") is not None
        if args or has_outputs or kwargs.get("return_coupling"):
            # Traced, so that it is also right for subclasses with another
            # `call`.
            return keras.Operation.compute_output_spec(
                self, inputs, *args, **kwargs
            )
        return super().compute_output_spec(inputs, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Output capsules have no mask."""

    def get_config(self) -> dict[str, Any]:
        config = {
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
        }
        return {**super().get_config(), **config}
