"""How well features tell how an image was transformed."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_capsules.inspection.features import Probe
from keras_capsules.inspection.images import check_images
from keras_capsules.inspection.moves import MOVES
from keras_capsules.inspection.moves import move
from keras_capsules.inspection.readout import FEWEST_IMAGES
from keras_capsules.inspection.readout import predict_held_out
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number

# How often images are drawn for the interval.
DRAWS = 2000


class Equivariance(NamedTuple):
    """How well a linear read-out of features tells a transformation.

    Attributes:
        r2: The share of the variance of the amounts that is predicted, on
            images that the read-out was not fitted on. It is 1 if the features
            tell the amount, 0 if they tell nothing, and may be negative.
        low: The lower end of a 95 % confidence interval of `r2`.
        high: Its upper end.
        amounts: `(amounts,)`, as given.
        predictions: `(images, amounts)`, what was predicted for them.
    """

    r2: float
    low: float
    high: float
    amounts: np.ndarray
    predictions: np.ndarray


def equivariance(
    model: keras.Model,
    images: Tensor,
    transform: str | Callable[[np.ndarray, np.ndarray], np.ndarray],
    amounts: Sequence[float],
    layer: str | None = None,
    components: int | None = None,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 128,
    verbose: int = 0,
) -> Equivariance:
    """Measures whether features change with an image as the image does.

    Capsules are meant to be equivariant, not invariant: the class stays, and
    the pose tells how the image was turned or moved. Here each image is
    transformed by all amounts, and a linear read-out predicts the amount from
    the features of the transformed image alone.

    - The features of a `CapsuleNetwork` are the pose of its winning capsule,
      those of other models the input of the last `Dense` layer.
    - Poses of different classes are different codes, so there is a read-out
      for each class, for models of all kinds. An image belongs to the class
      with the highest score, after it is transformed.
    - A read-out is a ridge regression. It is fitted on all folds of the images
      but one and predicts that one. An image is in the same fold with all
      amounts. The penalty is chosen among seven: with it, each half of the
      images of the other folds is predicted best from the other half.
    - A class that wins for fewer than 10 images of the other folds has no
      read-out. The mean amount is predicted for its images.

    The features of all images are kept, 4 bytes for each: of 10,000 images and
    seven amounts, 4.5 MB for a pose of 16 numbers, but 0.9 GB for 3136 features
    of a flat grid. For the read-outs, about as much again is needed if one
    class always wins, and some matrices `(features, features)` of 8 bytes. If
    this is too much, name a `layer` with fewer features.

    The interval is that of other images with the same read-outs: the measured
    images are drawn again, with replacement, 2,000 times.

    Notation: equivariance is what section 2 of
    [Hinton et al., 2011](https://doi.org/10.1007/978-3-642-21735-7_6)
    asks of capsules. The measure is our own.

    Args:
        model: A functional or Sequential model, from one input to class scores
            `(batch, num_classes)`.
        images: Images of the shape that the model takes, some 20 for each
            class at least. To transform them by name, `(images, height, width,
            channels)`.
        transform: String or function. `"rotation"` turns images around their
            middle, by degrees, counter-clockwise; `"shift_x"` and `"shift_y"`
            shift them by pixels to the right and down; `"scale"` makes them
            larger by a factor; `"shear"` moves the top to the right of the
            bottom, by a part of the height. What comes from outside is 0. A
            function takes arrays `images` and `amounts`, `(batch, ...)` and
            `(batch,)`, and returns images of the same shape.
        amounts: Sequence of numbers, of which at least two are different.
        layer: The name of a layer of the model, whose output is used as the
            features. Several outputs are joined. Defaults to `None`, features
            as above.
        components: Positive integer. The features of each class are first
            reduced to so many principal components, to compare models by the
            same number of features. Defaults to `None`, all features.
        folds: Integer of at least 2. Defaults to `5`.
        seed: Integer of at least 0, for folds and interval. Defaults to `0`.
        batch_size: Positive integer. Defaults to `128`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        An `Equivariance`.

    Raises:
        ValueError: If an argument is not as described, or for more than a tenth
            of the transformed images the class has no read-out.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 1, filters=4, decoder_units=None)
    images = np.random.uniform(size=(20, 8, 8, 1)).astype("float32")
    found = inspection.equivariance(model, images, "shift_x", [-1, 0, 1])
    found.r2, (found.low, found.high)
    ```
    """
    images = check_images(model, images)
    changed = _check_transform(transform, images)
    targets = _check_amounts(amounts, transform)
    probe = Probe(model, layer)
    folds = check_integer(folds, "folds", minimum=2)
    seed = check_integer(seed, "seed", minimum=0)
    batch_size = check_integer(batch_size, "batch_size")
    verbose = check_boolean(verbose, "verbose")
    if len(images) < folds:
        raise ValueError(
            "Expected at least as many images as folds. Received: "
            f"folds={folds} and {len(images)} images"
        )
    if components is not None:
        components = check_integer(components, "components")
    features, classes = _measure(
        probe, images, changed, targets, components, batch_size, verbose
    )
    generator = np.random.default_rng(seed)
    places = generator.permutation(len(images))
    predictions, found = predict_held_out(
        features, classes, targets, places, folds, components
    )
    if found.mean() < 0.9:
        raise ValueError(
            "There are too few images. Expected a class to win for at least "
            f"{FEWEST_IMAGES} images besides those of a fold, to fit its "
            f"read-out. Received: {len(images)} images and folds={folds}, with "
            f"{100 * (1 - found.mean()):.0f} % of the transformed images of "
            "classes that win for fewer"
        )
    # All images have the same amounts, so their variance is the same.
    errors = np.mean((predictions - targets) ** 2, axis=1)
    of_images = 1 - errors / np.var(targets)
    drawn = [
        generator.choice(of_images, len(of_images)).mean() for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Equivariance(
        float(of_images.mean()), float(low), float(high), targets, predictions
    )


def _measure(probe, images, changed, amounts, components, batch_size, verbose):
    """Features `(images, amounts, features)`, and winning classes."""
    shape = len(images), len(amounts)
    classes = np.empty(shape, "int64")
    features = np.empty((*shape, 0), "float32")
    progress = keras.utils.Progbar(len(images), verbose=int(verbose))
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch = images[part]
        for index, amount in enumerate(amounts):
            found, classes[part, index] = probe(
                changed(batch, np.full(len(batch), amount))
            )
            if not features.size:
                _check_number_of(components, found.shape[1])
                features = np.empty((*shape, found.shape[1]), "float32")
            features[part, index] = found
        progress.update(min(part.stop, len(images)))
    return features, classes


def _check_transform(transform, images):
    """A function that transforms images, whatever the argument is."""
    if callable(transform):

        def changed(batch, amounts):
            result = np.asarray(transform(batch, amounts))
            if result.shape != batch.shape:
                raise ValueError(
                    "Expected `transform(images, amounts)` to return images of "
                    f"the same shape, {batch.shape}. Received: {result.shape}"
                )
            return result

        return changed
    name = check_choice(transform, "transform", tuple(MOVES))
    if images.ndim != 4:
        raise ValueError(
            "To transform images by name, they have to be (images, height, "
            "width, channels). Expected such images, or a function as "
            f"`transform`. Received: images.shape={images.shape}"
        )
    return lambda batch, amounts: move(batch, name, amounts)


def _check_amounts(amounts, transform):
    """The amounts as an array, if they are numbers and differ."""
    expected = "a sequence of finite numbers"
    try:
        found = np.array([check_number(each, "amounts") for each in amounts])
    except (TypeError, ValueError):
        found = np.array([])
    valid = found.size > 0
    if valid and found.min() == found.max():
        valid, expected = False, f"{expected} of which at least two differ"
    if valid and transform == "scale" and found.min() <= 0:
        valid, expected = False, "factors that are greater than 0"
    if not valid:
        raise ValueError(
            f"Invalid value for argument `amounts`. Expected {expected}. "
            f"Received: amounts={amounts!r}"
        )
    return found


def _check_number_of(components, features):
    if components is not None and components > features:
        raise ValueError(
            "Invalid value for argument `components`. Expected at most the "
            f"{features} features. Received: components={components!r}"
        )
