"""Images of several objects, each drawn from its own capsule."""

import keras
import numpy as np
import pytest

from keras_capsules.models import MatrixCapsNet
from tests.helpers import networks
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import WEIGHTS
from tests.helpers.capsnet import compiled
from tests.helpers.capsnet import evaluate
from tests.helpers.capsnet import logs_by_hand
from tests.helpers.capsnet import small
from tests.helpers.testing import QUICK
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

CLASSES = np.array([[0, 1], [2, 0], [1, 2], [0, 2], [1, 0], [2, 1], [0, 1]])
TARGETS = np.random.default_rng(4).uniform(size=(7, 2, 8, 8, 1))
MULTI_HOT = np.eye(3)[CLASSES].sum(axis=1)
LABELS = {
    "scores": MULTI_HOT,
    "targets": TARGETS.astype("float32"),
    "target_classes": CLASSES,
}


def by_hand(model, weights=1.0):
    """The loss of scores, and of each drawing against its own image."""
    weights = np.broadcast_to(weights, 7)
    logs = logs_by_hand(model, MULTI_HOT, weights)
    without = model.reconstruction_weight * 64 * logs["reconstruction_error"]
    margin = logs["loss"] - without * np.mean(weights)
    squares = np.zeros(7)
    for n in range(2):
        decoded = model.reconstruct(IMAGES, CLASSES[:, n])
        squares += np.sum((decoded - TARGETS[:, n]) ** 2, axis=(1, 2, 3))
    return {
        "loss": margin
        + model.reconstruction_weight * np.mean(weights * squares),
        "reconstruction_error": np.average(squares / 128, weights=weights),
    }


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
def test_each_object_is_compared_with_its_own_image(weights):
    model = compiled(small(), **QUICK)
    logs = evaluate(model, IMAGES, LABELS, batch_size=7, sample_weight=weights)
    expected = by_hand(model, 1.0 if weights is None else weights)
    assert logs == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_it_trains_in_a_graph(kind):
    import tensorflow as tf

    model = compiled(small(), keras.optimizers.SGD(0.0))
    expected = by_hand(model)
    if kind == "arrays":
        history = model.fit(IMAGES, LABELS, batch_size=7, verbose=0).history
    else:
        data = tf.data.Dataset.from_tensors((IMAGES, LABELS))
        history = model.fit(data, shuffle=False, verbose=0).history
    assert {name: float(one[0]) for name, one in history.items()} == (
        pytest.approx(expected, rel=1e-4)
    )


def test_pairs_of_poses_and_activations():
    model = networks.make("MatrixCapsNet")
    assert isinstance(model, MatrixCapsNet)
    compiled(model, **QUICK)
    logs = evaluate(model, IMAGES, LABELS, batch_size=7)
    error = [
        np.square(model.reconstruct(IMAGES, CLASSES[:, n]) - TARGETS[:, n])
        for n in range(2)
    ]
    assert logs["reconstruction_error"] == pytest.approx(
        np.mean(error), rel=1e-5
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": None},
        {"target_classes": None},
        {"target_classes": CLASSES[:, :1]},
        {"target_classes": CLASSES[:, 0]},
        {"targets": TARGETS[:, 0, 0, 0, 0]},
        {"targets": TARGETS.reshape(7, 2, 4, 16, 1)},
    ],
    ids=[
        "no images",
        "no classes",
        "fewer classes",
        "one axis",
        "no objects",
        "another shape",
    ],
)
def test_what_does_not_fit(changes):
    model = compiled(small(), **QUICK)
    labels = {**LABELS, **changes}
    labels = {key: each for key, each in labels.items() if each is not None}
    message = "Expected `targets` of shape .*, and `target_classes`.*Received: "
    with pytest.raises(ValueError, match=message):
        model.fit(IMAGES, labels, verbose=0)


def test_classes_out_of_range():
    model = compiled(small(), **QUICK)
    labels = {**LABELS, "target_classes": CLASSES + 1}
    with pytest.raises(ValueError, match="`target_classes` has labels out of"):
        model.fit(IMAGES, labels, verbose=0)


def test_the_classes_that_are_present_are_needed():
    model = compiled(small(), **QUICK)
    labels = {key: LABELS[key] for key in ("targets", "target_classes")}
    with pytest.raises(ValueError, match="need the key 'scores'.*Received: "):
        model.fit(IMAGES, labels, verbose=0)
