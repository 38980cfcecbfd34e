"""Which pixels capsules see, held against those that change them."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleStack
from keras_capsules import ConvCapsules2D
from keras_capsules import PrimaryCapsules
from keras_capsules.inspection.places import box_of
from keras_capsules.inspection.supports import Chain
from tests.helpers.by_hand import primary
from tests.helpers.capsules import random
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def strides(x):
    x = layers.Conv2D(2, (3, 2), strides=(2, 1))(x)
    return PrimaryCapsules(2, 3, (1, 3), strides=(1, 2), activation=None)(x)


def padding(x):
    x = layers.Conv2D(2, (4, 3), strides=(2, 3), padding="same")(x)
    x = layers.AveragePooling2D(2, strides=1, padding="same")(x)
    x = layers.DepthwiseConv2D(2, padding="same")(x)
    return PrimaryCapsules(2, 3, 2, 2, "same", activation=None)(x)


def gaps(x):
    x = layers.SeparableConv2D(2, 2, dilation_rate=(3, 2))(x)
    x = layers.ZeroPadding2D(((2, 0), (1, 3)))(x)
    return PrimaryCapsules(2, 3, 3, 2, activation=None)(x)


def branches(x):
    x = layers.Conv2D(2, 2)(x)
    y = layers.Conv2D(2, (1, 4), padding="same")(layers.Identity()(x))
    z = layers.Conv2D(2, (3, 1), padding="same")(x)
    x = layers.Concatenate()([layers.Add()([x, y]), z])
    x = layers.BatchNormalization()(x)
    x = PrimaryCapsules(2, 3, 2, 3, activation=None)(x)
    return layers.Reshape((-1, 3))(x)


def two_grids(x):
    x = PrimaryCapsules(2, 3, 2, 2, activation=None)(x)
    y = layers.Reshape((*x.shape[1:3], 6))(x)
    y = PrimaryCapsules(4, 3, 2, 1, "same", activation=None)(y)
    rows = [layers.Reshape((-1, 3))(each) for each in (x, y)]
    return layers.Concatenate(axis=1)(rows)


@pytest.mark.parametrize("make", [strides, padding, gaps, branches, two_grids])
def test_boxes_are_the_pixels_that_change_a_capsule(make):
    size = 11, 9
    images = keras.Input((*size, 1))
    capsules = make(images)
    model = keras.Model(images, CapsuleLayer(2, 2)(capsules))
    for weight in model.trainable_weights:  # no sum is zero by chance
        weight.assign(np.abs(random(*weight.shape)) + 0.1)
    changed = np.zeros((100, *size, 1), "float32")
    for number, place in enumerate(np.ndindex(size), 1):
        changed[number, *place] = 1
    poses = numpy(keras.Model(images, capsules)(changed))
    poses = poses.reshape(100, -1, 3)
    differs = (np.abs(poses[1:] - poses[0]) > 1e-6).any(axis=2)
    grids = Chain(model).places[-1]
    assert sum(grid.number for grid in grids) == poses.shape[1]
    for index in range(poses.shape[1]):
        seen = np.argwhere(differs[:, index].reshape(size))
        box = (0, 0, 0, 0)  # of what sees only padding
        if len(seen):
            box = (*seen.min(axis=0), *(seen.max(axis=0) + 1))
        assert box_of(grids, index) == box


def test_boxes_of_class_capsules_and_of_stacks():
    images = keras.Input((9, 9, 1))
    x = primary((9, 9, 1), kernel_size=3, strides=2)(images)
    stack = CapsuleStack(
        [
            ConvCapsules2D(2, 3, 2, 2, routing="inverted_attention"),
            CapsuleLayer(3, 4, routing="inverted_attention"),
        ]
    )
    model = keras.Model(images, stack(x))
    top, lower, lowest = Chain(model).places
    assert box_of(top, 2) == (0, 0, 9, 9)
    assert box_of(lower, 7) == (4, 4, 9, 9)  # the last of 2 x 2 x 2
    assert box_of(lowest, 15) == (6, 6, 9, 9)  # the last of 4 x 4
