"""Which parts of an image a class is made of, as a tree and as a map."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_capsules.inspection import places
from keras_capsules.inspection.images import check_image
from keras_capsules.inspection.images import check_images
from keras_capsules.inspection.painter import Painter
from keras_capsules.inspection.supports import Chain
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


class Part(NamedTuple):
    """A capsule, and the capsules that support it most.

    Attributes:
        layer: The name of the layer that makes the capsule, as in
            `LayerCouplings`.
        index: Which of its capsules it is, a tuple of integers: its position
            and its type, such as `(y, x, type)`, or `(class,)`.
        activation: The length of its pose, or its activation; of a class, its
            score.
        share: Its share in the support of the capsule that it is a part of,
            from 0 to 1. Of a class, 1.
        box: The pixels that can change it, `(top, left, bottom, right)`, the
            last two excluded; zeros if there are none, because it sees only
            padding; `None` if this is not known.
        parts: Its parts, the strongest first; an empty tuple for the lowest
            capsules.
    """

    layer: str
    index: tuple[int, ...]  # type: ignore[assignment]
    activation: float
    share: float
    box: tuple[int, int, int, int] | None
    parts: tuple["Part", ...]


def parse_tree(
    model: keras.Model,
    image: Tensor,
    classes: int | Sequence[int] | None = None,
    num_parts: int = 5,
) -> tuple[Part, ...]:
    """Takes an image apart: a class, its parts, and their parts.

    Each capsule is supported by some capsules of the layer below. The strongest
    ones are its parts. So a network carves a parse tree out of its capsules,
    for each image another one.

    The support that a capsule j gets from an input capsule i is

    - for routings that add up votes, such as dynamic, self-attention and
      inverted attention routing: the length of `c_ij V_ij` along the sum of all
      of them. All lengths sum to the length of this sum, from which the pose is
      made. (The `coupling_bias` of self-attention is added to c_ij.)
    - for routings that average votes, such as EM: `c_ij a_i`, how much of the
      activation of i goes to j.

    where c_ij are the coupling coefficients of the last iteration, V_ij the
    votes and a_i the activations. A vote against j supports nothing. Shares are
    parts of the sum of all supports.

    Parts are looked for through `CapsuleLayer`, `ConvCapsules2D` and those in a
    `CapsuleStack`, as long as a layer gets its capsules from the one before,
    possibly through layers that change each capsule by itself, such as
    normalizations, or that keep some of them (`CapsuleSelection`). The lowest
    parts are the primary capsules. In `DeepCaps`, they are the capsules of the
    last two cells: those are sums of several layers.

    Boxes are known through convolutions, poolings, normalizations, activations
    and sums of them on the same grid, as long as the channels are last; and
    through dense layers and indexing that leave the places alone. They say what
    a capsule sees at most, not what it looks at: see `support_map`. Statistics
    of normalizations and of squeeze and excitation are not counted.

    Notation: parse trees are carved out of the network by routing in the
    introduction of [Sabour et al., 2017](https://arxiv.org/abs/1710.09829).

    Args:
        model: A functional model with one input and class capsules, such as a
            `CapsuleNetwork`.
        image: `(height, width, channels)`, of the shape that the model takes.
        classes: Integer or sequence of integers, the classes to take apart.
            Defaults to `None`, the class with the highest score.
        num_parts: Positive integer, how many parts of each capsule are kept.
            Defaults to `5`. Those without any support are left out.

    Returns:
        A tuple of one `Part` for each class.

    Raises:
        ValueError: If an argument is not as described, the model does not end
            in class capsules, or a routing has no coupling coefficients.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    image = np.random.uniform(size=(8, 8, 1)).astype("float32")
    (tree,) = inspection.parse_tree(model, image, num_parts=2)
    strongest, second = tree.parts
    strongest.layer, strongest.index  # "primary_capsules" and (y, x, type)
    strongest.box  # (top, left, bottom, right)
    ```
    """
    images = check_image(model, image)
    num_parts = check_integer(num_parts, "num_parts")
    chain = Chain(model)
    values = chain.read(images)
    levels = chain.levels(values)
    scores = chain.scores(values)[0]
    chosen = [int(scores.argmax())]
    if classes is not None:
        chosen = _check_classes(classes, len(scores))
    # The axes of the capsules of each level.
    axes = [level.outputs for level in levels] + [chain.lowest_axes(values)]

    def part(depth, index, activation, share):
        """The capsule with this flat index at a level."""
        where = chain.places[depth]
        box = None
        if not isinstance(where, str):
            box = places.box_of(where, index)
        parts = []
        if depth < len(levels):
            level = levels[depth]
            place, output = divmod(index, level.shares.shape[2])
            shares = level.shares[0, place, output]
            strongest = np.argsort(-shares, kind="stable")[:num_parts]
            sources = level.sources[place]
            parts = [
                part(
                    depth + 1,
                    sources[n],
                    level.activations[0, place, n],
                    shares[n],
                )
                for n in strongest
                if shares[n] > 0
            ]
        indices = map(int, np.unravel_index(index, axes[depth]))
        return Part(
            chain.names[depth],
            tuple(indices),
            float(activation),
            float(share),
            box,
            tuple(parts),
        )

    return tuple(part(0, each, scores[each], 1.0) for each in chosen)


def support_map(
    model: keras.Model,
    images: Tensor,
    classes: int | Sequence[int] | None = None,
    batch_size: int = 32,
    verbose: int = 0,
) -> np.ndarray:
    """Paints where in images the support of a class comes from.

    The support of a class capsule is handed down from layer to layer, in the
    shares of `parse_tree`, to the primary capsules. A primary capsule is a
    linear function of a window of features. Its support goes to the places of
    this window, in proportion to how long the part of the pose that comes from
    a place is along the pose of the capsule. At last each place is painted onto
    the image as a spot around the middle of the pixels that it sees. Spots
    reach as far as the next ones.

    What the map does not show: which pixels of such a spot matter, because
    convolutions below the primary capsules are not looked into; and votes and
    features that count against the class. It may show support from where
    nothing is: biases and normalizations make features of empty regions, too,
    which is how a network knows a 1 by the space around it.

    If the lowest capsules that are routed are not made by `PrimaryCapsules` or
    `MatrixPrimaryCapsules`, as in `DeepCaps`, the spots are those of the
    capsules.

    Args:
        model: As in `parse_tree`. All its layers up to the lowest capsules have
            to be ones through which boxes are known.
        images: `(images, height, width, channels)`, of the shape that the model
            takes.
        classes: Integer, a class; or one for each image. Defaults to `None`,
            the class with the highest score.
        batch_size: Positive integer. Defaults to `32`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        `(images, height, width)`, numbers of at least 0, whose sum over an
        image is 1; or 0, if nothing supports the class.

    Raises:
        ValueError: If an argument is not as described, the model does not end
            in class capsules, a routing has no coupling coefficients, or it is
            not known which pixels the lowest capsules see.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    images = np.random.uniform(size=(5, 8, 8, 1)).astype("float32")
    maps = inspection.support_map(model, images)  # (5, 8, 8)
    ```
    """
    images = check_images(model, images)
    batch_size = check_integer(batch_size, "batch_size")
    verbose = int(check_boolean(verbose, "verbose"))
    painter = Painter(model)
    chosen = None
    if classes is not None:
        chosen = _check_classes(classes, painter.num_classes, len(images))
    found = np.zeros(images.shape[:3], "float32")
    progress = keras.utils.Progbar(len(images), verbose=verbose)
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        winners = None if chosen is None else chosen[part]
        found[part] = painter.paint(images[part], winners)
        progress.update(start + len(found[part]))
    return found


def _check_classes(classes: Any, number: int, images: int | None = None) -> Any:
    """Classes as a list of integers, one for each image if there are some."""
    values = np.asarray(classes)
    if values.ndim == 0:
        values = np.repeat(values, 1 if images is None else images)
    valid = values.ndim == 1 and values.dtype.kind in "iu"
    if not valid or not ((0 <= values) & (values < number)).all():
        raise ValueError(
            "Invalid value for argument `classes`. Expected one or more "
            f"integers from 0 to {number - 1}. Received: classes={classes!r}"
        )
    if images not in (None, len(values)):
        raise ValueError(
            "Expected an integer, or one class for each image, in `classes`. "
            f"Received: {len(values)} classes for {images} images"
        )
    return values.tolist()
