"""Sums, products and shares of votes: what routings are made of.

Axes: b example, i input capsule, j output capsule, f all numbers of a pose.
"""

import math

from keras import ops

from keras_capsules.engine.compilation import in_torch


def weighted_sum(weights, votes):
    """Sums the votes for each output capsule.

    Args:
        weights: Weights of the votes, `[b, j, i]`.
        votes: `[b, j, i, f]`.

    Returns:
        `[b, j, f]`.
    """
    # PyTorch's gradients of products with a single row are slow.
    if in_torch():
        return ops.sum(weights[..., None] * votes, axis=2)
    return ops.squeeze(ops.matmul(weights[:, :, None], votes), axis=2)


def total(votes):
    """Sums the votes for each output capsule, all alike.

    Args:
        votes: `[b, j, i, f]`.

    Returns:
        `[b, j, f]`.
    """
    # A product, because XLA would make the votes once more inside of a sum.
    return weighted_sum(ops.ones_like(votes[..., 0]), votes)


def agreement(votes, targets):
    """Inner products of the votes with a target for each output capsule.

    Args:
        votes: `[b, j, i, f]`.
        targets: `[b, j, f]`.

    Returns:
        `[b, j, i]`.
    """
    if in_torch():
        return ops.sum(votes * targets[:, :, None], axis=3)
    return ops.squeeze(ops.matmul(votes, targets[..., None]), axis=3)


def softmax_over_outputs(logits, leaky=False):
    """Shares each input capsule out among the output capsules.

    Args:
        logits: `[b, j, i]`.
        leaky: Boolean, whether there is one more logit, constant at zero, whose
            share goes nowhere. Defaults to `False`.

    Returns:
        Coefficients `[b, j, i]`, which sum to 1 over the output capsules, or to
        less if `leaky`.
    """
    # Written out, because `ops.softmax` over an axis in the middle measured
    # slower on every backend.
    highest = highest_of(logits, axis=1)
    if leaky:
        highest = ops.maximum(highest, 0.0)
    powers = ops.exp(logits - highest)
    total = ops.sum(powers, axis=1, keepdims=True)
    if leaky:
        total = total + ops.exp(-highest)
    return powers / total


def full_coupling(votes, share):
    """The same coupling coefficient for all votes, `[b, j, i]`."""
    return ops.full_like(votes[..., 0], share)


def highest_of(logits, axis):
    """The largest entries along an axis, which stays, as constants."""
    return ops.max(
        ops.stop_gradient(logits),
        axis=axis,
        keepdims=True,
        initial=-math.inf,  # for an empty batch
    )
