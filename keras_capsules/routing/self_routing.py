"""Routing by the child alone: a small network for each capsule decides."""

import math

import keras
from keras import ops

from keras_capsules.routing.base import Routing
from keras_capsules.routing.mixtures import least_activation
from keras_capsules.routing.types import Routed
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_boolean


@keras.saving.register_keras_serializable(package="keras_capsules")
class SelfRouting(Routing):
    """Self-routing: every input capsule decides by its own pose where to go.

    There is no agreement and there are no iterations. A linear layer of its
    own tells each input capsule from its pose how to share itself out among
    the parents, as the gates of a mixture of experts do. Poses are the means
    of the votes, weighted by the shares and the activations a_i of the input
    capsules, and activations what share of all activation a parent got:

    ```
    c_ij = softmax over j of (u_i routing_kernel_i + routing_bias_i)_j
    a_j = sum_i c_ij a_i / sum_i a_i
    pose_j = sum_i c_ij a_i V_ij / sum_i c_ij a_i
    ```

    The activations of the parents sum to 1: in a layer of class capsules they
    are the probabilities of the classes, which do not depend on the poses of
    that layer: without a decoder its kernel has no gradient. Input capsules
    that are not active at all, such as those that a convolution pads with,
    count for nothing. Where none is active, activations and poses of the
    parents are 0; where the sums above are below 1e-7 (6e-5 in float16) they
    are divided by that, so that values and gradients stay finite. Activations
    are from 0 to 1.

    Notation: Self-Routing Capsule Networks,
    [Hahn et al., 2019](https://papers.nips.cc/paper/8982-self-routing-capsule-networks),
    whose W^route is the `routing_kernel` and W^pose the layer's kernel. The
    `routing_bias` is from the authors' code, and so is that routing begins
    uniform. Poses are not squashed; the authors' networks normalize them, as
    `keras.layers.BatchNormalization` does.

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
        ValueError: If an argument is not of the kind described.

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
        use_routing_bias=True,
        routing_kernel_initializer="zeros",
        routing_bias_initializer="zeros",
        routing_kernel_regularizer=None,
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

    def build(self, layer, spec):
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

    def route(self, sum_votes, poses, weights, activations=None):
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
        # That of a_i, because the c_ij sum to 1.
        total = ops.sum(received, axis=1, keepdims=True)
        # Gradients grow with the inverses of these sums. So the sums have a
        # least value, below which activations and poses go to zero with them.
        sums = sum_votes(shares)
        return Routed(
            sums / ops.maximum(received, least)[:, :, None],
            received / ops.maximum(total, least),
            coupling,
        )

    def get_config(self):
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
