"""`capsule_health`: scores of classes, errors, and what does not change."""

import random

import keras
import numpy as np
import pytest

from keras_capsules.inspection import capsule_health
from keras_capsules.layers import CapsuleDropout
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import PrimaryCapsules
from tests.helpers.health import CLASSES
from tests.helpers.health import make_images
from tests.helpers.health import sequential
from tests.helpers.health import small
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy


def test_scores_by_class():
    model, images = small(), make_images()
    scores = numpy(model(images))
    wins = np.bincount(scores.argmax(axis=1), minlength=CLASSES)
    health = capsule_health(model, images)
    np.testing.assert_array_equal(health.wins, wins)
    assert health.own is health.others is None
    labels = np.array([0, 1, 3, 4, 0, 1, 3, 4, 0, 1, 3])
    own = [scores[labels == n, n].mean() for n in (0, 1, 3, 4)]
    others = [scores[labels != n, n].mean() for n in range(CLASSES)]
    hot = np.eye(CLASSES)[labels]
    for given in (labels, labels[:, None], labels.tolist(), hot, hot > 0.5):
        health = capsule_health(model, images, given, batch_size=4)
        np.testing.assert_allclose(health.own[[0, 1, 3, 4]], own, rtol=1e-5)
        assert np.isnan(health.own[2])
        np.testing.assert_allclose(health.others, others, rtol=1e-5)
    several = capsule_health(model, images, np.ones((11, CLASSES)))
    np.testing.assert_allclose(several.own, scores.mean(axis=0), rtol=1e-5)
    assert np.isnan(several.others).all()


def test_booleans_are_the_classes_0_and_1():
    labels = np.arange(11) % 2
    model, images = small(), make_images()
    expected = capsule_health(model, images, labels)
    for given in (labels == 1, (labels == 1)[:, None], (labels == 1).tolist()):
        found = capsule_health(model, images, given)
        np.testing.assert_array_equal(found.own, expected.own)
        np.testing.assert_array_equal(found.others, expected.others)


def test_models_without_scores():
    model = sequential(PrimaryCapsules(3, 4, 3, 2))
    assert capsule_health(model, make_images()).wins is None
    message = r"Expected a model whose output is of shape \(images, classes\)"
    with pytest.raises(ValueError, match=message):
        capsule_health(model, make_images(), np.zeros(11, int))


# What does not change, and errors.


def test_nothing_changes():
    model = sequential(
        keras.layers.BatchNormalization(),
        PrimaryCapsules(3, 4, 3, 2),
        CapsuleDropout(0.5, seed=3),
        CapsuleLayer(CLASSES, 7),
        CapsuleLength(),
    )
    model.compile("adam", "mse")
    before = [numpy(each) for each in model.variables]
    states = random.getstate(), np.random.get_state()[1].tolist()
    capsule_health(model, make_images(), np.zeros(11, int))
    assert states == (random.getstate(), np.random.get_state()[1].tolist())
    for value, each in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, numpy(each))


def test_a_progress_bar(capsys):
    capsule_health(small(), make_images(), batch_size=4)
    assert capsys.readouterr().out == ""
    capsule_health(small(), make_images(), batch_size=4, verbose=1)
    assert "11/11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "capsnet"}, invalid("model", "a functional model")),
        ({"images": make_images(3, (5, 5, 2))}, r"Received: images.shape=\(3"),
        ({"images": make_images(0)}, "at least one image.*Received: images.sh"),
        ({"labels": np.zeros(7, int)}, r"integer labels of.*labels.shape=\(7,"),
        ({"labels": ["a"] * 11}, r"integers from 0 to 4.*Received: labels="),
        ({"labels": np.full(11, None)}, r"integers from 0 to 4.*ed: labels="),
        ({"labels": np.full(11, 1j)}, r"integers from 0 to 4.*ed: labels="),
        ({"labels": np.full((11, 5), 3)}, "from 0 to 1.*Received: labels="),
        ({"batch_size": 0}, invalid("batch_size", "a positive integer")),
        ({"verbose": 2}, invalid("verbose", "True or False")),
    ],
)
def test_bad_arguments(changed, message):
    options = {"model": small(), "images": make_images(), **changed}
    with pytest.raises(ValueError, match=message):
        capsule_health(**options)


def test_a_model_without_capsules():
    model = sequential(keras.layers.Flatten(name="flat"))
    message = "Expected a model with layers of capsules.* Received: .*'flat'"
    with pytest.raises(ValueError, match=message):
        capsule_health(model, make_images())
