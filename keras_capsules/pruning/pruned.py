"""Networks without the capsules that contribute least."""

from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.images import check_images
from keras_capsules.inspection.routes import pose_axes
from keras_capsules.layers.capsule_layer import CapsuleLayer
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.pruning.chains import Chain
from keras_capsules.pruning.chains import find_chain
from keras_capsules.pruning.plans import check_prunable
from keras_capsules.pruning.plans import without_capsules
from keras_capsules.pruning.plans import without_types
from keras_capsules.pruning.rebuild import Changes
from keras_capsules.pruning.rebuild import check_not_quantized
from keras_capsules.pruning.rebuild import rebuild
from keras_capsules.pruning.sample import sample
from keras_capsules.types import Tensor
from keras_capsules.utils.labels import to_multi_hot
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


class Pruned(NamedTuple):
    """A network without some of its capsules.

    Attributes:
        model: The new network. It is not compiled.
        layer: The name of the layer whose capsules were removed.
        kept: `(kept,)`, the numbers of the types or capsules that are left, in
            ascending order.
        removed: `(removed,)`, the numbers of the others.
        scores: `(types,)` or `(capsules,)`, how much each contributed.
        parameters: The share of the network's parameters that is left, without
            the decoder.
        votes: The share of the votes in the layer above that is left.
    """

    model: keras.Model
    layer: str
    kept: np.ndarray
    removed: np.ndarray
    scores: np.ndarray
    parameters: float
    votes: float


def prune(
    model: keras.Model,
    images: Tensor,
    fraction: float,
    unit: str = "type",
    layer: str | None = None,
    labels: Tensor | None = None,
    batch_size: int = 128,
    verbose: int = 0,
) -> Pruned:
    """Removes the capsules of a layer that contribute least.

    Primary capsules are many, and most contribute little. They are ranked over
    a sample of images, and a new network is made of the others, with the same
    weights. The new network computes what the old one would if the votes of the
    removed capsules, and their activations, were zero.

    ```
    score_i = mean over images of a_i (sum over j of c_ij a_j)
    ```

    for input capsules i and output capsules j of the layer above: a capsule
    counts as far as it is active, and goes to output capsules that are active.
    a is the activation or the length of a capsule, c_ij the coupling after the
    last iteration. With `labels`, the labelled classes count instead of those
    that are active. In a convolution the mean is also over windows.

    - `unit="type"` removes capsule types, at all positions. The layer that
      makes them shrinks, with the convolution in front of depthwise primary
      capsules, and so does the layer above. The score of a type is the mean
      over positions.
    - `unit="capsule"` removes single capsules. The layer that makes them stays.
      A `CapsuleSelection` is put below the layer above, which shrinks.

    Choose images of the training set, with all classes. The error before
    fine-tuning says how good the choice was, the error after it how good the
    network is: compile and fit the new network with a small learning rate. A
    pruned network can be pruned again.

    In two cases the new network does not compute what the old one would with
    votes of zero:

    - Output capsules of a layer that routes (`layer="conv_capsules_1"`, say)
      compete for its input capsules. If types among them are removed, the
      others receive what those got.
    - A routing of your own may compute with the number of input capsules. Of
      those in this package only `EMRouting(cost_scale="normalized")` does, and
      it gets the number of before as its `cost_scale`.

    Notation: the ranking of primary capsules by an estimate of what they
    contribute is the idea of
    [PrunedCaps, 2025](https://arxiv.org/abs/2512.06003), which estimates it by
    the gradient of the loss. The score here is our own.

    Args:
        model: A `CapsuleNetwork`, or another functional or Sequential model
            with a `CapsuleLayer` or `ConvCapsules` above primary capsules. It
            stays as it is.
        images: Images of the shape that the model takes, some hundreds.
        fraction: Number from 0 to 1, the share of capsules to remove. The
            number of them is rounded, and at least one stays.
        unit: `"type"` or `"capsule"`. Defaults to `"type"`.
        layer: The name of the layer whose capsules are removed:
            `PrimaryCapsules`, `MatrixPrimaryCapsules`, `ConvCapsules2D` and the
            like, or `CapsuleLayer`. Defaults to `None`, the primary capsules.
        labels: Optional integer, one-hot or multi-hot labels of the images, if
            the layer above makes the class capsules.
        batch_size: Positive integer. Defaults to `128`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        A `Pruned`. The new network has the class of the old one, if the
        arguments of that class can express the change: types of `CapsNet`,
        `EfficientCapsNet` and `MatrixCapsNet`, except where a `cost_scale` of
        single layers changes. Otherwise it is a `CapsuleNetwork` with the same
        decoder and `reconstruction_weight`; or a functional model if `model` is
        no `CapsuleNetwork`. It is not compiled, whatever `model` is.

    Raises:
        ValueError: If an argument is not as described, or the network cannot be
            pruned there; the message says why.

    Example:

    ```python
    import numpy as np
    from keras_capsules import pruning
    from keras_capsules.models import CapsNet

    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    model = CapsNet((8, 8, 1), 3, filters=8, num_primary_capsules=8)
    smaller = pruning.prune(model, images, 0.5)
    smaller.kept  # 4 numbers from 0 to 7
    smaller.model.num_primary_capsules  # 4

    smallest = pruning.prune(smaller.model, images, 0.9, unit="capsule")
    smallest.votes  # 0.125, of 16 capsules 2 are left
    ```
    """
    images = check_images(model, images, at_least_one=True)
    fraction = check_number(fraction, "fraction", minimum=0, maximum=1)
    check_choice(unit, "unit", ("type", "capsule"))
    batch_size = check_integer(batch_size, "batch_size")
    verbose = int(check_boolean(verbose, "verbose"))
    check_not_quantized(model)
    graph = Graph(model)
    chain = find_chain(graph, model, layer)
    check_prunable(chain, unit)
    wanted = _check_labels(labels, len(images), chain, model)
    rows = _score(model, chain, images, wanted, batch_size, verbose)
    types = _types_of(chain, len(rows))
    scores = _of_types(rows, types, chain) if unit == "type" else rows
    order = np.argsort(scores, kind="stable")
    number = min(round(fraction * len(scores)), len(scores) - 1)
    removed, kept = np.sort(order[:number]), np.sort(order[number:])
    if not number:
        changes = Changes({}, options={})
    elif unit == "type":
        changes = without_types(model, graph, chain, kept, len(rows))
    else:
        changes = without_capsules(chain, kept, len(rows))
    new = rebuild(model, changes)
    voters = np.arange(len(rows)) if unit == "capsule" else types
    return Pruned(
        new,
        chain.made.name,
        kept,
        removed,
        scores,
        _parameters(new) / _parameters(model),
        float(np.isin(voters, kept).mean()),
    )


