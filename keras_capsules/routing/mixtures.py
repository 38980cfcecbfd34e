"""Helpers for routings that fit a mixture to the votes.

Such a routing treats each output capsule as a cluster of votes. Each input
capsule divides itself among the clusters, in shares that sum to 1.

Shares are kept as logarithms. The shares of an output capsule that is far from
all votes are too small for float32, yet the mean of its votes is well defined.

Axes: b batch, i input capsule, j output capsule, f all numbers of a pose.
"""

import keras
import numpy as np
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.routing.votes import highest_of
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.types import Tensor


def log_activations(activations: Tensor | None, votes: Tensor) -> Tensor:
    """Computes logarithms of activations, which are finite for inactive ones.

    An inactive input capsule counts for nothing and gets no gradient. Its
    logarithm is finite, so that an output capsule with only inactive inputs
    still has a pose.

    Args:
        activations: `[b, i]`, or `None` if all input capsules are fully active.
        votes: `[b, j, i, f]`.

    Returns:
        `[b, 1, i]`.
    """
    if activations is None:
        return ops.zeros_like(votes[:, :1, :, 0])
    least = least_activation(activations.dtype)
    activations = ops.cast(activations, votes.dtype)
    logarithms = ops.where(
        activations < least, -1e9, ops.log(ops.maximum(activations, least))
    )
    return logarithms[:, None]


def least_activation(dtype: str) -> float:
    """Returns the smallest activation that counts as active.

    Gradients grow up to its inverse, which float16 has to hold.

    Args:
        dtype: Dtype of the activations.

    Returns:
        A float.
    """
    is_half = keras.backend.standardize_dtype(dtype) == "float16"
    return float(np.finfo("float16").tiny) if is_half else 1e-7


def first_log_shares(votes: Tensor, windows: Windows | None) -> Tensor:
    """Computes logarithms of equal shares.

    Args:
        votes: `[b, j, i, f]`.
        windows: The `Windows` of a convolution, where an input capsule divides
            itself among the output capsules of all types in all windows that
            contain it; or `None`.

    Returns:
        `[b, j, i]`.
    """
    ones = ops.ones_like(votes[:, 0, :, 0])
    if windows is not None:
        ones = windows.sum(ones)
    shares = -ops.log(votes.shape[1] * ones)[:, None]
    return ops.broadcast_to(shares, ops.shape(votes)[:3])


def log_shares(logits: Tensor, windows: Windows | None) -> Tensor:
    """Normalizes shares, so that those of an input capsule sum to 1.

    Args:
        logits: Logarithms of numbers proportional to the shares, `[b, j, i]`.
        windows: A `Windows` or `None`; see `first_log_shares`.

    Returns:
        Logarithms of the shares, `[b, j, i]`.
    """
    highest = highest_of(logits, axis=1)
    powers = ops.exp(logits - highest)
    total = highest + ops.log(ops.sum(powers, axis=1, keepdims=True))
    if windows is not None:
        total = windows.logsumexp(total[:, 0])[:, None]
    return logits - total


def masses_and_means(
    votes: Tensor, log_masses: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the total mass and the weighted mean of each cluster of votes.

    Args:
        votes: `[b, j, i, f]`.
        log_masses: Logarithms of the mass of each vote, `[b, j, i]`.

    Returns:
        Total masses, `[b, j]`; weights proportional to the masses, which sum to
        1 over the input capsules, `[b, j, i]`; and the means of the votes with
        these weights, `[b, j, f]`.
    """
    highest = highest_of(log_masses, axis=2)
    weights = ops.exp(log_masses - highest)
    total = ops.sum(weights, axis=2, keepdims=True)
    weights = weights / total
    masses = ops.squeeze(ops.exp(highest) * total, axis=2)
    return masses, weights, weighted_sum(weights, votes)
