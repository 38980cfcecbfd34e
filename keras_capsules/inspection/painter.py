"""Where in images support comes from, painted for one batch after the other."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_capsules.inspection import places
from keras_capsules.inspection.graph import Untraceable
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.supports import Chain
from keras_capsules.layers.matrix_primary_capsules import MatrixPrimaryCapsules


class Painter:
    """Paints support for one batch after the other, as `support_map` does.

    Args:
        model: See `support_map`.
        compiled: See `Graph.reader`.

    Raises:
        Untraceable: If the model does not end in class capsules, or it is not
            known which pixels the lowest capsules see.
    """

    def __init__(self, model: keras.Model, compiled: bool = False):
        self._chain = Chain(model, compiled)
        self._grids = _check_places(self._chain)

    @property
    def num_classes(self) -> int:
        return self._chain.num_classes

    def paint(
        self, images: np.ndarray, classes: Sequence[int] | None = None
    ) -> np.ndarray:
        """Paints onto images.

        Args:
            images: A batch for the model, as `check_images` returns it.
            classes: For each image a class, an integer from 0 to
                `num_classes - 1`; `None` for the winners. They are not checked.

        Returns:
            `(batch, height, width)`, see `support_map`.

        Raises:
            Untraceable: If a routing has no coupling coefficients.
            ValueError: If scores are not finite.
        """
        chain = self._chain
        values = chain.read(images)
        scores = chain.scores(values)
        winners = scores.argmax(axis=1) if classes is None else classes
        amounts = np.eye(chain.num_classes)[list(winners)]
        levels = chain.levels(values)
        axes = [level.outputs for level in levels[1:]]
        axes.append(chain.lowest_axes(values))
        for level, below in zip(levels, axes, strict=True):
            amounts = level.below(amounts, math.prod(below))
        if chain.is_primary:
            amounts = _over_places(chain, values, amounts)
        painted = places.paint(self._grids, amounts, images.shape[1:3])
        total = painted.sum(axis=(1, 2), keepdims=True)
        some = total > 0
        painted = np.where(some, painted / np.where(some, total, 1), 0)
        return painted.astype("float32")


def _check_places(chain):
    """The grids to paint on."""
    grids = chain.painted
    if isinstance(grids, str):
        raise Untraceable(
            "It is not known which pixels the lowest capsules see. Expected "
            "a model of convolutions, poolings, normalizations, activations "
            "and sums of them on the same grid, with a known image size and "
            f"channels last, up to the layer {chain.names[-1]!r}. Received: a "
            f"model with {chain.kind_of(grids)}, which is not followed"
        )
    return grids


def _over_places(chain, values, amounts):
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
    index = places.unfolded(size, layer)  # [P, k]
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
    return places.scattered(amounts.sum(axis=2), index, math.prod(size))


def _kernel_and_directions(chain, values):
    """A kernel, and the directions of what it makes, `[b, P, types, d]`."""
    layer = chain.origin.layer
    if isinstance(layer, MatrixPrimaryCapsules):
        return layer.activation_kernel, 1.0
    poses = chain.value(values, chain.origin.outputs[0])
    poses = poses.reshape(len(poses), -1, *poses.shape[-2:])
    lengths = np.linalg.norm(poses, axis=-1, keepdims=True)
    return layer.kernel, poses / np.where(lengths > 0, lengths, 1)
