"""Masks of what is computed over a batch: statistics and losses."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules1D
from keras_capsules import MarginLoss
from keras_capsules.layers import PoseNormalization
from tests.helpers.capsules import random
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


@pytest.mark.parametrize("training", [False, True])
def test_statistics_of_a_batch_leave_padding_out(training):
    """Those of variational Bayes routing, in training and afterwards."""
    poses = random(2, 9, 2, 3).astype("float32")
    results = []
    for zeros in (4, 20):
        keras.utils.set_random_seed(1)
        layer = ConvCapsules1D(3, 4, 3, routing="variational_bayes")
        padded = np.pad(poses, [(0, 0), (0, zeros), (0, 0), (0, 0)])
        mask = np.arange(9 + zeros)[None].repeat(2, 0) < 9
        if training:
            for _ in range(5):
                layer(padded, mask=mask, training=True)
        outputs = layer(padded, mask=mask, training=training)
        results.append([numpy(x)[:, :7] for x in outputs])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_pose_normalization_leaves_padding_out_and_hands_the_mask_on():
    poses = random(2, 9, 3, 2, 4).astype("float32")
    activations = np.ones((2, 9, 3), "float32")
    mask = np.arange(9)[None].repeat(2, 0) < 5
    layer = PoseNormalization()
    outputs, _ = layer((poses, activations), mask=mask, training=True)
    exact = PoseNormalization()
    expected, _ = exact((poses[:, :5], activations[:, :5]), training=True)
    np.testing.assert_allclose(
        numpy(outputs)[:, :5], numpy(expected), rtol=1e-4, atol=1e-5
    )
    for one, other in zip(layer.weights, exact.weights, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-4)
    assert layer.compute_mask((poses, activations), mask) is mask


def test_both_of_a_pair_have_the_mask():
    layer = ConvCapsules1D(3, 4, 2, routing="self_routing")
    poses = random(2, 9, 2, 3).astype("float32")
    mask = np.arange(9)[None].repeat(2, 0) < 6
    outputs, activations = layer.compute_mask(poses, mask)
    np.testing.assert_array_equal(numpy(outputs), numpy(activations))
    assert numpy(outputs).sum() == 2 * 5


@pytest.mark.parametrize("loss", ["mse", MarginLoss()], ids=["mse", "margin"])
def test_a_mask_of_capsules_ends_in_their_lengths(loss):
    """A loss has one value for all of them."""
    words = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(words)
    model = keras.Model(words, CapsuleLength()(x))
    model.compile("sgd", loss, **QUICK)
    numbers = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 0, 0]])
    labels = np.eye(5, dtype="float32")[[0, 1]]
    assert np.isfinite(model.train_on_batch(numbers, labels))
