"""Routing by the input capsule alone: a linear layer for each one decides."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_capsules.routing.base import Routing
from keras_capsules.routing.mixtures import least_activation
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import RoutingSpec
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.types import InitializerLike
from keras_capsules.types import RegularizerLike
from keras_capsules.types import Tensor
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_boolean


@keras.saving.register_keras_serializable(package="keras_capsules")
class SelfRouting(Routing):
    """Self-routing: each input capsule decides by its own pose where to go.

    There is no agreement and there are no iterations. Each input capsule has a
    linear layer of its own, which computes its shares of the output capsules
    from its pose, like the gates of a mixture of experts. Output poses are the
    means of the votes, weighted by the shares and the activations a_i of the
    input capsules. The activation of an output capsule is the part of the total
    activation that it received:

    ```
    c_ij = softmax over j of (u_i routing_kernel_i + routing_bias_i)_j
    a_j = sum_i c_ij a_i / sum_i a_i
    pose_j = sum_i c_ij a_i V_ij / sum_i c_ij a_i
    ```

    The activations of the output capsules are from 0 to 1 and sum to 1. In a
    layer of class capsules they are the probabilities of the classes. They do
    not depend on the poses of that layer, so its kernel gets no gradient unless
    a decoder uses the poses.

    Inactive input capsules, such as the padding of a convolution, count for
    nothing. If all of them are inactive, the output capsules have zeros as
    activations and poses. Where a denominator above is less than 1e-7 (6e-5 in
    float16), that number replaces it, so that values and gradients stay finite.

    Notation: Self-Routing Capsule Networks,
    [Hahn et al., 2019](https://papers.nips.cc/paper/8982-self-routing-capsule-networks),
    whose W^route is the `routing_kernel` and W^pose the layer's kernel. The
    `routing_bias` and the initial zeros, thus uniform routing at first, are
    from the authors' code. Poses are not squashed. The authors' networks
    normalize them, as `keras.layers.BatchNormalization` does.

    Args:
        use_routing_bias: Boolean, whether there is a `routing_bias`. Defaults
            to `True`.
        routing_kernel_initializer: Initializer of the `routing_kernel`,
            `[i, p * d, j]`. Defaults to `"zeros"`.
        routing_bias_initializer: Initializer of the `routing_bias`, `[j, i]`.
            Defaults to `"zeros"`.
        routing_kernel_regularizer: Optional regularizer of the
            `routing_kernel`. Defaults to `None`.

    Raises:
        ValueError: If an option is invalid.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import SelfRouting

    layer = CapsuleLayer(10, 16, routing=SelfRouting())
    poses = keras.random.normal((4, 32, 8))
    activations = keras.random.uniform((4, 32))
    poses, activations = layer((poses, activations))  # (4, 10, 16), (4, 10)
    ```
    """

    activation_from = "routing"
    averages = True

    def __init__(
        self,
        use_routing_bias: bool = True,
        routing_kernel_initializer: InitializerLike = "zeros",
        routing_bias_initializer: InitializerLike = "zeros",
        routing_kernel_regularizer: RegularizerLike = None,
    ):
        self.use_routing_bias = check_boolean(
            use_routing_bias, "use_routing_bias"
        )
        self.routing_kernel_initializer = initializers.get(
            routing_kernel_initializer, keras.initializers.Zeros()
        )
        self.routing_bias_initializer = initializers.get(
            routing_bias_initializer, keras.initializers.Zeros()
        )
        self.routing_kernel_regularizer = keras.regularizers.get(
            routing_kernel_regularizer
        )

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Any]:
        """Makes `routing_kernel` and `routing_bias`; see `Routing.build`."""
        size = math.prod(spec.input_pose_shape)
        weights = {}
        weights["routing_kernel"] = layer.add_weight(
            name="routing_kernel",
            shape=(spec.num_inputs, size, spec.num_outputs),
            initializer=self.routing_kernel_initializer,
            regularizer=self.routing_kernel_regularizer,
        )
        if self.use_routing_bias:
            weights["routing_bias"] = layer.add_weight(
                name="routing_bias",
                shape=(spec.num_outputs, spec.num_inputs),
                initializer=self.routing_bias_initializer,
            )
        return weights

    def route(
        self,
        sum_votes: Callable[[Tensor], Tensor],
        poses: Tensor,
        weights: dict[str, Tensor],
        activations: Tensor | None = None,
    ) -> Routed:
        """Routes votes; see `Routing.route`."""
        columns = ops.transpose(poses, (1, 0, 2))  # [i, b, g]
        logits = ops.matmul(columns, weights["routing_kernel"])  # [i, b, j]
        logits = ops.transpose(logits, (1, 2, 0))
        if self.use_routing_bias:
            logits = logits + weights["routing_bias"]
        shares = coupling = softmax_over_outputs(logits)
        given = poses if activations is None else activations
        least = least_activation(given.dtype)
        if activations is not None:
            shares = shares * ops.cast(activations, poses.dtype)[:, None]
        received = ops.sum(shares, axis=2)  # [b, j]
        # The sum of the a_i, because the c_ij sum to 1.
        total = ops.sum(received, axis=1, keepdims=True)
        sums = sum_votes(shares)

        def divided(values, by):
            # Gradients grow with the inverse of the denominator, which
            # therefore has a least value. Nothing at all is divided by 1:
            # otherwise a few layers of zeros would be too much for float16.
            return values / ops.where(by > 0, ops.maximum(by, least), 1.0)

        poses = divided(sums, received[:, :, None])
        return Routed(poses, divided(received, total), coupling)

    def get_config(self) -> dict[str, Any]:
        return {
            "use_routing_bias": self.use_routing_bias,
            "routing_kernel_initializer": keras.initializers.serialize(
                self.routing_kernel_initializer
            ),
            "routing_bias_initializer": keras.initializers.serialize(
                self.routing_bias_initializer
            ),
            "routing_kernel_regularizer": keras.regularizers.serialize(
                self.routing_kernel_regularizer
            ),
        }
