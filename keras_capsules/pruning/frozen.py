"""Networks with fixed coupling instead of routing."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules import routing as routings
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.images import check_images
from keras_capsules.pruning.coupling import check_finite
from keras_capsules.pruning.coupling import mean_coupling
from keras_capsules.pruning.freezable import ACTIVATIONS
from keras_capsules.pruning.freezable import find
from keras_capsules.pruning.rebuild import Changes
from keras_capsules.pruning.rebuild import check_not_quantized
from keras_capsules.pruning.rebuild import rebuild
from keras_capsules.pruning.rebuild import routing_options
from keras_capsules.routing import FixedRouting
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


class FrozenLayer(NamedTuple):
    """How much the coupling of a layer depends on the input.

    Attributes:
        name: The name of the layer.
        dependence: The share of its vote that an input capsule gives to other
            output capsules than it does on average, from 0 (the coupling is the
            same for all images) to 1. `None` if the layer cannot be frozen.
        change: By how much the scores change on average, if the coupling of
            this layer alone is fixed. `None` if the layer cannot be frozen.
        frozen: Whether the routing of this layer was replaced.
        reason: Why not; `None` if it was.
    """

    name: str
    dependence: float | None
    change: float | None
    frozen: bool
    reason: str | None = None


class Frozen(NamedTuple):
    """A network with fixed coupling.

    Attributes:
        model: The new network. It is not compiled.
        layers: A tuple of a `FrozenLayer` for each layer, from the input to
            the output.
        change: By how much the scores of `model` differ on average from those
            of the old network.
    """

    model: keras.Model
    layers: tuple[FrozenLayer, ...]
    change: float


def freeze_routing(
    model: keras.Model,
    images: Tensor,
    layers: Sequence[str] | None = None,
    limit: float = 0.1,
    batch_size: int = 128,
    verbose: int = 0,
) -> Frozen:
    """Replaces routing by fixed coupling where it hardly depends on the input.

    The fixed coupling is the mean over a sample of images. A `FixedRouting`
    takes the place of the routing: the same weighted sum of votes, with the
    mean coupling as weights, and the same squash. It has no iterations and no
    votes to make, and runs as one product of matrices.

    How much a coupling depends on the input is the mean total variation:

    ```
    dependence = mean over images and i of d_i
    d_i = (sum over j of |c_ij - mean of c_ij over the other images|) / 2
    ```

    for input capsules i and output capsules j. The image itself does not count
    in the mean, so that few images do not look alike because they are few. In a
    convolution, the mean is also over windows. Capsules in its padding do not
    count, nor do those that a mask excludes. The coupling of
    `DynamicRouting(num_iterations=1)` is always the same, and the new network
    computes the same as the old one. The trained `coupling_bias` of
    `SelfAttentionRouting` becomes part of the fixed coupling. Layers in a
    `CapsuleStack`, `ConvCapsules2DTranspose` and `SharedKernelConvCapsules2D`
    keep their routing, and so do layers with an unknown number of input
    capsules.

    The sample should be of the training set, with all classes. Fine-tuning
    afterwards trains the kernel, not the coupling.

    Args:
        model: A `CapsuleNetwork`, or another functional or Sequential model
            with class scores as its only output. It stays as it is.
        images: Images of the shape that the model takes, some hundreds; at
            least two. If a mask excludes input capsules, such as the padding of
            sequences, each one has to count in some of them.
        layers: Optional sequence of names of `CapsuleLayer`s and
            `ConvCapsules2D`s and the like, with `DynamicRouting` or
            `SelfAttentionRouting`. The poses of other routings are no
            activation of a sum of votes. Defaults to `None`, all layers for
            which this is so and which do not have a `FixedRouting` yet. Other
            layers then keep their routing, and the result says why.
        limit: Number from 0 to 1. Layers whose coupling depends more than this
            on the input keep their routing. Defaults to `0.1`.
        batch_size: Positive integer. Defaults to `128`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        A `Frozen`. The new network has the class of the old one, if that has
        an argument `routing` which all its layers that route share. Otherwise
        it is a `CapsuleNetwork` with the same decoder; or a functional model if
        `model` is no `CapsuleNetwork`.

    Raises:
        ValueError: If an argument is not as described, scores or coupling are
            not finite, a mask excludes an input capsule from all images, or
            none of the layers, or one of those that are named, can be frozen;
            the message says why.

    Example:

    ```python
    import numpy as np
    from keras_capsules import pruning
    from keras_capsules.models import CapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    frozen = pruning.freeze_routing(model, images)
    frozen.layers[0].name  # "class_capsules"
    frozen.layers[0].dependence, frozen.change  # small: it is not trained
    scores = frozen.model.predict(images, verbose=0)  # (20, 3)
    ```
    """
    images = _check_images(model, images)
    limit = check_number(limit, "limit", minimum=0, maximum=1)
    batch_size = check_integer(batch_size, "batch_size")
    verbose = int(check_boolean(verbose, "verbose"))
    check_not_quantized(model)
    graph = Graph(model)
    calls, reasons = find(graph, layers)
    before = _scores(model, images, batch_size)
    check_finite(before, "scores that are not finite")

    def frozen(couplings):
        """A network with these couplings, and the change of its scores."""
        new = rebuild(model, _changes(model, graph, calls, couplings))
        difference = _scores(new, images, batch_size) - before
        return new, float(np.abs(difference).mean())

    found, couplings = [], {}
    for name, reason in reasons.items():
        if reason is not None:
            found.append(FrozenLayer(name, None, None, False, reason))
            continue
        coupling, dependence = mean_coupling(
            model, calls[name], images, batch_size, verbose
        )
        _, change = frozen({name: coupling})
        if dependence <= limit:
            couplings[name] = coupling
        else:
            reason = (
                "Its coupling depends on the input by more than limit="
                f"{limit:g}."
            )
        found.append(
            FrozenLayer(name, dependence, change, reason is None, reason)
        )
    new, change = frozen(couplings)
    return Frozen(new, tuple(found), change)


def _check_images(model, images):
    """Returns images as an array, or raises if there are too few."""
    images = check_images(model, images, at_least_one=True)
    if len(images) < 2:
        raise ValueError(
            "One image does not say how much coupling depends on the image. "
            "Expected at least two images, better some hundreds. Received: "
            f"images.shape={images.shape}"
        )
    return images


def _changes(model, graph, calls, couplings):
    """The changes of a network that fix these couplings."""
    new = {
        name: FixedRouting(ACTIVATIONS[type(calls[name].layer.routing)])
        for name in couplings
    }
    return Changes(
        {
            name: {"routing": routings.serialize(each)}
            for name, each in new.items()
        },
        weights={
            name: functools.partial(_assign, coupling)
            for name, coupling in couplings.items()
        },
        options=routing_options(model, graph, new),
    )


def _assign(coupling, old, new):
    """Gives a layer with fixed coupling its weights."""
    new.kernel.assign(old.kernel)
    if old.bias is not None:
        new.bias.assign(old.bias)
    coupling = coupling.T
    added = old.routing_weights.get("coupling_bias")
    if added is not None:
        coupling = coupling + ops.convert_to_numpy(added)
    new.routing_weights["coupling"].assign(coupling)


def _scores(model, images, batch_size):
    function = keras.Model(model.inputs[0], model.outputs)
    scores = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        outputs = keras.tree.flatten(function(part, training=False))
        flat = [as_array(x).reshape(len(part), -1) for x in outputs]
        scores.append(np.concatenate(flat, axis=1))
    return np.concatenate(scores)
