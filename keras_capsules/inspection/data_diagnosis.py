"""Which images and labels are signs of a problem."""

from collections.abc import Iterator

import numpy as np

from keras_capsules.inspection.problems import Evidence
from keras_capsules.inspection.problems import Problem

# Standardized images stay below this; pixels from 0 to 255 do not.
LARGEST_PIXEL = 16.0
# The probability of images without class 0 by chance, if all classes are
# equally frequent.
LEAST_CHANCE = 1e-3


def problems_of_images(evidence: Evidence) -> Iterator[Problem]:
    """Looks for images that are not finite, or whose pixels are large.

    Args:
        evidence: An `Evidence`.
    """
    images = evidence.images
    rows = images.reshape(len(images), -1)
    broken = ~np.isfinite(rows).all(axis=1)
    if broken.any():
        yield Problem(
            "images_not_finite",
            "images",
            f"NaN first seen in the images: {broken.sum()} of {len(images)} "
            "have pixels that are NaN or infinite (expected 0), the first of "
            f"them number {broken.argmax()}.",
            "Remove these images, and look for others in the training data.",
        )
    elif evidence.pixels is not None and _learns(evidence):
        name, least, most = evidence.pixels
        if max(most, -least) > LARGEST_PIXEL:
            remedy = (
                "Divide pixels from 0 to 255 by 255, or begin the model with "
                "keras.layers.Rescaling(1 / 255)."
            )
            if least < 0:
                remedy = (
                    "Bring the inputs to a mean of 0 and a deviation of 1, "
                    "unless the layer has weights that were trained on such "
                    "inputs."
                )
            yield Problem(
                "large_pixels",
                name,
                f"The layer is given pixels from {least:g} to {most:g} "
                f"(expected at most {LARGEST_PIXEL:g}, best from 0 to 1).",
                remedy,
            )


def _learns(evidence):
    """Whether the layer that is given the pixels is one that is trained.

    Weights that others trained may be made for other numbers.
    """
    name = evidence.pixels[0]
    return any(
        call.name == name and call.layer.trainable_weights
        for call in evidence.graph.calls
    )


def problems_of_labels(evidence: Evidence) -> Iterator[Problem]:
    """Looks for labels that are of no class, or counted from 1.

    Args:
        evidence: An `Evidence`.
    """
    scores = evidence.scores
    if scores is None or scores.integers is None:
        return
    labels, number = scores.integers, scores.num_classes
    layer = evidence.output
    outside = ~scores.are_classes
    if outside.any():
        found, remedy = _what_is_wrong(labels, number)
        yield Problem(
            "labels_out_of_range",
            layer,
            f"{outside.sum()} of {len(labels)} labels are of no class: {found} "
            f"(expected from 0 to {number - 1}).",
            remedy,
        )
    elif (
        not scores.counts[0]
        and scores.counts[1:].all()
        and (1 - 1 / number) ** len(labels) < LEAST_CHANCE
    ):
        yield Problem(
            "labels_from_one",
            layer,
            f"None of {len(labels)} labels is 0, but each from 1 to "
            f"{number - 1} occurs (expected about "
            f"{len(labels) / number:.0f} of class 0).",
            "If labels are counted from 1, subtract 1, and give the network "
            "one class less; if not, add images of class 0.",
        )


def _what_is_wrong(labels, number):
    """What labels are of no class, and a remedy."""
    remedy = "Give each class a number from 0 on, as for the scores."
    finite = np.isfinite(labels)
    if not finite.all():
        found = f"{(~finite).sum()} are NaN or infinite"
        return f"{found}, the first of them number {finite.argmin()}", remedy
    least, most = labels.min(), labels.max()
    if 0 <= least and most < number:
        part = labels[labels % 1 != 0][0]
        return f"they are no whole numbers, such as {part:g}", remedy
    if least == 1 and most == number:
        remedy = "Subtract 1 from all labels."
    return f"they are from {least:g} to {most:g}", remedy
