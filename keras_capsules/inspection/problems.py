"""Problems, and the measurements in which they are found."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.measuring import Sums
from keras_capsules.inspection.scores import ScoreSums


class Problem(NamedTuple):
    """Something that is wrong with a network, or with its data.

    Attributes:
        name: A short name, see `keras_capsules.callbacks.CapsuleHealth`.
        layer: The name of the layer where it is seen, or `"images"`.
        message: A sentence that says what was seen, and what was expected.
        remedy: A sentence that says what to do.
    """

    name: str
    layer: str
    message: str
    remedy: str


class Evidence(NamedTuple):
    """All that was measured.

    Attributes:
        model: The model.
        graph: Its `Graph`.
        layers: A `Sums` for each layer of capsules.
        images: `(images, ...)`, the images.
        pixels: The name of the first layer with a kernel, and the least and
            the largest value that it is given; or `None`.
        broken: The name of the first layer whose output is not finite, the part
            of it that is not, and whether its weights are; or `None`.
        scores: A `ScoreSums`, or `None` if the model has no class scores.
    """

    model: keras.Model
    graph: Graph
    layers: list[Sums]
    images: np.ndarray
    pixels: tuple[str, float, float] | None
    broken: tuple[str, float, bool] | None
    scores: ScoreSums | None

    @property
    def steps(self) -> int:
        """The number of steps in which the model was trained."""
        return steps_of(self.model)

    @property
    def output(self) -> str:
        """The name of the layer whose output is the model's."""
        call = self.graph.maker(self.model.outputs[0])
        return self.model.name if call is None else call.name


def steps_of(model: keras.Model) -> int:
    """The number of training steps of a model's optimizer, if it has one."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 0
    # A tensor, because NumPy warns of variables of TensorFlow.
    steps = ops.cast(optimizer.iterations, "int32")
    return int(ops.convert_to_numpy(steps))
