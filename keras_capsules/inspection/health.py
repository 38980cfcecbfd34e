"""How the capsules of a network are, and what is wrong with it."""

from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules.inspection.diagnosis import DEAD
from keras_capsules.inspection.diagnosis import diagnose
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.images import check_images
from keras_capsules.inspection.kernels import kernels_of
from keras_capsules.inspection.measuring import Sums
from keras_capsules.inspection.measuring import makes_capsules
from keras_capsules.inspection.measuring import run
from keras_capsules.inspection.problems import Evidence
from keras_capsules.inspection.problems import Problem
from keras_capsules.inspection.scores import ScoreSums
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


class LayerHealth(NamedTuple):
    """What a layer of capsules makes of some images.

    Attributes:
        name: The name of the layer. A layer in a `CapsuleStack`, or in a model
            that is part of the model, has both names: `"stack/layer"`.
        activation: `(capsules,)`, the mean activation of each output capsule,
            or of each type of capsules at all positions. NaN if the routing
            makes poses alone.
        norm: `(3,)`, the least, the mean and the largest length of a pose.
        dead: `(capsules,)`, whether a capsule has no activation above 0.0005 in
            any image. Without activations, the lengths of poses count.
        coupling: `(capsules,)`, how much each output capsule receives from an
            input capsule on average, after the last iteration. `None` if the
            layer does not route, or its routing has no coupling.
        entropy: How evenly an input capsule divides itself in the last
            iteration, from 0 (all to one output) to 1 (to all alike); see
            `couplings`. `None` where `coupling` is.
    """

    name: str
    activation: np.ndarray
    norm: np.ndarray
    dead: np.ndarray
    coupling: np.ndarray | None
    entropy: float | None


class Health(NamedTuple):
    """How a network is.

    Attributes:
        layers: A tuple of `LayerHealth`, from the input to the output.
        problems: A tuple of `Problem`; empty if nothing is wrong.
        wins: `(classes,)`, for how many images each class has the highest
            score. `None` if the model does not return class scores, as the
            next two.
        own: `(classes,)`, the mean score of each class for the images that
            show it. NaN if there are none. `None` without labels.
        others: `(classes,)`, the mean score of each class for all others.
    """

    layers: tuple[LayerHealth, ...]
    problems: tuple[Problem, ...]
    wins: np.ndarray | None = None
    own: np.ndarray | None = None
    others: np.ndarray | None = None


def capsule_health(
    model: keras.Model,
    images: Tensor,
    labels: Tensor | None = None,
    batch_size: int = 128,
    verbose: int = 0,
) -> Health:
    """Measures how the capsules of a model are, and says what is wrong.

    `keras_capsules.callbacks.CapsuleHealth` does so in training, and lists all
    problems with their signs and remedies. Some need more than one look, such
    as a learning rate that is too high: the callback alone finds them.

    A new network is not sick because it is not trained yet. So routing by
    trained weights, which is uniform at first, is only called uniform after
    1000 steps of the optimizer that the model is compiled with, and a class
    is only called dead if most images of other classes are recognized.

    The layers are `PrimaryCapsules`, `MatrixPrimaryCapsules`, `CapsuleLayer`,
    `ConvCapsules1D` and the like, `ConvCapsules2DTranspose`,
    `SharedKernelConvCapsules2D`, those in a `CapsuleStack`, and `PoseScores`,
    also where they are in a model that is part of the model. They are called
    outside of `fit`, as in inference, and no state changes. The memory does not
    grow with the number of images.

    Args:
        model: A functional model with one input, such as a `CapsuleNetwork`, or
            a Sequential one that is built.
        images: `(images, ...)`, of the shape that the model takes: an array,
            a list or a tensor. At least one; a hundred or more show all
            classes often enough to judge them.
        labels: Integer, one-hot or multi-hot labels of the images. The model
            then has to return class scores `(images, classes)`. Integers out
            of range are a problem that is found. Defaults to `None`.
        batch_size: Positive integer. Defaults to `128`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        A `Health`.

    Raises:
        ValueError: If an argument is not as described, or the model has no
            layer of capsules.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    images = np.random.uniform(size=(5, 8, 8, 1)).astype("float32")
    health = inspection.capsule_health(model, images)
    primary, classes = health.layers
    primary.activation.shape, classes.coupling.shape  # (2,), (3,)
    for problem in health.problems:
        print(problem.layer, problem.message, problem.remedy)
    ```
    """
    # NaN is a problem to be found.
    images = check_images(model, images, at_least_one=True, finite=False)
    batch_size = check_integer(batch_size, "batch_size")
    verbose = int(check_boolean(verbose, "verbose"))
    look = _Look(model, images, labels)
    progress = keras.utils.Progbar(len(images), verbose=verbose)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        with keras.StatelessScope():  # so that nothing changes
            look.add(batch, start)
        progress.update(start + len(batch))
    return look.results()


