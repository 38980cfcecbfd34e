"""Which pixels capsules see, held against those that change them."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleStack
from keras_capsules import ConvCapsules2D
from keras_capsules import PrimaryCapsules
from keras_capsules import inspection
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


def written(x):
    """Operations that are written as formulas."""
    x = layers.Conv2D(2, 2)(x)
    y = layers.Conv2D(2, (1, 4), padding="same")(x)
    z = keras.ops.relu(2.0 * x) + y
    z = keras.ops.concatenate([z, x / 3.0], axis=-1)
    x = PrimaryCapsules(3, 4, 2, 3, activation=None)(z)
    x = x[:, :, :, 1:]  # the last types
    return x[..., :3]


def dense(x):
    x = layers.RandomRotation(0.5, seed=0)(layers.RandomFlip(seed=0)(x))
    x = layers.TimeDistributed(layers.Dense(3))(x)
    x = layers.Dense(2)(layers.Conv2D(2, (3, 2))(x))
    x = PrimaryCapsules(2, 4, 2, 3, activation=None)(x)
    return layers.Dense(3)(x)


def row(x):
    x = PrimaryCapsules(2, 4, (2, 3), 2, activation=None)(x)
    x = layers.Reshape((-1, 4))(x)
    return layers.Dense(4)(x + x)[:, :, :3]


@pytest.mark.parametrize(
    "make",
    [strides, padding, gaps, branches, two_grids, written, dense, row],
)
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
    poses = numpy(keras.Model(images, capsules)(changed, training=False))
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


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x[:, ::-1], r"the operation 'get_item\w*'"),
        (lambda x: x[:, 1:, :, None, 0], r"the operation 'get_item\w*'"),
        (lambda x: x + x[:, :1], r"the operation 'get_item\w*'"),
        (lambda x: keras.ops.roll(x, 1, axis=1), r"the operation 'roll\w*'"),
        (
            lambda x: layers.TimeDistributed(layers.Conv1D(2, 2))(x),
            r"the layer 'time_dist\w*' \(TimeDistributed\)",
        ),
        (
            lambda x: x + layers.Conv2D(1, 1, strides=20)(x),
            r"the operation 'add\w*'",
        ),
        (
            lambda x: layers.Add()([x, keras.ops.max(x, axis=-1)]),
            r"the operation 'max\w*'",
        ),
        (
            lambda x: keras.ops.power(x, layers.AveragePooling2D((9, 9))(x)),
            r"the operation 'power\w*'",
        ),
    ],
)
def test_what_is_not_followed_is_named(change, kind):
    images = keras.Input((9, 9, 1))
    x = PrimaryCapsules(2, 3, 2, name="primary")(change(images))
    model = keras.Model(images, CapsuleLayer(3, 4)(x))
    (tree,) = inspection.parse_tree(model, np.ones((9, 9, 1), "float32"))
    assert tree.box is None and tree.parts[0].box is None
    message = f"'primary'. Received: a model with {kind}, which is not followed"
    with pytest.raises(ValueError, match=message):
        inspection.support_map(model, np.ones((1, 9, 9, 1), "float32"))


def test_layers_are_called_as_in_inference():
    """Layers that change images at random do so unless told not to."""
    primary_capsules = PrimaryCapsules(2, 3, 2)
    images = keras.Input((9, 9, 1))
    health = []
    for x in (images, layers.RandomTranslation(0.4, 0.4, seed=0)(images)):
        model = keras.Model(images, CapsuleLayer(1, 3)(primary_capsules(x)))
        found = inspection.capsule_health(model, random(5, 9, 9, 1))
        health.append(found.layers[0].norm)
    np.testing.assert_array_equal(*health)
