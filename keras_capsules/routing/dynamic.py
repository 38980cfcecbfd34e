"""Routing by agreement, as in the paper that began it."""

import keras
from keras import ops

from keras_capsules._validation import check_boolean
from keras_capsules._validation import check_integer
from keras_capsules.activations import squash
from keras_capsules.routing._coupling import add_bias_and_squash
from keras_capsules.routing._coupling import softmax_over_parents
from keras_capsules.routing.base import Routed
from keras_capsules.routing.base import Routing
from keras_capsules.routing.base import refuse_parents


@keras.saving.register_keras_serializable(package="keras_capsules")
class DynamicRouting(Routing):
    """Dynamic routing: votes that agree with a parent count for more of it.

    Every input capsule shares itself out among the parents, equally at first.
    In each further iteration the share grows with how well the vote agrees
    with the parent that the votes made so far, a soft clustering of votes:

    ```
    b_ij = 0
    repeat num_iterations times:
        c_ij = softmax over j of b_ij
        s_j = sum_i c_ij V_ij + bias_j
        v_j = squash(s_j)
        b_ij = b_ij + <V_ij, v_j>
    ```

    Logits start at zero and are never shared between examples. They are inner
    products with the cumulative sum of the outputs, `b = <V, v_1 + v_2 + ..>`,
    which is all that is kept from one iteration to the next. With uniform
    coupling the first iteration is a single matrix product.

    Notation: procedure 1 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), whose prediction
    vectors u-hat_j|i are the votes V_ij, and r the `num_iterations`. The
    paper's procedure has no bias; the authors' code adds one inside the loop,
    as here. Use `use_bias=False` in the layer for the paper's form.

    Args:
        num_iterations: Positive integer, the number of weighted sums. The
            first has uniform coupling: `1` means no routing at all. Defaults
            to `3`.
        leaky: Boolean, whether an input capsule may also send part of itself
            nowhere: the softmax gets one more logit, constant at zero, so
            that coupling coefficients sum to less than 1. The authors used it
            for CIFAR-10. Defaults to `False`.
        stop_gradient: Boolean, whether coupling coefficients count as
            constants in the gradient, which then takes less than half of the
            time. The papers let the gradient through. Defaults to `False`.

    Raises:
        ValueError: If an option is not of the kind described.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import DynamicRouting

    layer = CapsuleLayer(10, 16, routing=DynamicRouting(num_iterations=2))
    capsules = layer(keras.random.normal((4, 32, 8)))  # (4, 10, 16)
    ```
    """

    def __init__(self, num_iterations=3, leaky=False, stop_gradient=False):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.leaky = check_boolean(leaky, "leaky")
        self.stop_gradient = check_boolean(stop_gradient, "stop_gradient")

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
        use for `activations`. It has none for `weights`, `training` and
        `windows` either, and cannot go on from `parents`.
        """
        del activations, weights, training, windows
        refuse_parents(self, parents)
        # First iteration: every parent gets the same share of every child.
        dtype = votes.poses.dtype
        share = 1.0 / (votes.num_outputs + self.leaky)
        outputs = add_bias_and_squash(
            votes.sum() * share, bias, squash
        )  # [j, b, p, e]
        if self.num_iterations == 1:
            shape = (votes.num_outputs, ops.shape(outputs)[1], votes.num_inputs)
            uniform = ops.full(shape, share, dtype)
            return Routed(ops.cast(outputs, dtype), None, uniform)
        total = outputs
        for iteration in range(1, self.num_iterations):
            logits = votes.agreement(ops.cast(total, dtype))  # [j, b, i]
            coupling = softmax_over_parents(logits, self.leaky)
            if self.stop_gradient:
                coupling = ops.stop_gradient(coupling)
            outputs = add_bias_and_squash(votes.mix(coupling), bias, squash)
            if iteration + 1 < self.num_iterations:
                total = total + outputs
        return Routed(ops.cast(outputs, dtype), None, coupling)

    def get_config(self):
        return {
            "num_iterations": self.num_iterations,
            "leaky": self.leaky,
            "stop_gradient": self.stop_gradient,
        }
