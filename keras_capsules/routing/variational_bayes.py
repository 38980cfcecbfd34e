"""Routing as a Bayesian fit of Gaussians to the votes."""

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
from keras_capsules.types import Tensor
from keras_capsules.utils.digamma import digamma
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.linear_algebra import inverse_and_log_det
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class VariationalBayesRouting(Routing):
    """Variational-Bayes routing: clustering with uncertain parameters.

    As in `EMRouting`, each output capsule is a Gaussian, and each input capsule
    divides itself among the output capsules. But the means, the covariances and
    the sizes of the clusters have distributions instead of single values. These
    start from a prior and narrow with the votes, so an output capsule with few
    votes neither shrinks to them nor dies. With F numbers in a pose:

    ```
    R_ij = 1 / (number of output capsules that i votes for)
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
        R_ij      = softmax over all output capsules j that i votes for, of
                    log_pi_j + log_det_j / 2 - D_ij / 2
    H_j = F / 2 log(2 pi e) - log_det_j / 2
    a_j = sigmoid(normalized(-exp(log_pi_j) H_j))
    ```

    The poses of the output capsules are the m_j, which are normalized as well.
    The entropy H_j measures the spread of the votes. The shares R_ij are not
    updated after the last iteration. In a convolution an input capsule votes
    for the output capsules of all types in all windows that contain it, and its
    shares of all of them sum to 1. The types in log_pi_j are of one position.

    Shares are kept as logarithms. Inactive input capsules count for nothing. An
    output capsule that receives only inactive ones has the pose 0 of its prior.

    Notation: algorithm 1 of
    [De Sousa Ribeiro et al., 2020](https://arxiv.org/abs/1905.11455), whose
    Lambda_j are the precisions, with P_j for the inverse of Psi_j, and whose
    priors are alpha_0, m_0 = 0, kappa_0, Psi_0 = I / P_0 and nu_0 = F + 1. The
    options for priors have the names of scikit-learn's
    `BayesianGaussianMixture`. The authors' code differs in three ways. Its
    first shares are one over the number of types, in convolutions as well. It
    exponentiates before it divides, so that shares of far votes underflow. And
    it adds two betas to the entropy, which the normalization after it cancels;
    here activations have a trained scale and offset per type instead.

    Args:
        num_iterations: Positive integer, the number of fits. Shares are equal
            in the first. Defaults to `3`.
        covariance: `"diagonal"`, where P_j is a diagonal and the numbers of a
            pose are independent; or `"full"`, which takes about F times the
            arithmetic after the votes. Defaults to `"diagonal"`.
        batch_normalization: Boolean, whether to normalize poses and the logits
            of the activations over all axes but the types of output capsules,
            as the paper does; the logits with a trained scale and offset. If
            not, `a_j = sigmoid(beta_j - exp(log_pi_j) H_j)` with a trained
            `beta` per type. Its initial value makes about half of the capsules
            active: it is the second term for equal shares and variances of a
            third of 1, which votes with a variance of 1 have after the fits.
            Defaults to `True`.
        weight_concentration_prior: Positive number alpha_0, the mass that each
            output capsule has in advance, as a number of input capsules.
            Defaults to `1`.
        mean_precision_prior: Positive number kappa_0, the mass of votes for the
            pose 0 that each output capsule has in advance. Defaults to `1`.
        covariance_prior: Positive number P_0, the sum of squared deviations
            that each output capsule has in advance. It keeps covariances away
            from zero and should be of the order of the squared votes. Defaults
            to `1`.

    Raises:
        ValueError: If an option is invalid.

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
        num_iterations: int = 3,
        covariance: str = "diagonal",
        batch_normalization: bool = True,
        weight_concentration_prior: float = 1.0,
        mean_precision_prior: float = 1.0,
        covariance_prior: float = 1.0,
    ):
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.covariance = check_choice(
            covariance, "covariance", ("diagonal", "full")
        )
        self.batch_normalization = check_boolean(
            batch_normalization, "batch_normalization"
        )
        self.weight_concentration_prior = _check_positive(
            weight_concentration_prior, "weight_concentration_prior"
        )
        self.mean_precision_prior = _check_positive(
            mean_precision_prior, "mean_precision_prior"
        )
        self.covariance_prior = _check_positive(
            covariance_prior, "covariance_prior"
        )

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Any]:
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
            # Momentum and epsilon as in the authors' code, because logits
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

    def route(
        self,
        votes: Tensor,
        activations: Tensor | None = None,
        windows: Windows | None = None,
    ) -> Iterator[Routed]:
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

    def finish(
        self,
        routed: Routed,
        weights: dict[str, Any],
        training: bool,
        mask: Tensor | None = None,
    ) -> Routed:
        """Normalizes over the batch; see `Routing.finish`."""
        poses, logits, coupling = routed
        if self.batch_normalization:
            # Keras adds the last axis of a mask.
            longer = None if mask is None else mask[:, None]
            normalize = weights["pose_normalization"]
            poses = normalize(poses, training=training, mask=longer)
            normalize = weights["activation_normalization"]
            logits = normalize(logits, training=training, mask=mask)
        else:
            logits = logits + ops.cast(weights["beta"], logits.dtype)
        return Routed(poses, ops.sigmoid(logits), coupling)

    def _fit(self, votes, log_masses):
        """Fits the distributions of the output capsules to the votes."""
        size = votes.shape[3]
        prior = self.mean_precision_prior
        masses, shares, means = mixtures.masses_and_means(votes, log_masses)
        alphas = self.weight_concentration_prior + masses
        kappas = prior + masses
        degrees = size + 1.0 + masses
        pulls = (prior * masses / kappas)[:, :, None]
        deviations = votes - means[:, :, None]  # [b, j, i, f]
        masses = masses[:, :, None]
        if self.covariance == "diagonal":
            spread = weighted_sum(shares, ops.square(deviations))
            scatter = (
                self.covariance_prior
                + masses * spread
                + pulls * ops.square(means)
            )  # [b, j, f]
            precisions = 1.0 / scatter
            log_volumes = ops.sum(ops.log(scatter), axis=2)
        else:
            spread = ops.matmul(
                ops.transpose(deviations * shares[..., None], (0, 1, 3, 2)),
                deviations,
            )
            scatter = (
                masses[..., None] * spread
                + pulls[..., None] * means[..., None] * means[:, :, None]
            )  # [b, j, f, f]
            precisions, log_volumes = inverse_and_log_det(
                scatter, self.covariance_prior
            )
        steps = ops.arange(size, dtype=degrees.dtype)
        halves = 0.5 * (degrees[:, :, None] - steps)
        totals = ops.zeros_like(alphas) + ops.sum(alphas, axis=1, keepdims=True)
        # One call, because graphs of few operations compile faster.
        digammas = digamma(
            ops.concatenate(
                [halves, alphas[:, :, None], totals[:, :, None]], axis=2
            )
        )
        log_dets = ops.sum(digammas[:, :, :size], axis=2)
        return {
            "poses": means * masses / kappas[:, :, None],
            "kappas": kappas,
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
        heights = fit["log_pi"] + 0.5 * (fit["log_det"] - size / fit["kappas"])
        degrees = 0.5 * fit["degrees"]
        return heights[:, :, None] - degrees[:, :, None] * distances

    def get_config(self) -> dict[str, Any]:
        return {
            "num_iterations": self.num_iterations,
            "covariance": self.covariance,
            "batch_normalization": self.batch_normalization,
            "weight_concentration_prior": self.weight_concentration_prior,
            "mean_precision_prior": self.mean_precision_prior,
            "covariance_prior": self.covariance_prior,
        }


def _check_positive(value, name):
    return check_number(value, name, minimum=0, open_minimum=True)
