"""From which places of their windows primary capsules get their poses."""

import math

import numpy as np

from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.places import scattered
from keras_capsules.inspection.places import unfolded
from keras_capsules.inspection.supports import Chain
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules
from keras_capsules.types import Tensor


def over_places(
    chain: Chain, values: dict[int, Tensor], amounts: np.ndarray
) -> np.ndarray:
    """Hands amounts down from primary capsules to the places of features.

    A capsule's part of each place of its window is linear in the features
    there. The amount of the capsule goes to the places in proportion to how
    long these parts are along the whole pose; or, if the capsule has an
    activation of its own, to how much they add to its logit.

    Args:
        chain: A `Chain` that ends in primary capsules.
        values: A batch that it read.
        amounts: `[b, capsules]`.

    Returns:
        `[b, places]`, with the same sums, as far as any place contributes.
    """
    layer, (features,) = chain.origin.layer, chain.origin.inputs
    features = chain.value(values, features)
    number, *size, channels = features.shape
    index = unfolded(size, layer)  # [P, k]
    features = features.reshape(number, -1, channels)
    features = np.pad(features, [(0, 0), (0, 1), (0, 0)])  # padding, index -1
    kernel, directions = _kernel_and_directions(chain, values)
    kernel = as_array(kernel).reshape(index.shape[1], channels, -1)
    types = layer.num_capsules
    lengths = np.zeros((number, len(index), types, index.shape[1]))
    for place, matrix in enumerate(kernel):
        seen = features[:, index[:, place]]  # [b, P, c]
        is_depthwise = getattr(layer, "depthwise", False)
        poses = seen * matrix[:, 0] if is_depthwise else seen @ matrix
        poses = poses.reshape(*seen.shape[:2], types, -1)
        lengths[..., place] = (poses * directions).sum(axis=-1)
    lengths = np.maximum(lengths, 0)
    total = lengths.sum(axis=-1, keepdims=True)
    shares = lengths / np.where(total > 0, total, 1)
    amounts = amounts.reshape(number, len(index), types, 1) * shares
    return scattered(amounts.sum(axis=2), index, math.prod(size))


def _kernel_and_directions(chain, values):
    """A kernel, and the directions of what it makes, `[b, P, types, d]`."""
    layer = chain.origin.layer
    if isinstance(layer, MatrixPrimaryCapsules):
        return layer.activation_kernel, 1.0
    poses = chain.value(values, chain.origin.outputs[0])
    poses = poses.reshape(len(poses), -1, *poses.shape[-2:])
    lengths = np.linalg.norm(poses, axis=-1, keepdims=True)
    return layer.kernel, poses / np.where(lengths > 0, lengths, 1)
