"""Shares and means for routings that fit a mixture to the votes.

Shares and weights are kept as logarithms. An output capsule that is far from
all votes has shares too small for float32, and still a well-defined mean.

Axes: b example, i input capsule, j output capsule, f all numbers of a pose.
"""

import keras
import numpy as np
from keras import ops

from keras_capsules.routing.votes import highest_of
from keras_capsules.routing.votes import weighted_sum


def log_activations(activations, votes):
    """Logarithms of activations.

    An inactive input capsule counts for nothing and has no gradient. Its
    logarithm is finite, so that an output capsule that has only inactive inputs
    gets a pose as well.

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


def least_activation(dtype):
    """The smallest activation that counts.

    Gradients are up to its inverse, which a float16 has to hold.
    """
    is_half = keras.backend.standardize_dtype(dtype) == "float16"
    return float(np.finfo("float16").tiny) if is_half else 1e-7


def first_log_shares(votes, windows):
    """Logarithms of equal shares for all outputs of an input capsule.

    Args:
        votes: `[b, j, i, f]`.
        windows: A `Windows`, in which the output capsules are of all types at
            all positions; or `None`.

    Returns:
        `[b, j, i]`.
    """
    ones = ops.ones_like(votes[:, 0, :, 0])
    if windows is not None:
        ones = windows.sum(ones)
    shares = -ops.log(votes.shape[1] * ones)[:, None]
    return ops.broadcast_to(shares, ops.shape(votes)[:3])


def log_shares(logits, windows):
    """Shares each input capsule out among all its output capsules.

    Args:
        logits: Logarithms of what shares are proportional to, `[b, j, i]`.
        windows: A `Windows`, or `None`.

    Returns:
        Logarithms of the shares, `[b, j, i]`.
    """
    highest = highest_of(logits, axis=1)
    powers = ops.exp(logits - highest)
    total = highest + ops.log(ops.sum(powers, axis=1, keepdims=True))
    if windows is not None:
        total = windows.logsumexp(total[:, 0])[:, None]
    return logits - total


def collect(votes, log_masses):
    """Masses and means of the votes for each output capsule.

    Args:
        votes: `[b, j, i, f]`.
        log_masses: Logarithms of what each input capsule gives to each output
            capsule, `[b, j, i]`.

    Returns:
        Total masses `[b, j]`; weights proportional to the masses that sum to 1
        over the input capsules, `[b, j, i]`; and the means of the votes with
        these weights, `[b, j, f]`.
    """
    highest = highest_of(log_masses, axis=2)
    weights = ops.exp(log_masses - highest)
    total = ops.sum(weights, axis=2, keepdims=True)
    weights = weights / total
    masses = ops.squeeze(ops.exp(highest) * total, axis=2)
    return masses, weights, weighted_sum(weights, votes)
