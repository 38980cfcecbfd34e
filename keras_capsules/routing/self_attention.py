"""Routing in one pass: votes attend to the sum of all votes."""

import math

import keras

from keras_capsules.activations import exponential_squash
from keras_capsules.routing.base import Routing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.routing.votes import total
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.utils.validation import check_boolean


@keras.saving.register_keras_serializable(package="keras_capsules")
class SelfAttentionRouting(Routing):
    """Self-attention routing: how well a vote agrees with all the others.

    There are no iterations. The more a vote agrees with the votes of all
    input capsules for the same parent, the larger its share; a learned bias
    for each pair of capsules is added to the share:

    ```
    a_ij = <V_ij, sum over k of V_kj> / sqrt(d)
    c_ij = softmax over j of a_ij
    s_j = sum_i (c_ij + coupling_bias_ij) V_ij + bias_j
    v_j = exponential_squash(s_j)
    ```

    where d is the number of entries of a parent's pose. It takes about half
    to two thirds of the time of dynamic routing with three iterations, and
    its squash lets gradients of short poses through: it suits small networks.

    Logits are quadratic in the votes. Where they overflow, with votes of a
    length of about 1e18, the outputs are NaN. In float16 they are computed in
    float32.

    Notation: the self-attention of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491)
    (Efficient-CapsNet), whose predictions U-hat are the votes V, A the sums
    over k of inner products, C the coupling coefficients, and B the
    `coupling_bias`. The paper has no `bias`: use `use_bias=False` in the
    layer for its form. A is summed before it is computed, which is the same
    and needs no attention matrix.

    Args:
        use_coupling_bias: Boolean, whether to learn a bias, `[j, i]` and zero
            at first, that is added to the coupling coefficients. It is not
            part of the coupling that is returned. Defaults to `True`.

    Raises:
        ValueError: If an option is not of the kind described.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer

    layer = CapsuleLayer(10, 16, routing="self_attention", use_bias=False)
    capsules = layer(keras.random.normal((4, 16, 8)))  # (4, 10, 16)
    ```
    """

    def __init__(self, use_coupling_bias=True):
        self.use_coupling_bias = check_boolean(
            use_coupling_bias, "use_coupling_bias"
        )

    def build(self, layer, spec):
        """Makes the `coupling_bias`; see `Routing.build`."""
        if not self.use_coupling_bias:
            return {}
        shape = (spec.num_outputs, spec.num_inputs)
        bias = layer.add_weight(
            name="coupling_bias", shape=shape, initializer="zeros"
        )
        return {"coupling_bias": bias}

    def route(self, votes, bias=None, weights=None):
        """Routes votes; see `Routing.route`."""
        scale = 1.0 / math.sqrt(votes.shape[3])
        logits = agreement(votes, total(votes) * scale)
        coupling = softmax_over_outputs(logits)
        sums = weighted_sum(
            coupling + (weights or {}).get("coupling_bias", 0.0), votes
        )
        if bias is not None:
            sums = sums + bias
        return Routed(exponential_squash(sums), None, coupling)

    def get_config(self):
        return {"use_coupling_bias": self.use_coupling_bias}
