"""Where in images support comes from, painted for one batch after the other."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_capsules.inspection import places
from keras_capsules.inspection.graph import Untraceable
from keras_capsules.inspection.spread import over_places
from keras_capsules.inspection.supports import Chain


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
            amounts = over_places(chain, values, amounts)
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
