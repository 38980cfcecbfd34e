"""What routings of vector capsules do alike with logits and with sums."""

import math

import keras
from keras import ops

from keras_capsules._dtypes import at_least_float32


def softmax_over_parents(logits, leaky=False):
    """Shares every input capsule out among the parents.

    Computed in at least float32.

    Args:
        logits: `[j, b, i]`.
        leaky: Boolean, whether there is one more logit, constant at zero,
            whose share goes nowhere.

    Returns:
        Coefficients `[j, b, i]` of the dtype of `logits`, which sum to 1 over
        the parents, or to less if `leaky`.
    """
    dtype = logits.dtype
    logits = ops.cast(logits, at_least_float32(dtype))

    @ops.custom_gradient
    def softmax(logits):
        shares = _shares(logits, leaky)
        # PyTorch hands the logits over anew (see votes.py), and would never
        # free an output that its own gradient holds.
        kept = None if keras.backend.backend() == "torch" else shares

        def gradient(*args, upstream=None):
            if upstream is None:
                known, (upstream,) = kept, args
            else:
                known = _shares(*args, leaky)
            slopes = known * upstream
            return slopes - known * ops.sum(slopes, axis=0, keepdims=True)

        return shares, gradient

    return ops.cast(softmax(logits), dtype)


def _shares(logits, leaky):
    # By hand, which over a leading axis is a few times faster than
    # `ops.softmax`, which moves that axis to the end and back. The gradient
    # needs the shares alone, which mixing keeps anyway; that of these steps
    # would need another tensor of their size.
    highest = ops.max(
        ops.stop_gradient(logits),
        axis=0,
        keepdims=True,
        initial=-math.inf,  # for an empty batch
    )
    if leaky:
        highest = ops.maximum(highest, 0.0)
    powers = ops.exp(logits - highest)
    total = ops.sum(powers, axis=0, keepdims=True)
    if leaky:
        total = total + ops.exp(-highest)
    return powers / total


def add_bias_and_squash(poses, bias, squash):
    """Sums of votes `[j, b, p, e]` as capsules, in at least float32.

    Contractions of votes run in the dtype of the poses, and only they.

    Args:
        poses: Sums of votes.
        bias: The layer's bias, `[j, 1, p, e]`, or `None`.
        squash: Function of poses and of their axes.
    """
    poses = ops.cast(poses, at_least_float32(poses.dtype))
    if bias is not None:
        poses = poses + ops.cast(bias, poses.dtype)
    # A matrix pose is squashed as the vector of all its numbers.
    return squash(poses, axis=(2, 3))
