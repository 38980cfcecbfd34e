"""No routing ever makes a number that is none."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules2D
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules.routing import ROUTINGS
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers import modes
from tests.helpers import networks
from tests.helpers.testing import QUICK
from tests.helpers.testing import compile_for_one_trace
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = [
    on_one_backend,
    # With self-routing, no score depends on the poses of the last layer.
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]

SHAPE = 4, 5, 7, 1
FULL = pytest.param(
    VariationalBayesRouting(covariance="full"),
    id="variational_bayes-full",
    marks=pytest.mark.slow,
)
LABELS = np.array([0, 2, 1, 1])
# In an empty image, capsules have nothing to agree on.
BLANK = [np.zeros(SHAPE), np.ones(SHAPE)]


def random():
    return np.random.default_rng(0).uniform(size=SHAPE)


def network(routing, dtype=None):
    """Routing in windows with padding, and routing of the result."""
    layers = [
        keras.Input(SHAPE[1:]),
        PrimaryCapsules(3, 4, 3, dtype=dtype),
        ConvCapsules2D(
            2, 4, 3, strides=2, padding="same", routing=routing, dtype=dtype
        ),
        CapsuleLayer(3, 5, routing=routing, dtype=dtype),
        CapsuleLength(dtype="float32"),
    ]
    return keras.Sequential(layers)


def train(model, optimizer, batches, **kwargs):
    """One step for each batch of images, after which all must be finite."""

    def total(labels, scores):  # is finite if all of them are
        return ops.sum(ops.abs(scores))

    metric = keras.metrics.MeanMetricWrapper(total, name="total")
    compile_for_one_trace(
        model, optimizer, MarginLoss(), metrics=[metric], **kwargs
    )
    images = np.concatenate(batches).astype("float32")
    labels = np.tile(LABELS, len(batches))
    history = model.fit(
        images, labels, batch_size=4, shuffle=False, verbose=0
    ).history
    for name, values in history.items():
        assert np.isfinite(np.array(values, "float64")).all(), name
    for weight in model.weights:
        assert np.isfinite(numpy(weight)).all(), weight.path


@pytest.mark.parametrize(
    "routing",
    [
        pytest.param(name, marks=() if name == "em" else pytest.mark.slow)
        for name in ROUTINGS
    ]
    + [FULL],
)
def test_ten_times_the_usual_learning_rate(routing):
    batches = [*BLANK, *[random()] * 196, *BLANK]
    train(network(routing), keras.optimizers.Adam(1e-2), batches)


@pytest.mark.parametrize("routing", [*ROUTINGS, FULL])
def test_float16(routing):
    batches = [*BLANK, random(), 1e3 * random()]
    # It leaves steps out whose gradients are not finite.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), initial_scale=1.0
    )
    train(network(routing, "mixed_float16"), optimizer, batches, **QUICK)
    assert int(numpy(optimizer.inner_optimizer.iterations)) == len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NAMES)
def test_networks_without_contrast(name):
    shape = (4, *networks.SHAPE)
    train(networks.make(name), "adam", [np.zeros(shape), np.ones(shape)])


@pytest.mark.parametrize("routing", [*ROUTINGS, FULL])
@pytest.mark.parametrize(
    ("size", "with_gradients"),
    [(1e12, True), (1e18, False)],
    ids=["gradients", "outputs"],
)
def test_poses_as_large_as_documented(routing, size, with_gradients):
    """Squares of larger ones are infinite in float32."""
    numbers = np.random.default_rng(5)
    poses = size * numbers.uniform(-1, 1, size=(2, 7, 4))
    activations = numbers.uniform(size=(2, 7))
    layer = CapsuleLayer(3, 5, routing=routing)
    layer.build((poses.shape, activations.shape))
    if not with_gradients:
        pair = poses.astype("float32"), activations.astype("float32")
        for x in keras.tree.flatten(layer(pair)):
            assert np.isfinite(numpy(x)).all()
        return
    function, weights = modes.of_layer(layer, ["poses", "activations"])
    examples = {"poses": poses, "activations": activations}
    examples = {name: x.astype("float32") for name, x in examples.items()}
    results = modes.run("eager", function, examples, weights)
    for name, x in results.items():
        assert np.isfinite(x).all(), name
