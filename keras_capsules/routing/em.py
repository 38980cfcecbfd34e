"""Routing as a fit of Gaussians to the votes, by expectation-maximization."""

import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.routing import mixtures
from keras_capsules.routing.base import Routing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import RoutingSpec
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.types import InitializerLike
from keras_capsules.types import Tensor
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class EMRouting(Routing):
    """EM routing: each output capsule is a cluster of votes close together.

    Each output capsule is a Gaussian with a variance for each number of a pose.
    Each input capsule divides itself among the output capsules. The mean and
    the variances of an output capsule are those of the votes, weighted by these
    shares. In each further iteration the shares move to output capsules that
    are active and whose mean is close to the vote. An output capsule is active
    if its votes are close enough together for a Gaussian to describe them at a
    low cost:

    ```
    r_ij = 1 / (number of output capsules that i votes for)
    for t = 0, 1, ..., num_iterations - 1:
        S_j   = sum_i r_ij a_i
        m_jh  = sum_i r_ij a_i V_ijh / S_j
        v_jh  = sum_i r_ij a_i (V_ijh - m_jh)^2 / S_j + min_variance
        C_j   = F S_j sum_h (beta_u_j + log(v_jh) / 2)
        a_j   = sigmoid(lambda_t (beta_a_j - C_j))
        r_ij  = softmax over all output capsules j that i votes for, of
                log(a_j) - sum_h ((V_ijh - m_jh)^2 / v_jh + log(v_jh)) / 2
    ```

    where h runs over the numbers of a pose. The poses of the output capsules
    are the m_j, their activations the a_j. The shares r_ij are not updated
    after the last iteration. In a convolution an input capsule votes for the
    output capsules of all types in all windows that contain it, and its shares
    of all of them sum to 1.

    Shares are kept as logarithms. An output capsule that receives only inactive
    input capsules gets the mean of their votes as its pose and
    `sigmoid(lambda_t beta_a_j)` as its activation.

    Scale of costs: C_j is proportional to S_j, and so to the number of input
    capsules per output capsule. This is less than one in a convolution with
    many types, and tens in a layer of few classes. With the paper's F = 1 and
    its small lambda, activations start within 0.01 of 0.5 in the former, where
    poses have to be learned first, and within 0.05 in the latter.
    `cost_scale="normalized"` makes F S_j a hundred times the mean activation of
    the input capsules, for 9 * 8 of them as for 250. With the default lambda,
    16 numbers in a pose and input capsules that are half active, a logit then
    moves by 0.6 if all variances shrink by a factor of e. Overlapping windows
    multiply the number of output capsules that an input capsule votes for.
    `"normalized"` does not account for this; choose a number if it matters.

    Notation: the M- and E-steps of procedure 1 in
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), whose
    R_ij are the r_ij, mu_jh the means m_jh, sigma_jh^2 the variances v_jh,
    `inverse_temperature` the final lambda, and F = 1. The paper does not say
    how lambda grows; the schedule here is the one in the authors' code,
    `lambda_t = inverse_temperature (1 - inverse_temperature_decay^(t + 1))`.
    That code departs from the paper in convolutions, where an input capsule's
    shares of each type sum to 1; it also mixes means with the previous ones
    and does not halve log(v). This class implements the paper's form.
    `cost_scale="normalized"` is F = 100 J / I for J types of output capsules
    and I input capsules per output capsule, as in IBM's implementation.

    Both betas are trained, one for each type of output capsule. The weight
    `beta_a` stores the product `lambda_t beta_a_j` of the last iteration. This
    is a number of order 1 for any lambda. The paper's beta_a is of order 1000,
    which an optimizer with a usual learning rate would never reach. Initial
    values: after three iterations the variances are about a third of the
    variances of all votes, which are about 1. Costs are then zero on average
    for a `beta_u` of 0.5, and with a `beta_a` of 0 about half of the capsules
    are active, as the authors advise.

    Args:
        num_iterations: Positive integer, the number of M-steps. Shares are
            equal in the first. Defaults to `3`.
        inverse_temperature: Positive number, the limit of lambda. Defaults to
            `0.01`.
        inverse_temperature_decay: Number of at least 0 and less than 1, the
            factor by which the distance of lambda to its limit shrinks in each
            iteration; `0` makes lambda constant. Defaults to `0.95`, so that
            lambda is 0.0005, 0.000975 and 0.001426 in three iterations.
        min_variance: Positive number, added to the variances, so that votes
            that agree have finite densities and gradients. Gradients of
            `log(v)` grow with its inverse square root. The default, `1e-4`, is
            a standard deviation of 0.01, far above the rounding errors of
            votes of order 1 in float32. The paper adds nothing, the authors'
            code 5e-4.
        cost_scale: The factor F, a positive number; or `"normalized"` for
            `100 J / I`, see above. Defaults to `1.0`, as in the paper.
        beta_u_initializer: Initializer of `beta_u`, the cost of each number of
            a pose at unit variance. Defaults to `None`, which means
            `keras.initializers.Constant(0.5)`.
        beta_a_initializer: Initializer of `beta_a`, as it is stored. Defaults
            to `"zeros"`.

    Raises:
        ValueError: If an option is invalid.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import EMRouting

    poses = keras.random.normal((2, 6, 6, 8, 4, 4))
    activations = keras.random.uniform((2, 6, 6, 8))
    routing = EMRouting(cost_scale="normalized")
    layer = CapsuleLayer(10, (4, 4), routing=routing)
    poses, activations = layer((poses, activations))
    # (2, 10, 4, 4) and (2, 10)
    ```
    """

    activation_from = "routing"
    averages = True

    def __init__(
        self,
        num_iterations: int = 3,
        inverse_temperature: float = 0.01,
        inverse_temperature_decay: float = 0.95,
        min_variance: float = 1e-4,
        cost_scale: float | str = 1.0,
        beta_u_initializer: InitializerLike = None,
        beta_a_initializer: InitializerLike = "zeros",
    ):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.inverse_temperature = check_number(
            inverse_temperature,
            "inverse_temperature",
            minimum=0,
            open_minimum=True,
        )
        self.inverse_temperature_decay = check_number(
            inverse_temperature_decay,
            "inverse_temperature_decay",
            minimum=0,
            maximum=math.nextafter(1, 0),
        )
        self.min_variance = check_number(
            min_variance, "min_variance", minimum=0, open_minimum=True
        )
        self.cost_scale = _check_cost_scale(cost_scale)
        self.beta_u_initializer = initializers.get(
            beta_u_initializer, keras.initializers.Constant(0.5)
        )
        self.beta_a_initializer = initializers.get(
            beta_a_initializer, keras.initializers.Zeros()
        )

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Any]:
        """Makes `beta_u` and `beta_a`; see `Routing.build`."""
        return {
            name: layer.add_weight(
                name=name, shape=(spec.num_outputs,), initializer=initializer
            )
            for name, initializer in [
                ("beta_u", self.beta_u_initializer),
                ("beta_a", self.beta_a_initializer),
            ]
        }

    def route(
        self,
        votes: Tensor,
        weights: dict[str, Tensor],
        activations: Tensor | None = None,
        windows: Windows | None = None,
        num_inputs: Tensor | None = None,
    ) -> Iterator[Routed]:
        """Routes votes; see `Routing.route`."""
        _, num_outputs, _, size = votes.shape
        scale = self.cost_scale
        if scale == "normalized":
            if num_inputs is None:
                num_inputs = ops.cast(ops.shape(votes)[2], votes.dtype)
            # At least 1, where there is nothing but padding.
            scale = 100.0 * num_outputs / ops.maximum(num_inputs, 1.0)
        last = self._inverse_temperature_at(self.num_iterations - 1)
        log_a = mixtures.log_activations(activations, votes)  # [b, 1, i]
        log_r = mixtures.first_log_shares(votes, windows)  # [b, j, i]
        for iteration in range(self.num_iterations):
            # The M-step.
            masses, shares, means = mixtures.masses_and_means(
                votes, log_r + log_a
            )
            squares = ops.square(votes - means[:, :, None])
            variances = weighted_sum(shares, squares) + self.min_variance
            spread = 0.5 * ops.sum(ops.log(variances), axis=2)  # [b, j]
            costs = masses * (size * weights["beta_u"] + spread)
            temperature = self._inverse_temperature_at(iteration)
            logits = (temperature / last) * weights["beta_a"] - (
                temperature * scale
            ) * costs
            yield Routed(means, ops.sigmoid(logits), ops.exp(log_r))
            if iteration + 1 < self.num_iterations:
                # The E-step.
                distances = agreement(squares, 1.0 / variances)
                heights = ops.log_sigmoid(logits) - spread
                log_r = mixtures.log_shares(
                    heights[:, :, None] - 0.5 * distances, windows
                )

    def _inverse_temperature_at(self, iteration):
        decay = self.inverse_temperature_decay
        return self.inverse_temperature * (1.0 - decay ** (iteration + 1))

    def get_config(self) -> dict[str, Any]:
        return {
            "num_iterations": self.num_iterations,
            "inverse_temperature": self.inverse_temperature,
            "inverse_temperature_decay": self.inverse_temperature_decay,
            "min_variance": self.min_variance,
            "cost_scale": self.cost_scale,
            "beta_u_initializer": keras.initializers.serialize(
                self.beta_u_initializer
            ),
            "beta_a_initializer": keras.initializers.serialize(
                self.beta_a_initializer
            ),
        }


def _check_cost_scale(value):
    if isinstance(value, str) and value == "normalized":
        return value
    try:
        return check_number(value, "cost_scale", minimum=0, open_minimum=True)
    except ValueError:
        raise ValueError(
            "Invalid value for argument `cost_scale`. Expected 'normalized' or "
            f"a finite number greater than 0. Received: cost_scale={value!r}"
        ) from None
