"""The mean coupling of a layer, and how much its coupling varies."""

from typing import Any

import keras
import numpy as np

from keras_capsules.inspection.graph import Call
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
        ValueError: If coupling coefficients are not finite.
    """
    number = len(images)

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
    # Places that are padding in all windows stay at 0.
    mean = total / np.maximum(count, 1)[:, None]
    # All images have the same windows.
    others = np.maximum(count * (number - 1) / number, 1)[:, None]
    variation = 0.0
    for coupling, counts in batches():
        of_others = (total - _sums(coupling, counts)) / others
        differences = np.abs(coupling - of_others[:, None]).sum(axis=3) / 2
        variation += float(np.sum(differences * counts))
    return mean, variation / float(np.sum(count))


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
