"""What routings do alike that fit a mixture of parents to the votes.

Shares and weights are kept as logarithms: a parent that is far from all votes
has shares that are no numbers of float32, and still a well-defined mean.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_capsules._dtypes import at_least_float32
from keras_capsules.votes import Votes


def in_full_precision(votes):
    """The same votes in at least float32.

    Distances are measured in standard deviations of the votes, to which the
    rounding of votes to 16 bits may be large.
    """
    dtype = at_least_float32(votes.poses.dtype)
    if keras.backend.standardize_dtype(votes.poses.dtype) == dtype:
        return votes
    return Votes(ops.cast(votes.poses, dtype), ops.cast(votes.kernel, dtype))


def log_activations(activations, votes):
    """Logarithms of the activations `[b, i]`; zeros if they are `None`.

    An inactive child counts for nothing and has no gradient. Its logarithm is
    a number still: so parents of inactive children only have a pose as well.
    """
    if activations is None:
        return ops.zeros_like(votes.poses[:, :, 0, 0])
    least = least_activation(activations.dtype)
    activations = ops.cast(activations, votes.poses.dtype)
    return ops.where(
        activations < least, -1e9, ops.log(ops.maximum(activations, least))
    )


def least_activation(dtype):
    """The smallest activation that counts.

    Gradients are up to its inverse, which a float16 has to hold.
    """
    is_half = keras.backend.standardize_dtype(dtype) == "float16"
    return float(np.finfo("float16").tiny) if is_half else 1e-7


def first_log_shares(votes, windows):
    """Logarithms of equal shares for all parents of a child, `[1, b, i]`.

    The parents are of all types and, in a convolution, at all positions.
    """
    ones = ops.ones_like(votes.poses[:, :, 0, 0])
    if windows is not None:
        ones = windows.sum(ones)
    return -ops.log(votes.num_outputs * ones)[None]


def log_shares(logits, windows):
    """Shares every child out among all its parents.

    Args:
        logits: Logarithms of what shares are proportional to, `[j, b, i]`.
        windows: A `keras_capsules._windows.Windows`, or `None`.

    Returns:
        Logarithms of the shares, `[j, b, i]`.
    """
    highest = ops.max(
        ops.stop_gradient(logits),
        axis=0,
        initial=-math.inf,  # for an empty batch
    )
    total = highest + ops.log(ops.sum(ops.exp(logits - highest), axis=0))
    if windows is not None:
        total = windows.logsumexp(total)
    return logits - total


def collect(votes, log_masses):
    """What parents have of their children.

    Args:
        votes: A `keras_capsules.votes.Votes`.
        log_masses: Logarithms of what each child gives to each parent,
            `[j, b, i]`; or `[1, b, i]`, the same for all parents, which takes
            one matrix product.

    Returns:
        Total masses `[j, b]`; weights proportional to the masses that sum to
        1 over the children, `[j, b, i]`; and the means of the votes with these
        weights, `[j, b, p, e]`.
    """
    highest = ops.max(
        ops.stop_gradient(log_masses), axis=2, keepdims=True, initial=-math.inf
    )
    weights = ops.exp(log_masses - highest)
    total = ops.sum(weights, axis=2, keepdims=True)
    weights = weights / total
    masses = (ops.exp(highest) * total)[:, :, 0]
    number = votes.num_outputs
    if weights.shape[0] == number:
        return masses, weights, votes.mix(weights)
    weighted = votes.poses * weights[0, :, :, None, None]
    _, batch, inputs = ops.shape(weights)
    return (
        ops.broadcast_to(masses, (number, batch)),
        ops.broadcast_to(weights, (number, batch, inputs)),
        Votes(weighted, votes.kernel).sum(),
    )
