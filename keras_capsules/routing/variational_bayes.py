"""Routing as a Bayesian fit of Gaussians to the votes."""

import math

import keras
import numpy as np
from keras import ops

from keras_capsules.routing import mixtures
from keras_capsules.routing.base import Routing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.utils.digamma import digamma
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class VariationalBayesRouting(Routing):
    """Variational-Bayes routing: clusters of votes that know their doubts.

    As in `EMRouting` each parent is a Gaussian, and children share themselves
    out among the parents. But means, variances and the parents' sizes are not
    single values: each has a distribution, which starts from a prior and
    narrows with the votes. So a parent of few votes neither shrinks to them
    nor dies. With F numbers in a pose:

    ```
    R_ij = 1 / (number of parents of child i)
    repeat num_iterations times:
        N_j       = sum_i R_ij a_i
        mean_j    = sum_i R_ij a_i V_ij / N_j
        alpha_j   = alpha_0 + N_j
        kappa_j   = kappa_0 + N_j
        nu_j      = F + 1 + N_j
        m_j       = N_j mean_j / kappa_j
        P_j       = P_0 I + sum_i R_ij a_i (V_ij - mean_j)(V_ij - mean_j)'
                    + (kappa_0 N_j / kappa_j) mean_j mean_j'
        log_pi_j  = digamma(alpha_j) - digamma(sum over types of alpha)
        log_det_j = sum of digamma((nu_j - d) / 2) over d = 0, ..., F - 1
                    + F log(2) - log det P_j
        D_ij      = F / kappa_j + nu_j (V_ij - m_j)' inverse(P_j) (V_ij - m_j)
        R_ij      = softmax over all parents j of child i of
                    log_pi_j + log_det_j / 2 - D_ij / 2
    H_j = F / 2 log(2 pi e) - log_det_j / 2
    a_j = sigmoid(normalized(-exp(log_pi_j) H_j))
    ```

    The poses of the output capsules are the m_j, normalized as well; the
    entropy H_j says how spread a parent's votes are. The shares R_ij are not
    computed anew after the last fit. In a convolution the parents of a child
    are those of all types at all positions whose windows it lies in, and its
    shares of all of them sum to 1; the types in log_pi_j are those at one
    position.

    Everything is computed with logarithms of shares. A child with no
    activation counts for nothing, so that a parent of such children has the
    pose 0, its prior's.

    Notation: algorithm 1 of
    [De Sousa Ribeiro et al., 2020](https://arxiv.org/abs/1905.11455), whose
    Lambda_j are the precisions, with P_j for the inverse of Psi_j, and whose
    priors are alpha_0, m_0 = 0, kappa_0, Psi_0 = I / P_0 and nu_0 = F + 1. The
    authors' code starts from shares of one over the number of types, in
    convolutions as well; exponentiates before it divides, which overflows;
    and adds two betas to the entropy, which the normalization after it takes
    away again. Here the normalization of activations has a scale and an offset
    per type of output capsule instead, which is what betas are for.

    Args:
        num_iterations: Positive integer, the number of fits. Shares are equal
            in the first. Defaults to `3`.
        covariance: `"diagonal"`, where P_j is a diagonal and the numbers of a
            pose are independent, or `"full"`, which takes about F times the
            arithmetic of everything after the votes. Defaults to `"diagonal"`.
        batch_normalization: Boolean, whether to normalize the logits of the
            activations, with scale and offset, and the poses, without, over
            all but the types of output capsules, as the paper does. Without
            it, `a_j = sigmoid(beta_j - exp(log_pi_j) H_j)` with a trained
            `beta` per type, which starts where about half of the capsules are
            active: at what the second term is for parents that share the
            children equally and whose variances are a third of 1, as fits
            leave them if votes start with a variance of 1. Defaults to
            `True`.
        concentration: Positive number alpha_0: how many children each parent
            is sure to have. Defaults to `1`.
        mean_strength: Positive number kappa_0: how many votes for a pose of 0
            the prior counts as. Defaults to `1`.
        prior_scatter: Positive number P_0, the sum of squared deviations
            that the prior counts as. It keeps covariances away from
            zero, and should be of the order of the votes' squares. Defaults to
            `1`.

    Raises:
        ValueError: If an option is not of the kind described.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import VariationalBayesRouting

    poses = keras.random.normal((2, 6, 6, 8, 4, 4))
    activations = keras.random.uniform((2, 6, 6, 8))
    layer = CapsuleLayer(10, (4, 4), routing=VariationalBayesRouting())
    poses, activations = layer((poses, activations))
    # (2, 10, 4, 4) and (2, 10)
    ```
    """

    activation_from = "routing"
    averages = True

    def __init__(
        self,
        num_iterations=3,
        covariance="diagonal",
        batch_normalization=True,
        concentration=1.0,
        mean_strength=1.0,
        prior_scatter=1.0,
    ):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.covariance = check_choice(
            covariance, "covariance", ("diagonal", "full")
        )
        self.batch_normalization = check_boolean(
            batch_normalization, "batch_normalization"
        )
        self.concentration = _check_positive(concentration, "concentration")
        self.mean_strength = _check_positive(mean_strength, "mean_strength")
        self.prior_scatter = _check_positive(prior_scatter, "prior_scatter")

    def build(self, layer, spec):
        """Makes the normalizations, or `beta`; see `Routing.build`."""
        num_outputs, size = spec.num_outputs, math.prod(spec.pose_shape)
        if not self.batch_normalization:
            # The entropy of a Gaussian of variance 1 / e.
            entropy = 0.5 * size * math.log(2.0 * math.pi)
            initializer = keras.initializers.Constant(entropy / num_outputs)
            beta = layer.add_weight(
                name="beta", shape=(num_outputs,), initializer=initializer
            )
            return {"beta": beta}
        normalizations = {}
        for name, shape, is_affine in [
            ("activation_normalization", (None, num_outputs), True),
            ("pose_normalization", (None, num_outputs, size), False),
        ]:
            # Momentum and epsilon are those of the authors' code: logits
            # differ by much less than 1 between examples.
            normalization = keras.layers.BatchNormalization(
                axis=1,
                momentum=0.9,
                epsilon=1e-5,
                center=is_affine,
                scale=is_affine,
                name=name,
                dtype=at_least_float32(layer.compute_dtype),
            )
            normalization.build(shape)
            normalizations[name] = normalization
        return normalizations

    def route(self, votes, activations=None, windows=None):
        """Routes votes; see `Routing.route`. `finish` makes activations."""
        size = votes.shape[3]
        log_a = mixtures.log_activations(activations, votes)  # [b, 1, i]
        log_r = mixtures.first_log_shares(votes, windows)  # [b, j, i]
        for iteration in range(self.num_iterations):
            fit = self._fit(votes, log_r + log_a)
            entropies = 0.5 * (
                size * math.log(2.0 * math.pi * math.e) - fit["log_det"]
            )
            logits = -ops.exp(fit["log_pi"]) * entropies  # [b, j]
            yield Routed(fit["poses"], logits, ops.exp(log_r))
            if iteration + 1 < self.num_iterations:
                log_r = mixtures.log_shares(
                    self._log_densities(votes, fit), windows
                )

    def finish(self, routed, weights, training):
        """Normalizes over the batch; see `Routing.finish`."""
        poses, logits, coupling = routed
        if self.batch_normalization:
            poses = weights["pose_normalization"](poses, training=training)
            logits = weights["activation_normalization"](
                logits, training=training
            )
        else:
            logits = logits + ops.cast(weights["beta"], logits.dtype)
        return Routed(poses, ops.sigmoid(logits), coupling)

    def _fit(self, votes, log_masses):
        """Distributions of the output capsules, given the input's masses."""
        size = votes.shape[3]
        masses, coefficients, means = mixtures.collect(votes, log_masses)
        concentrations = self.concentration + masses
        strengths = self.mean_strength + masses
        degrees = size + 1.0 + masses
        pulls = (self.mean_strength * masses / strengths)[:, :, None]
        deviations = votes - means[:, :, None]  # [b, j, i, f]
        masses = masses[:, :, None]
        if self.covariance == "diagonal":
            spread = weighted_sum(coefficients, ops.square(deviations))
            scatter = (
                self.prior_scatter + masses * spread + pulls * ops.square(means)
            )  # [b, j, f]
            precisions = 1.0 / scatter
            log_volumes = ops.sum(ops.log(scatter), axis=2)
        else:
            spread = ops.matmul(
                ops.transpose(
                    deviations * coefficients[..., None], (0, 1, 3, 2)
                ),
                deviations,
            )
            scatter = (
                masses[..., None] * spread
                + pulls[..., None] * means[..., None] * means[:, :, None]
            )  # [b, j, f, f]
            precisions, log_volumes = _inverse(scatter, self.prior_scatter)
        steps = ops.arange(size, dtype=degrees.dtype)
        halves = 0.5 * (degrees[:, :, None] - steps)
        totals = ops.zeros_like(concentrations) + ops.sum(
            concentrations, axis=1, keepdims=True
        )
        # One call, because graphs of few operations compile faster.
        digammas = digamma(
            ops.concatenate(
                [halves, concentrations[:, :, None], totals[:, :, None]], axis=2
            )
        )
        log_dets = ops.sum(digammas[:, :, :size], axis=2)
        return {
            "poses": means * masses / strengths[:, :, None],
            "strengths": strengths,
            "degrees": degrees,
            "precisions": precisions,
            "log_pi": digammas[:, :, -2] - digammas[:, :, -1],
            "log_det": log_dets + size * math.log(2.0) - log_volumes,
        }

    def _log_densities(self, votes, fit):
        """Expected logarithms of the densities at the votes, `[b, j, i]`."""
        deviations = votes - fit["poses"][:, :, None]
        if self.covariance == "diagonal":
            distances = agreement(ops.square(deviations), fit["precisions"])
        else:
            products = ops.matmul(deviations, fit["precisions"])
            distances = ops.sum(products * deviations, axis=3)
        size = votes.shape[3]
        heights = fit["log_pi"] + 0.5 * (
            fit["log_det"] - size / fit["strengths"]
        )
        degrees = 0.5 * fit["degrees"]
        return heights[:, :, None] - degrees[:, :, None] * distances

    def get_config(self):
        return {
            "num_iterations": self.num_iterations,
            "covariance": self.covariance,
            "batch_normalization": self.batch_normalization,
            "concentration": self.concentration,
            "mean_strength": self.mean_strength,
            "prior_scatter": self.prior_scatter,
        }


def _check_positive(value, name):
    return check_number(value, name, minimum=0, open_minimum=True)


def _inverse(scatter, prior):
    """Inverses and logarithms of determinants, `[b, j, f, f]` and `[b, j]`.

    The prior is added to the diagonals, and what rounding may have taken from
    the smallest eigenvalues if the largest is many times the prior.
    """
    size = scatter.shape[-1]
    dtype = keras.backend.standardize_dtype(scatter.dtype)
    rounding = size * float(np.finfo(dtype).eps)
    diagonals = ops.diagonal(scatter, axis1=2, axis2=3)
    ridge = prior + rounding * ops.sum(diagonals, axis=2)  # [b, j]
    identity = ops.eye(size, dtype=dtype)
    scatter = scatter + ridge[:, :, None, None] * identity
    factors = ops.cholesky(scatter)
    log_volumes = 2.0 * ops.sum(
        ops.log(ops.diagonal(factors, axis1=2, axis2=3)), axis=2
    )
    inverses = ops.solve_triangular(
        factors, ops.broadcast_to(identity, ops.shape(scatter)), lower=True
    )
    return ops.matmul(ops.transpose(inverses, (0, 1, 3, 2)), inverses), (
        log_volumes
    )
