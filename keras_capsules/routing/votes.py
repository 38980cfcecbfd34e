"""Sums, inner products and shares of votes, for use in `Routing.route`.

Axes: b batch, i input capsule, j output capsule, f all numbers of a pose.
"""

import math

from keras import ops

from keras_capsules.engine.compilation import by_transposed
from keras_capsules.engine.compilation import in_torch
from keras_capsules.types import Tensor


def weighted_sum(weights: Tensor, votes: Tensor) -> Tensor:
    """Sums the votes for each output capsule, with weights.

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


def total(votes: Tensor) -> Tensor:
    """Sums the votes for each output capsule, without weights.

    Args:
        votes: `[b, j, i, f]`.

    Returns:
        `[b, j, f]`.
    """
    # A product, because XLA would make the votes once more inside of a sum.
    return weighted_sum(ops.ones_like(votes[..., 0]), votes)


def agreement(votes: Tensor, targets: Tensor) -> Tensor:
    """Computes inner products of votes with a target per output capsule.

    Args:
        votes: `[b, j, i, f]`.
        targets: `[b, j, f]`.

    Returns:
        `[b, j, i]`.
    """
    if in_torch():
        return ops.sum(votes * targets[:, :, None], axis=3)
    return ops.squeeze(by_transposed(targets[:, :, None], votes), axis=2)


def softmax_over_outputs(logits: Tensor, leaky: bool = False) -> Tensor:
    """Computes the softmax of logits over the output capsules.

    Args:
        logits: `[b, j, i]`.
        leaky: Boolean, whether the softmax has one more logit, constant at
            zero, whose share no output capsule receives. Defaults to `False`.

    Returns:
        Coefficients, `[b, j, i]`. The coefficients of an input capsule sum to
        1, or to less than 1 if `leaky`.
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


def full_coupling(votes: Tensor, share: float) -> Tensor:
    """Fills coupling coefficients with one number.

    Args:
        votes: `[b, j, i, f]`.
        share: The number, such as one over the number of output capsules.

    Returns:
        `[b, j, i]`.
    """
    return ops.full_like(votes[..., 0], share)


def highest_of(logits: Tensor, axis: int) -> Tensor:
    """Finds the largest entries along an axis, as constants to the gradient.

    Args:
        logits: A tensor.
        axis: Integer, the axis, which is kept with size 1.

    Returns:
        The largest entries; `-inf` for an empty batch.
    """
    highest = ops.max(
        ops.stop_gradient(logits),
        axis=axis,
        keepdims=True,
        initial=-math.inf,  # for an empty batch
    )
    # Again, because TensorFlow would compute a gradient of the maximum first.
    return ops.stop_gradient(highest)
