"""The mean coupling of a layer, and how much its coupling varies."""

from typing import Any

import keras
import numpy as np

from keras_capsules.inspection.graph import Call
from keras_capsules.pruning.sample import has_mask
from keras_capsules.pruning.sample import sample


def mean_coupling(
    model: keras.Model,
    call: Call,
    images: np.ndarray,
    batch_size: int,
    verbose: int,
) -> tuple[np.ndarray, float]:
    """Measures the mean coupling, and how much the coupling varies.

    Args:
        model: A functional model with one input.
        call: The call of a `CapsuleLayer` or of `ConvCapsules`.
        images: Array of at least two images.
        batch_size: Positive integer.
        verbose: `0`, or `1` for a progress bar.

    Returns:
        The mean coupling `[i, j]`, and the `dependence` of `freeze_routing`.

    Raises:
        ValueError: If coupling coefficients are not finite, or the images do
            not say what they are because of a mask.
    """

    def batches():
        for batch in sample(model, call, images, batch_size, verbose):
            part = len(images[batch.images])
            # [b, windows, i, j] and [b, windows, i].
            shape = (part, -1, *batch.coupling.shape[1:])
            coupling = batch.coupling.reshape(shape)
            yield coupling, batch.counts.reshape(shape[:-1])

    total: Any = 0.0
    count: Any = 0.0
    for coupling, counts in batches():
        total = total + _sums(coupling, counts).sum(axis=0)
        count = count + counts.sum(axis=(0, 1))
    check_finite(total, f"coupling that is not finite, of {call.name!r}")
    if has_mask(call):
        _check_seen(count, call)
    # Places that are padding in all windows stay at 0.
    mean = total / np.maximum(count, 1)[:, None]
    variation = number = 0.0
    for coupling, counts in batches():
        others = count - counts.sum(axis=1)  # [b, i]
        of_others = total - _sums(coupling, counts)
        of_others = of_others / np.maximum(others, 1)[..., None]
        differences = np.abs(coupling - of_others[:, None]).sum(axis=3) / 2
        # One that counts in no other image cannot be compared.
        counts = counts & (others > 0)[:, None]
        variation += float(np.sum(differences * counts))
        number += float(np.sum(counts))
    if not number:
        raise _unseen("no input capsule that counts in two images", call)
    return mean, variation / number


def _check_seen(count, call):
    """Raises if a mask excludes input capsules from all images."""
    unseen = np.flatnonzero(count == 0).tolist()
    if unseen:
        raise _unseen(
            f"a mask that excludes the input capsules {unseen} from all images",
            call,
        )


def _unseen(received, call):
    return ValueError(
        "Coupling is averaged over the images in which an input capsule "
        "counts. Expected each to count in an image, and some of them in "
        f"several. Received: {received}, of {call.name!r}"
    )


def check_finite(numbers: np.ndarray, received: str) -> None:
    """Raises if numbers of a network are NaN or infinite.

    Args:
        numbers: What the network makes of images.
        received: What these are if they are not finite, for the message.
    """
    if not np.isfinite(numbers).all():
        raise ValueError(
            "Coupling has to be finite to be averaged. Expected images without "
            "NaN, and a network whose training has not failed. Received: "
            f"{received}"
        )


def _sums(coupling, counts):
    """The sums over the windows of each image, `[b, i, j]`."""
    return np.sum(coupling * counts[..., None], 1, "float64")