class _Look:
    """A look at a model, batch by batch."""

    def __init__(self, model, images, labels):
        self.model, self.images = model, images
        self.graph = Graph(model)
        if not any(map(makes_capsules, self.graph.calls)):
            raise ValueError(
                "Invalid value for argument `model`. Expected a model with "
                "layers of capsules, such as CapsuleLayer. Received: the model "
                f"{model.name!r} with the layers "
                f"{[call.name for call in self.graph.calls]}"
            )
        self._scores = _score_sums(model, labels, len(images))
        kernels = {kernel.name for kernel in kernels_of(self.graph)}
        # The first that is given pixels: a normalization gives it others.
        self._first = None
        for call in self.graph.calls:
            if isinstance(call.layer, keras.layers.BatchNormalization):
                break
            if call.name in kernels:
                self._first = call
                break
        self._pixels = np.inf, -np.inf
        self._layers: dict[str, Sums] = {}
        self._broken: Any = None

    def add(self, batch, start):
        (symbol,) = self.graph.inputs
        values = {id(symbol): ops.convert_to_tensor(batch, dtype=symbol.dtype)}
        # Layer by layer, so that each runs once, with its coupling.
        for call in self.graph.calls:
            outputs, made = run(self.graph, call, values)
            tensors = keras.tree.flatten(outputs)
            values.update(zip(map(id, call.outputs), tensors, strict=True))
            self._look_at(call, tensors, values)
            for each in made:
                self._layers.setdefault(each.name, Sums(each)).add(each)
        if self._scores is not None:
            scores = self.graph.value(values, self.model.outputs[0])
            self._scores.add(as_array(scores), start)

    def _look_at(self, call, tensors, values):
        if call is self._first:
            pixels = as_array(self.graph.value(values, call.inputs[0]))
            least, most = self._pixels
            self._pixels = min(least, pixels.min()), max(most, pixels.max())
        if self._broken is not None:
            return
        numbers = np.concatenate([as_array(each).ravel() for each in tensors])
        finite = np.isfinite(numbers)
        if not finite.all():
            weights = getattr(call.layer, "weights", [])
            known = [np.isfinite(as_array(each)).all() for each in weights]
            self._broken = call.name, 1 - finite.mean(), all(known)

    def results(self):
        layers, scores = list(self._layers.values()), self._scores
        pixels = None
        if self._first is not None:
            pixels = (self._first.name, *map(float, self._pixels))
        problems = diagnose(
            Evidence(
                self.model,
                self.graph,
                layers,
                self.images,
                pixels,
                self._broken,
                scores,
            )
        )
        found = tuple(
            LayerHealth(
                name=sums.name, dead=~(sums.highest > DEAD), **sums.results()
            )
            for sums in layers
        )
        if scores is None:
            return Health(found, problems)
        if not scores.has_labels:
            return Health(found, problems, scores.wins)
        return Health(found, problems, scores.wins, scores.own, scores.others)


def _score_sums(model, labels, number):
    """A `ScoreSums`, or `None` if the model does not return scores."""
    shapes = [tuple(x.shape) for x in model.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1]:
        return ScoreSums(shapes[0][1], labels, number)
    if labels is not None:
        raise ValueError(
            "Labels are compared with class scores. Expected a model whose "
            "output is of shape (images, classes), or labels=None. Received: "
            f"outputs of shapes {shapes}"
        )
    return None
