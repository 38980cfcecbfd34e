"""Dynamic routing, by agreement."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_capsules.activations import squash
from keras_capsules.routing.base import Routing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import full_coupling
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.routing.votes import total
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class DynamicRouting(Routing):
    """Dynamic routing: votes that agree with an output capsule count for more.

    Each input capsule divides itself among the output capsules, equally at
    first. In each further iteration its share of an output capsule grows with
    the agreement of its vote and the output capsule so far. This is a soft
    clustering of votes:

    ```
    b_ij = 0
    repeat num_iterations times:
        c_ij = softmax over j of b_ij
        s_j = sum_i c_ij V_ij + bias_j
        v_j = squash(s_j)
        b_ij = b_ij + <V_ij, v_j>
    ```

    The logits b_ij start at zero for each example. They are inner products with
    the cumulative sum of the outputs, `b = <V, v_1 + v_2 + ..>`, and are
    computed that way here.

    Notation: procedure 1 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), whose prediction
    vectors u-hat_j|i are the votes V_ij, and r the `num_iterations`. The
    paper's procedure has no bias; the authors' code adds one inside the loop,
    as here. Use `use_bias=False` in the layer for the paper's form.

    Args:
        num_iterations: Positive integer, the number of weighted sums. The
            first has uniform coupling: `1` means no routing at all. Defaults
            to `3`.
        leaky: Boolean, whether an input capsule may keep part of itself. The
            softmax then has one more logit, constant at zero, so that the
            coupling coefficients sum to less than 1. The authors used it for
            CIFAR-10. Defaults to `False`.
        stop_gradient: Boolean, whether coupling coefficients are constants in
            the gradient. A training step then takes a third of the time in
            TensorFlow, and 0.6 to 0.7 on JAX and PyTorch. The paper lets the
            gradient through. Defaults to `False`.

    Raises:
        ValueError: If an option is invalid.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import DynamicRouting

    layer = CapsuleLayer(10, 16, routing=DynamicRouting(num_iterations=2))
    capsules = layer(keras.random.normal((4, 32, 8)))  # (4, 10, 16)
    ```
    """

    def __init__(
        self,
        num_iterations: int = 3,
        leaky: bool = False,
        stop_gradient: bool = False,
    ):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.leaky = check_boolean(leaky, "leaky")
        self.stop_gradient = check_boolean(stop_gradient, "stop_gradient")

    def route(
        self, votes: Tensor, bias: Tensor | None = None
    ) -> Iterator[Routed]:
        """Routes votes; see `Routing.route`."""
        # In the first iteration, all output capsules get the same share.
        share = 1.0 / (votes.shape[1] + int(self.leaky))
        outputs = self.combine(total(votes) * share, bias)
        yield Routed(outputs, None, full_coupling(votes, share))
        history = outputs
        for _ in range(1, self.num_iterations):
            logits = agreement(votes, history)
            coupling = softmax_over_outputs(logits, self.leaky)
            if self.stop_gradient:
                coupling = ops.stop_gradient(coupling)
            outputs = self.combine(weighted_sum(coupling, votes), bias)
            yield Routed(outputs, None, coupling)
            history = history + outputs

    def combine(self, sums: Tensor, bias: Tensor | None = None) -> Tensor:
        """Makes poses from weighted sums of votes; see `Routing`."""
        return squash(sums if bias is None else sums + bias)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_iterations": self.num_iterations,
            "leaky": self.leaky,
            "stop_gradient": self.stop_gradient,
        }
