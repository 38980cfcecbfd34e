"""Inverted attention: input capsules choose among output capsules."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.routing.base import Routing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import RoutingSpec
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import full_coupling
from keras_capsules.routing.votes import highest_of
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.routing.votes import total
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class InvertedAttentionRouting(Routing):
    """Inverted dot-product attention: outputs compete for the input capsules.

    As in attention, votes are weighted by their agreement with a query, here
    the output capsule itself. But the weights of an input capsule sum to 1 over
    the output capsules. Output poses are normalized, not squashed:

    ```
    q_ij = 1 / J in the first iteration, and in each further one
    q_ij = softmax over j of <V_ij, p_j>
    p_j = layer_norm(sum_i q_ij V_ij)
    ```

    where J is the number of output capsules. The layer normalization goes over
    all numbers of a pose. Its `gamma` and `beta`, of shape `[p, e]`, are shared
    by all output capsules and all iterations. Poses of a single number are not
    normalized, because the normalization would make them zero.

    These capsules have no activation, and their length means nothing. Compute
    class scores from the poses, for example with `keras.layers.Dense(1)`.

    Given `outputs`, there is one iteration, the attention to these poses,
    whatever `num_iterations` is. `keras_capsules.layers.CapsuleStack` uses
    that to route all layers of a network concurrently.

    Notation: procedure 1 of
    [Tsai et al., 2020](https://arxiv.org/abs/2002.04764), whose routing
    coefficients r_ij are q_ij, and whose agreements a_ij the inner products.
    The paper starts from poses of 0, which give the uniform coupling. The
    authors' released code divides the agreements by the square root of the
    number of entries of a pose: `scale_agreement=True`.

    Args:
        num_iterations: Positive integer, the number of weighted sums. The
            first has uniform coupling: `1` means no routing at all. Defaults
            to `2`.
        scale_agreement: Boolean, whether to divide the inner products by the
            square root of p e. Defaults to `False`.
        epsilon: Float greater than 0, added to the variance of a pose.
            Defaults to `1e-5`.
        center: Boolean, whether the normalization adds a `beta`. Defaults to
            `True`.
        scale: Boolean, whether the normalization multiplies by a `gamma`.
            Defaults to `True`.

    Raises:
        ValueError: If an option is invalid.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import InvertedAttentionRouting

    routing = InvertedAttentionRouting(num_iterations=2)
    layer = CapsuleLayer(10, 16, routing=routing)
    capsules = layer(keras.random.normal((4, 32, 8)))  # (4, 10, 16)
    ```
    """

    activation_from = "nothing"

    def __init__(
        self,
        num_iterations: int = 2,
        scale_agreement: bool = False,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
    ):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.scale_agreement = check_boolean(scale_agreement, "scale_agreement")
        self.epsilon = check_number(epsilon, "epsilon", 0, open_minimum=True)
        self.center = check_boolean(center, "center")
        self.scale = check_boolean(scale, "scale")

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Any]:
        """Makes the `gamma` and the `beta` in use; see `Routing.build`."""
        if math.prod(spec.pose_shape) == 1:
            return {}
        return {
            name: layer.add_weight(
                name=name, shape=spec.pose_shape, initializer=initializer
            )
            for name, initializer, is_used in [
                ("gamma", "ones", self.scale),
                ("beta", "zeros", self.center),
            ]
            if is_used
        }

    def route(
        self,
        votes: Tensor,
        weights: dict[str, Tensor] | None = None,
        outputs: Tensor | None = None,
    ) -> Iterator[Routed]:
        """Routes votes; see `Routing.route`."""
        iterations = 1
        if outputs is None:
            share = 1.0 / votes.shape[1]
            sums = total(votes) * share
            outputs = self._normalize(sums, weights)
            yield Routed(outputs, None, full_coupling(votes, share))
            iterations = self.num_iterations - 1
        scale = 1 / math.sqrt(votes.shape[3]) if self.scale_agreement else 1.0
        for _ in range(iterations):
            coupling = softmax_over_outputs(agreement(votes, scale * outputs))
            sums = weighted_sum(coupling, votes)
            outputs = self._normalize(sums, weights)
            yield Routed(outputs, None, coupling)

    def _normalize(self, poses, weights):
        """Applies layer normalization to each pose."""
        if poses.shape[2] == 1:
            return poses
        # A product, because XLA would compute the gradient of a difference
        # again for each vote. A constant, because not every runtime makes
        # diagonals.
        size = poses.shape[2]
        centering = ops.convert_to_tensor(
            np.eye(size) - 1.0 / size, dtype=poses.dtype
        )
        poses = ops.matmul(poses, centering)
        # Squares of large poses would be infinite. The factor cancels.
        largest = highest_of(ops.abs(poses), axis=2)
        factor = 1.0 / ops.maximum(largest, 1.0)
        poses = poses * factor
        variance = ops.mean(ops.square(poses), axis=2, keepdims=True)
        scale = ops.rsqrt(variance + self.epsilon * ops.square(factor))
        # Zeros remain zeros. With the scale of several layers, their gradients
        # would be too large for float16.
        poses = poses * ops.where(variance > 0, scale, 0.0)
        weights = {
            name: ops.reshape(weight, (-1,))
            for name, weight in (weights or {}).items()
        }
        return poses * weights.get("gamma", 1.0) + weights.get("beta", 0.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_iterations": self.num_iterations,
            "scale_agreement": self.scale_agreement,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
        }
