"""Small models and images whose health is measured."""

import keras
import numpy as np

from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import PrimaryCapsules

SHAPE, CLASSES = (7, 6, 2), 5


def make_images(number=11, shape=SHAPE):
    numbers = np.random.default_rng(7)
    return numbers.uniform(size=(number, *shape)).astype("float32")


def sequential(*parts):
    return keras.Sequential([keras.Input(SHAPE), *parts])


def small(**options):
    """Primary capsules of 3 types, and 5 class capsules."""
    return sequential(
        PrimaryCapsules(3, 4, kernel_size=3, strides=2, name="primary"),
        CapsuleLayer(CLASSES, 7, name="classes", **options),
        CapsuleLength(name="scores"),
    )


def names(health):
    """The names of the problems that were found."""
    return [problem.name for problem in health.problems]
