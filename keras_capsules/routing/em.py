"""Routing as a fit of Gaussians to the votes, by expectation-maximization."""

import math

import keras
from keras import ops

from keras_capsules.routing import mixtures
from keras_capsules.routing.base import Routing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.utils import initializers
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class EMRouting(Routing):
    """EM routing: parents are clusters of votes that lie close together.

    Each parent is a Gaussian, with a variance for each number of a pose.
    Children share themselves out among the parents; a parent's mean and
    variances are those of its shares of votes; and in each further iteration
    a child goes to the parents that are active and close to its vote. A
    parent is active if its votes lie so close together that describing them
    by it is cheap:

    ```
    r_ij = 1 / (number of parents of child i)
    for t = 0, 1, ..., num_iterations - 1:
        S_j   = sum_i r_ij a_i
        m_jh  = sum_i r_ij a_i V_ijh / S_j
        v_jh  = sum_i r_ij a_i (V_ijh - m_jh)^2 / S_j + min_variance
        C_j   = F S_j sum_h (beta_u_j + log(v_jh) / 2)
        a_j   = sigmoid(lambda_t (beta_a_j - C_j))
        r_ij  = softmax over all parents j of child i of
                log(a_j) - sum_h ((V_ijh - m_jh)^2 / v_jh + log(v_jh)) / 2
    ```

    where h runs over the numbers of a pose. The poses of the output capsules
    are the m_j, their activations the a_j; the shares r_ij are not computed
    anew after the last of them. In a convolution the parents of a child are
    those of all types at all positions whose windows it lies in, and its
    shares of all of them sum to 1.

    Everything is computed with variances and logarithms of shares. A parent
    to which only children with no activation are left has the mean of their
    votes and the activation of no votes, `sigmoid(lambda_t beta_a_j)`.

    How large costs are: S_j, and C_j with it, grows with the number of
    children per parent, from less than one in a convolution of many types to
    tens in a layer of few classes. With the paper's F = 1 and its small
    lambda, activations start within 0.05 of 0.5 in the latter and within 0.01
    in the former: there poses have to learn first. `cost_scale="ibm"` makes
    F S_j a hundred times the children's mean activation, for 9 * 8 children
    as for 250: with the default lambda, 16 numbers in a pose and children that
    are half active, a logit moves by 0.6 where all variances shrink by a
    factor of e. Where windows overlap, a child has as many times more parents,
    which this F leaves out: a number can make up for it.

    Notation: the M- and E-steps of procedure 1 in
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), whose
    R_ij are the r_ij, mu_jh the means m_jh, sigma_jh^2 the variances v_jh,
    `inverse_temperature` the final lambda, and F = 1. The paper does not say
    how lambda grows; the schedule here is that of the authors' code,
    `lambda_t = inverse_temperature (1 - inverse_temperature_decay^(t + 1))`.
    That code departs from the paper: in convolutions a child's shares of each
    type sum to 1, means are mixed with those before, and log(v) is not
    halved. Here is the paper's form.

    Both betas are trained, one for each type of output capsule. What is stored
    as `beta_a` is its part of the last logit, `lambda_t beta_a_j`: as such it
    is a number of order 1 for any lambda, where the paper's is of order 1000,
    which an optimizer of a usual learning rate would never reach. At first,
    the variances that three fits leave are about a third of those of all
    votes, and these about 1: then costs are zero on average for a `beta_u`
    of 0.5, and with a `beta_a` of 0 about half of the capsules are active, as
    the authors advise.

    Args:
        num_iterations: Positive integer, the number of fits. Shares are equal
            in the first. Defaults to `3`.
        inverse_temperature: Positive number, what lambda tends to. Defaults to
            `0.01`.
        inverse_temperature_decay: Number of at least 0 and less than 1, by
            which the rest of the way shrinks in each iteration; `0` makes
            lambda constant. Defaults to `0.95`, which with three iterations
            makes it 0.0005, 0.000975 and 0.001426.
        min_variance: Positive number, added to the variances, so that votes
            that agree have finite densities and gradients. Gradients of
            `log(v)` grow with its inverse square root. The default, `1e-4`, is
            a standard deviation of 0.01, which is far above what rounding to
            float32 adds to votes of order 1. The paper adds nothing, the
            authors' code 5e-4.
        cost_scale: The factor F, a positive number; or `"ibm"` for IBM's,
            `100 * parents / children`, the types of parents and the children
            of one of them. Defaults to `None`, the paper's: 1.
        beta_u_initializer: Initializer of `beta_u`, the cost of each number of
            a pose at unit variance. Defaults to `None`,
            `keras.initializers.Constant(0.5)`.
        beta_a_initializer: Initializer of `beta_a`, as it is stored. Defaults
            to `"zeros"`.

    Raises:
        ValueError: If an option is not of the kind described.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import EMRouting

    poses = keras.random.normal((2, 6, 6, 8, 4, 4))
    activations = keras.random.uniform((2, 6, 6, 8))
    layer = CapsuleLayer(10, (4, 4), routing=EMRouting(cost_scale="ibm"))
    poses, activations = layer((poses, activations))
    # (2, 10, 4, 4) and (2, 10)
    ```
    """

    activation_from = "routing"
    averages = True

    def __init__(
        self,
        num_iterations=3,
        inverse_temperature=0.01,
        inverse_temperature_decay=0.95,
        min_variance=1e-4,
        cost_scale=None,
        beta_u_initializer=None,
        beta_a_initializer="zeros",
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

    def build(self, layer, spec):
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

    def route(self, votes, weights, activations=None, windows=None):
        """Routes votes; see `Routing.route`."""
        _, num_outputs, num_inputs, size = votes.shape
        cost_scale = self._cost_scale_of(num_inputs, num_outputs)
        last = self._inverse_temperature_at(self.num_iterations - 1)
        log_a = mixtures.log_activations(activations, votes)  # [b, 1, i]
        log_r = mixtures.first_log_shares(votes, windows)  # [b, j, i]
        for iteration in range(self.num_iterations):
            # The M-step.
            masses, coefficients, means = mixtures.collect(votes, log_r + log_a)
            squares = ops.square(votes - means[:, :, None])
            variances = weighted_sum(coefficients, squares) + self.min_variance
            spread = 0.5 * ops.sum(ops.log(variances), axis=2)  # [b, j]
            costs = masses * (size * weights["beta_u"] + spread)
            temperature = self._inverse_temperature_at(iteration)
            logits = (temperature / last) * weights["beta_a"] - (
                temperature * cost_scale
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

    def _cost_scale_of(self, num_inputs, num_outputs):
        scales = {None: 1.0, "ibm": 100.0 * num_outputs / num_inputs}
        return scales.get(self.cost_scale, self.cost_scale)

    def get_config(self):
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
    if value is None or (isinstance(value, str) and value == "ibm"):
        return value
    try:
        return check_number(value, "cost_scale", minimum=0, open_minimum=True)
    except ValueError:
        raise ValueError(
            "Invalid value for argument `cost_scale`. Expected None, 'ibm' or "
            f"a finite number greater than 0. Received: cost_scale={value!r}"
        ) from None
