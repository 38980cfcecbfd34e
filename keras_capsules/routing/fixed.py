"""Routing with coupling coefficients that do not depend on the input."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_capsules import activations
from keras_capsules.routing.base import Routing
from keras_capsules.routing.tracing import is_tracing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import RoutingSpec
from keras_capsules.types import ActivationLike
from keras_capsules.types import InitializerLike
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32


@keras.saving.register_keras_serializable(package="keras_capsules")
class FixedRouting(Routing):
    """No routing: input capsules share themselves out in the same way always.

    The coupling coefficients are a weight of the layer that is not trained:

    ```
    s_j = sum_i c_ij V_ij + bias_j
    v_j = activation(s_j)
    ```

    Trained, they would be redundant, because they only scale the matrices that
    make the votes. At first they are equal, and the layer computes the same as
    with `DynamicRouting(num_iterations=1)`.
    `keras_capsules.pruning.freeze_routing` sets them to the mean coupling of a
    trained layer.

    There are no votes in memory. The poses of all input capsules are multiplied
    by one matrix, which is the kernel weighted with the coupling.

    Args:
        activation: Activation of the output poses, as in `PrimaryCapsules`:
            `"squash"`, as in `DynamicRouting`, `"exponential_squash"`, as in
            `SelfAttentionRouting`, or another one. Defaults to `"squash"`.
        coupling_initializer: Initializer of the weight `coupling`, `[j, i]`.
            Defaults to `None`, one over the number of output capsules.

    Raises:
        ValueError: If an option is invalid.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import FixedRouting

    layer = CapsuleLayer(10, 16, routing=FixedRouting())
    capsules = layer(keras.random.normal((4, 32, 8)))  # (4, 10, 16)
    layer.routing_weights["coupling"].shape  # (10, 32)
    ```
    """

    def __init__(
        self,
        activation: ActivationLike = "squash",
        coupling_initializer: InitializerLike = None,
    ):
        self.activation = activations.get(activation)
        self.coupling_initializer = keras.initializers.get(coupling_initializer)

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Any]:
        """Makes `coupling`, which is not trained; see `Routing.build`."""
        equal = keras.initializers.Constant(1.0 / spec.num_outputs)
        coupling = layer.add_weight(
            name="coupling",
            shape=(spec.num_outputs, spec.num_inputs),
            initializer=self.coupling_initializer or equal,
            trainable=False,
        )
        return {"coupling": coupling}

    def route(
        self,
        sum_votes: Callable[[Tensor], Tensor],
        poses: Tensor,
        weights: dict[str, Tensor],
        bias: Tensor | None = None,
    ) -> Routed:
        """Routes votes; see `Routing.route`."""
        shape = (ops.shape(poses)[0], *weights["coupling"].shape)
        coupling = ops.broadcast_to(weights["coupling"], shape)
        sums = sum_votes(coupling)
        poses = self.activation(sums if bias is None else sums + bias)
        return Routed(poses, None, coupling)

    def __call__(
        self,
        poses: Tensor,
        kernel: Tensor,
        activations: Tensor | None = None,
        bias: Tensor | None = None,
        weights: Mapping[str, Any] | None = None,
        windows: Any = None,
        outputs: Tensor | None = None,
        num_inputs: Tensor | None = None,
        mask: Tensor | None = None,
        training: bool = False,
        return_coupling: bool = True,
    ) -> Routed:
        """Sums the votes without making them; see `Routing.__call__`."""
        if outputs is not None or is_tracing():
            # Earlier outputs are refused there, and traces recorded.
            return super().__call__(
                poses, kernel, None, bias, weights, outputs=outputs
            )
        dtype = at_least_float32(poses.dtype)
        poses, kernel = ops.cast(poses, dtype), ops.cast(kernel, dtype)
        coupling = ops.cast((weights or {})["coupling"], dtype)
        routed = self.route(
            # Blocks of examples would only add loops.
            lambda _: _sum_votes(coupling, poses, kernel),
            poses,
            {"coupling": coupling},
            None if bias is None else ops.cast(bias, dtype),
        )
        return routed if return_coupling else routed._replace(coupling=None)

    def get_config(self) -> dict[str, Any]:
        return {
            "activation": activations.serialize(self.activation),
            "coupling_initializer": keras.initializers.serialize(
                self.coupling_initializer
            ),
        }


def _sum_votes(coupling, poses, kernel):
    """Sums with the same weights `[j, i]` for all examples, `[b, j, f]`."""
    _, inputs, rows, dim = poses.shape
    kernels, _, outputs, out_dim = kernel.shape
    if inputs != kernels:
        kernel = ops.tile(kernel, (inputs // kernels, 1, 1, 1))
    kernel = kernel * ops.transpose(coupling)[:, None, :, None]
    kernel = ops.reshape(kernel, (inputs * dim, outputs * out_dim))
    poses = ops.transpose(poses, (0, 2, 1, 3))  # [b, p, i, d]
    sums = ops.matmul(ops.reshape(poses, (-1, inputs * dim)), kernel)
    sums = ops.reshape(sums, (-1, rows, outputs, out_dim))
    sums = ops.transpose(sums, (0, 2, 1, 3))
    return ops.reshape(sums, (-1, outputs, rows * out_dim))
