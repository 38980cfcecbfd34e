"""A small `CapsNet`, data for it, and its loss in NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_capsules import MarginLoss
from keras_capsules.models import CapsNet
from tests.helpers.testing import compile_for_one_trace
from tests.helpers.testing import numpy

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])
ONE_HOT = np.eye(3)[LABELS]
MULTI_HOT = np.array(
    [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]] + [[1, 1, 0]] * 3
)
LABEL_FORMS = {
    "integers": (LABELS, ONE_HOT),
    "column": (LABELS[:, None].astype("float32"), ONE_HOT),
    "one_hot": (ONE_HOT.astype("float32"), ONE_HOT),
    "multi_hot": (MULTI_HOT, MULTI_HOT),
}
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 0.25, 1.5], "float32")
label_forms = pytest.mark.parametrize(
    "labels, multi_hot", LABEL_FORMS.values(), ids=LABEL_FORMS.keys()
)


def small(**options):
    return CapsNet(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": 4,
            "num_primary_capsules": 2,
            "primary_dim": 4,
            "capsule_dim": 5,
            "decoder_units": (6,),
            # A weight with which an error in either part of the loss shows.
            "reconstruction_weight": 0.03,
            **options,
        }
    )


def compiled(model, optimizer="adam", **options):
    return compile_for_one_trace(model, optimizer, MarginLoss(), **options)


def evaluate(model, *arguments, **options):
    return numbers(
        model.evaluate(*arguments, verbose=0, return_dict=True, **options)
    )


def numbers(logs):
    return {name: float(value) for name, value in logs.items()}


def weights_of(model):
    return [weight.numpy() for weight in model.trainable_variables]


def logs_by_hand(model, multi_hot, weights=1.0, decoded_labels=None):
    """What `evaluate` must report: the loss of scores and reconstructions."""
    images = ops.convert_to_tensor(IMAGES)
    labels = multi_hot if decoded_labels is None else decoded_labels
    scores = numpy(model(images))
    decoded = numpy(model.reconstruct(images, ops.convert_to_tensor(labels)))
    weights = np.broadcast_to(weights, len(IMAGES))
    margins = np.zeros(len(IMAGES))
    squares = np.zeros(len(IMAGES))
    for n in range(len(IMAGES)):
        for present, score in zip(multi_hot[n], scores[n], strict=True):
            margins[n] += present * max(0, 0.9 - score) ** 2
            margins[n] += 0.5 * (1 - present) * max(0, score - 0.1) ** 2
        squares[n] = np.sum((decoded[n] - IMAGES[n]) ** 2)
    losses = margins + model.reconstruction_weight * squares
    return {
        "loss": np.mean(weights * losses),
        "reconstruction_error": np.average(squares / 64, weights=weights),
    }


def bright_quarters():
    """Images to learn from, and which quarter of each is bright."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 4, 96)
    images = generator.uniform(0, 0.4, (96, 8, 8, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 0.5
    return images, labels
