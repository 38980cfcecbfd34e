"""Routing as attention turned round: children choose among parents."""

import math

import keras
from keras import ops

from keras_capsules._dtypes import at_least_float32
from keras_capsules._validation import check_boolean
from keras_capsules._validation import check_integer
from keras_capsules._validation import check_number
from keras_capsules.routing._coupling import softmax_over_parents
from keras_capsules.routing.base import Routed
from keras_capsules.routing.base import Routing


@keras.saving.register_keras_serializable(package="keras_capsules")
class InvertedAttentionRouting(Routing):
    """Inverted dot-product attention: parents compete for the input capsules.

    As in attention, votes are weighted by how well they agree with what is
    asked for, here the parent itself, but the weights of an input capsule sum
    to 1 over the parents. The parents' poses are normalized, not squashed:

    ```
    q_ij = 1 / J in the first iteration, and in each further one
    q_ij = softmax over j of <V_ij, p_j>
    p_j = layer_norm(sum_i q_ij V_ij)
    ```

    where J is the number of parents. The layer normalization goes over all
    numbers of a pose, with a `gamma` and a `beta` of the shape `[p, e]` that
    all parents and all iterations share. A pose that is a single number is
    left as it is, for the normalization would leave nothing of it.

    Capsules have neither activation nor meaningful length: class scores are
    to be computed from the poses, as by `keras.layers.Dense(1)`.

    Given `parents`, there is one iteration, the attention to these parents,
    whatever `num_iterations` is. `keras_capsules.layers.CapsuleStack` uses
    that to route all layers of a network concurrently.

    Notation: procedure 1 of
    [Tsai et al., 2020](https://arxiv.org/abs/2002.04764), whose routing
    coefficients r_ij are q_ij, and whose agreements a_ij the inner products.
    Parents that are 0 at first, as the paper has it, give the uniform
    coupling. The authors' released code divides the agreements by the square
    root of the number of entries of a pose: `scale_agreement=True`.

    Args:
        num_iterations: Positive integer, the number of weighted sums. The
            first has uniform coupling: `1` means no routing at all. Defaults
            to `2`.
        scale_agreement: Boolean, whether to divide the inner products by the
            square root of p e. Defaults to `False`.
        epsilon: Float greater than 0, added to the variance of a pose.
            Defaults to `1e-5`.
        use_gamma: Boolean, whether the normalization has a `gamma`. Defaults
            to `True`.
        use_beta: Boolean, whether it has a `beta`. Defaults to `True`.

    Raises:
        ValueError: If an option is not of the kind described.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing.inverted_attention import (
        InvertedAttentionRouting,
    )

    routing = InvertedAttentionRouting(num_iterations=2)
    layer = CapsuleLayer(10, 16, routing=routing)
    capsules = layer(keras.random.normal((4, 32, 8)))  # (4, 10, 16)
    ```
    """

    activation_from = "nothing"
    has_bias = False
    averages = False

    def __init__(
        self,
        num_iterations=2,
        scale_agreement=False,
        epsilon=1e-5,
        use_gamma=True,
        use_beta=True,
    ):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.scale_agreement = check_boolean(scale_agreement, "scale_agreement")
        self.epsilon = check_number(epsilon, "epsilon", 0, open_minimum=True)
        self.use_gamma = check_boolean(use_gamma, "use_gamma")
        self.use_beta = check_boolean(use_beta, "use_beta")

    def build(
        self, layer, num_inputs, num_outputs, pose_shape, input_pose_shape
    ):
        """Makes the `gamma` and the `beta` in use; see `Routing.build`."""
        del num_inputs, num_outputs, input_pose_shape
        weights = {}
        if math.prod(pose_shape) == 1:
            return weights
        if self.use_gamma:
            weights["gamma"] = layer.add_weight(
                name="gamma", shape=pose_shape, initializer="ones"
            )
        if self.use_beta:
            weights["beta"] = layer.add_weight(
                name="beta", shape=pose_shape, initializer="zeros"
            )
        return weights

    def call(
        self,
        votes,
        activations=None,
        bias=None,
        weights=None,
        training=False,
        windows=None,
        parents=None,
    ):
        """Routes votes; see `Routing.call`.

        Capsules have no activation, so this routing has no use for
        `activations`; nor for `training` or `windows`, for the parents at
        different positions do not compete. It adds no `bias`.
        """
        del activations, bias, training, windows
        if parents is not None:
            return self._attend(votes, parents, weights)
        dtype = votes.poses.dtype
        share = 1.0 / votes.num_outputs
        poses = self._normalize(votes.sum() * share, weights)
        shape = (votes.num_outputs, ops.shape(poses)[1], votes.num_inputs)
        routed = Routed(poses, None, ops.full(shape, share, dtype))
        for _ in range(1, self.num_iterations):
            routed = self._attend(votes, routed.poses, weights)
        return routed

    def _attend(self, votes, parents, weights):
        """One iteration, from given parents."""
        parents = ops.cast(parents, votes.poses.dtype)
        if self.scale_agreement:
            size = votes.num_rows * votes.output_dim
            parents = parents * (1.0 / math.sqrt(size))
        logits = votes.agreement(parents)  # [j, b, i]
        coupling = softmax_over_parents(logits)
        poses = self._normalize(votes.mix(coupling), weights)
        return Routed(poses, None, coupling)

    def _normalize(self, poses, weights):
        """Layer normalization of each pose, all its numbers alike."""
        if poses.shape[2] * poses.shape[3] == 1:
            return poses
        dtype = poses.dtype
        poses = ops.cast(poses, at_least_float32(dtype))
        poses = poses - ops.mean(poses, axis=(2, 3), keepdims=True)
        variance = ops.mean(ops.square(poses), axis=(2, 3), keepdims=True)
        poses = poses * ops.rsqrt(variance + self.epsilon)
        weights = {
            name: ops.cast(ops.convert_to_tensor(weight), poses.dtype)
            for name, weight in (weights or {}).items()
        }
        poses = poses * weights.get("gamma", 1.0) + weights.get("beta", 0.0)
        return ops.cast(poses, dtype)

    def get_config(self):
        return {
            "num_iterations": self.num_iterations,
            "scale_agreement": self.scale_agreement,
            "epsilon": self.epsilon,
            "use_gamma": self.use_gamma,
            "use_beta": self.use_beta,
        }
