"""No routing ever makes a number that is none."""

import keras
import numpy as np
import pytest
from testing import numpy
from testing import on_one_backend

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules2D
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import models

ROUTINGS = [
    "dynamic",
    "em",
    "inverted_attention",
    "self_attention",
    "self_routing",
    "variational_bayes",
]
LABELS = np.array([0, 2, 1, 1])
NETWORKS = {
    "CapsNet": {"filters": 4, "num_primary_capsules": 2},
    "EfficientCapsNet": {"filters": (4,)},
    "MatrixCapsNet": {"filters": 4, "conv_capsules": (2, 2)},
    "DeepCaps": {"filters": 4, "cell_capsules": (2,) * 4},
    "InvertedAttentionCapsNet": {"filters": (4,), "num_capsules": 2},
    "ConvNet": {"filters": (4,)},
    "SqueezeExcitationNet": {"filters": (4, 4)},
}
# With self-routing alone, nothing depends on the last layer's poses.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")


def random(number=4, size=(5, 7)):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(number, *size, 1)).astype("float32")


def network(routing):
    return keras.Sequential(
        [
            keras.Input((5, 7, 1)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            PrimaryCapsules(3, 4, 3),
            ConvCapsules2D(2, 4, 3, padding="same", routing=routing),
            CapsuleLayer(3, 5, routing=routing),
            CapsuleLength(dtype="float32"),
        ]
    )


def check(model, images, labels=LABELS):
    """Trains on images, and checks that all is finite."""
    loss = model.train_on_batch(images, labels)
    assert np.isfinite(loss).all()
    for weight in model.weights:
        assert np.isfinite(numpy(weight)).all(), weight.path
    assert np.isfinite(model.predict_on_batch(images)).all()


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("routing", ROUTINGS)
def test_ten_times_the_usual_learning_rate(routing):
    keras.utils.set_random_seed(0)
    model = network(routing)
    model.compile(keras.optimizers.Adam(1e-2), MarginLoss())
    images = np.tile(random(), (200, 1, 1, 1))
    history = model.fit(
        images, np.tile(LABELS, 200), batch_size=4, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    check(model, random())
    # Without any contrast, there is nothing to agree on.
    check(model, np.zeros((4, 5, 7, 1), "float32"))
    check(model, np.ones((4, 5, 7, 1), "float32"))


@pytest.fixture
def half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("half_precision", "optimized")
@pytest.mark.parametrize("routing", ROUTINGS)
def test_float16(routing):
    keras.utils.set_random_seed(0)
    model = network(routing)
    model.compile("adam", MarginLoss())
    before = numpy(model.weights[0])
    for images in (
        np.zeros((4, 5, 7, 1), "float32"),
        np.ones((4, 5, 7, 1), "float32"),
        1e3 * random(),
        random(),
    ):
        for _ in range(3):
            check(model, images)
    # Not because of steps left out for gradients that are not finite.
    assert not np.array_equal(numpy(model.weights[0]), before)


@on_one_backend
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_without_contrast(name):
    keras.utils.set_random_seed(0)
    model = getattr(models, name)((9, 8, 1), 3, **NETWORKS[name])
    # Without graphs, TensorFlow is ready much sooner.
    model.compile("adam", MarginLoss(), run_eagerly=True)
    for images in (np.zeros((4, 9, 8, 1)), np.ones((4, 9, 8, 1))):
        check(model, images.astype("float32"))