def _check_labels(labels, number, chain, model):
    """Labels as `(images, classes)`, or `None`."""
    if labels is None:
        return None
    layer = chain.routed.layer
    if not isinstance(layer, CapsuleLayer) or tuple(model.output_shape[1:]) != (
        layer.num_capsules,
    ):
        raise ValueError(
            "Labels are of classes. Expected labels=None, because the capsules "
            f"of {chain.made.name!r} do not vote for class capsules. Received: "
            f"labels={type(labels).__name__}, and votes in {layer.name!r}"
        )
    shape = (number, layer.num_capsules)
    return ops.convert_to_numpy(to_multi_hot(labels, shape, "labels"))


def _score(model, chain, images, labels, batch_size, verbose):
    """The scores of the capsules that vote for an output capsule, `[i]`."""
    total, count = 0.0, 0
    for batch in sample(model, chain.routed, images, batch_size, verbose):
        outputs = batch.outputs if labels is None else labels[batch.images]
        received = np.einsum("bij,bj->bi", batch.coupling, outputs)
        scores = batch.activations * received
        total = total + scores.sum(axis=0, dtype="float64")
        count += len(scores)
    scores = np.asarray(total / count)
    if not np.isfinite(scores).all():
        raise ValueError(
            "Capsules have to be finite to be ranked. Expected images without "
            "NaN, and a network whose training has not failed. Received: "
            f"scores that are not finite, of {chain.made.name!r}"
        )
    return scores


def _types_of(chain: Chain, number: int) -> np.ndarray:
    """The types of the capsules that vote for an output capsule, `[i]`."""
    indices = np.arange(number)
    if chain.selection is not None:
        indices = np.array(chain.selection.layer.indices)
    made: Any = chain.made.layer
    return indices % made.num_capsules


def _of_types(rows, types, chain):
    """The mean score of each type over its positions."""
    made = chain.made.layer
    positions = len(rows) / made.num_capsules
    if chain.selection is not None:  # what was removed contributes nothing
        shape = chain.made.outputs[0].shape[1 : -pose_axes(made)]
        positions = np.prod(shape) / made.num_capsules
    totals = np.bincount(types, rows, minlength=made.num_capsules)
    return totals / positions


def _parameters(model):
    is_capsules = isinstance(model, CapsuleNetwork)
    return (model.encoder if is_capsules else model).count_params()
