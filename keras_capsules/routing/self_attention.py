"""Routing in one pass: votes attend to the sum of all votes."""

import math

import keras
from keras import ops

from keras_capsules._validation import check_boolean
from keras_capsules.activations import exponential_squash
from keras_capsules.routing._coupling import add_bias_and_squash
from keras_capsules.routing._coupling import softmax_over_parents
from keras_capsules.routing._mixture import in_full_precision
from keras_capsules.routing.base import Routed
from keras_capsules.routing.base import Routing
from keras_capsules.routing.base import refuse_parents


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

    def build(
        self, layer, num_inputs, num_outputs, pose_shape, input_pose_shape
    ):
        """Makes the `coupling_bias`; see `Routing.build`."""
        del pose_shape, input_pose_shape
        if not self.use_coupling_bias:
            return {}
        shape = (num_outputs, num_inputs)
        bias = layer.add_weight(
            name="coupling_bias", shape=shape, initializer="zeros"
        )
        return {"coupling_bias": bias}

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

        A vector capsule's length is its activation, so this routing has no
        use for `activations`. It has none for `training` and `windows` either,
        and cannot go on from `parents`.
        """
        del activations, training, windows
        refuse_parents(self, parents)
        dtype = votes.poses.dtype
        if keras.backend.standardize_dtype(dtype) == "float16":
            # Logits are of the fourth power of poses and kernels.
            votes = in_full_precision(votes)
        compute_dtype = votes.poses.dtype
        scale = 1.0 / math.sqrt(votes.num_rows * votes.output_dim)
        logits = votes.agreement(votes.sum() * scale)  # [j, b, i]
        coupling = softmax_over_parents(logits)
        shares = coupling
        if weights:
            extra = ops.convert_to_tensor(weights["coupling_bias"])
            shares = shares + ops.cast(extra, compute_dtype)[:, None]
        poses = add_bias_and_squash(
            votes.mix(shares), bias, exponential_squash
        )  # [j, b, p, e]
        coupling = ops.cast(coupling, dtype)
        return Routed(ops.cast(poses, dtype), None, coupling)

    def get_config(self):
        return {"use_coupling_bias": self.use_coupling_bias}
