"""Self-routing against an independent NumPy version."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules.routing.self_routing import SelfRouting
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import values

# Distinct primes, so that no axis can be taken for another. Matrices have 2
# rows.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 3, 5, 13, 7, 11


def make_arrays(rows=1, dtype="float64"):
    """Poses, kernel, activations, routing kernel and routing bias."""
    random = np.random.default_rng(0)
    poses, kernel, *routing = (
        random.normal(0, deviation, shape)
        for deviation, shape in (
            (1, (BATCH, INPUTS, rows, DIM)),
            (DIM**-0.5, (INPUTS, DIM, OUTPUTS, OUT_DIM)),
            (DIM**-0.5, (INPUTS, rows * DIM, OUTPUTS)),
            (1, (OUTPUTS, INPUTS)),
        )
    )
    activations = random.uniform(0.1, 1.0, (BATCH, INPUTS))
    arrays = poses, kernel, activations, *routing
    return [array.astype(dtype) for array in arrays]


def route(poses, kernel, activations, routing_kernel, routing_bias=None):
    weights = {"routing_kernel": routing_kernel}
    if routing_bias is not None:
        weights["routing_bias"] = routing_bias
    routing = SelfRouting(use_routing_bias=routing_bias is not None)
    return routing(poses, kernel, activations=activations, weights=weights)


def evaluated(*arrays):
    return tuple(
        evaluate(lambda *x, field=field: getattr(route(*x), field), *arrays)
        for field in ("poses", "activations", "coupling")
    )


def oracle(poses, kernel, activations, routing_kernel, routing_bias):
    """Loops over examples, input and output capsules."""
    batch, inputs, rows, _ = poses.shape
    _, _, outputs, out_dim = kernel.shape
    means = np.zeros((batch, outputs, rows, out_dim))
    received = np.zeros((batch, outputs))
    coupling = np.zeros((batch, outputs, inputs))
    for b in range(batch):
        for i in range(inputs):
            logits = poses[b, i].reshape(-1) @ routing_kernel[i]
            powers = np.exp(logits + routing_bias[:, i])
            coupling[b, :, i] = powers / powers.sum()
            for j in range(outputs):
                share = coupling[b, j, i] * activations[b, i]
                received[b, j] += share
                means[b, j] += share * (poses[b, i] @ kernel[i, :, j])
    means = means.reshape(batch, outputs, -1) / received[:, :, None]
    return means, received / activations.sum(axis=1)[:, None], coupling


def test_golden_values():
    """Of the votes sin(1), ..., sin(18), of shape [1, 3, 2, 3]."""
    kernel = np.sin(np.arange(1.0, 19.0)).reshape(3, 1, 2, 3)
    logits = np.array([[0.2, -0.1], [0.0, 0.5], [-0.3, 0.3]])[:, None]
    activations = np.array([[0.9, 0.4, 0.7]])

    poses, active, _ = evaluated(
        np.ones((1, 3, 1, 1)), kernel, activations, logits
    )

    golden = [
        [0.696981, 0.944512, 0.323663],
        [-0.512415, -0.969388, -0.535111],
    ]
    np.testing.assert_allclose(poses[0], golden, atol=1e-6)
    np.testing.assert_allclose(active[0], [0.458028, 0.541972], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2], ids=["vectors", "matrices"])
def test_equals_the_oracle(rows):
    arrays = make_arrays(rows)
    for ours, exact in zip(evaluated(*arrays), oracle(*arrays), strict=True):
        assert_close(ours, exact)


def test_without_activations_every_input_counts_fully():
    poses, kernel, activations, *weights = make_arrays()
    exact = oracle(poses, kernel, np.ones_like(activations), *weights)

    def value(field):
        def function(poses, kernel, *weights):
            return getattr(route(poses, kernel, None, *weights), field)

        return evaluate(function, poses, kernel, *weights)

    assert_close(value("poses"), exact[0])
    assert_close(value("activations"), exact[1])


@needs_float64
def test_gradients_equal_numeric_ones():
    arrays = make_arrays()

    def loss(*x):
        routed = route(*x)
        activations = ops.sin(routed.activations * 5.0)
        return ops.sum(ops.sin(routed.poses)) + ops.sum(activations)

    gradients = gradient(loss, *arrays)
    check_slopes(loss, gradients, *arrays, rtol=1e-5, atol=1e-7)


def test_inactive_inputs_do_not_count():
    poses, kernel, activations, *weights = make_arrays()
    activations[:, 3] = 0
    poses[:, 3] *= 100
    rest = [0, 1, 2, 4]
    ours = evaluated(poses, kernel, activations, *weights)
    routing_kernel, bias = weights
    exact = oracle(
        poses[:, rest],
        kernel[rest],
        activations[:, rest],
        routing_kernel[rest],
        bias[:, rest],
    )
    assert_close(ours[0], exact[0])
    assert_close(ours[1], exact[1])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-7], ids=str)
def test_hardly_active_inputs_give_finite_values_and_gradients(size):
    poses, kernel, _, *weights = make_arrays(dtype="float32")
    activations = np.full((BATCH, INPUTS), size, "float32")
    arrays = poses, kernel, activations, *weights

    means, active, coupling = evaluated(*arrays)
    if size == 0:
        assert not means.any()
        assert not active.any()
    assert np.isfinite(means).all()
    assert active.sum(axis=1).max() <= 1 + 1e-6
    assert_close(coupling.sum(axis=1), np.ones((BATCH, INPUTS)), 1e-6)

    def loss(*x):
        routed = route(*x)
        return ops.sum(routed.poses) + ops.sum(ops.sin(routed.activations))

    for slope in gradient(loss, *arrays):
        assert np.isfinite(slope).all()


def test_tiny_activations_are_means_all_the_same():
    poses, kernel, activations, *weights = make_arrays(dtype="float32")
    exact = oracle(*make_arrays())
    ours = evaluated(poses, kernel, activations * np.float32(1e-4), *weights)
    assert_close(ours[0], exact[0], 1e-5)
    assert_close(ours[1], exact[1], 1e-5)


def test_saturated_routing_stays_finite():
    arrays = make_arrays(dtype="float32")
    arrays[3] *= 1e4
    slopes = gradient(lambda *x: ops.sum(route(*x).poses), *arrays)
    assert all(np.isfinite(each).all() for each in slopes)
    assert all(np.isfinite(each).all() for each in evaluated(*arrays))


def test_padding_of_a_convolution_does_not_count():
    layer = ConvCapsules2D(2, 3, 3, padding="same", routing=SelfRouting())
    random = np.random.default_rng(3)
    poses = random.normal(size=(1, 2, 2, 1, 5)).astype("float32")
    activations = random.uniform(0.1, 1, (1, 2, 2, 1)).astype("float32")
    layer.build((poses.shape, activations.shape))
    layer.kernel.assign(np.ones(layer.kernel.shape))
    means, active = layer((poses, activations))
    # Routing is uniform at first. All four windows see all four capsules.
    votes = poses.reshape(4, 5).sum(axis=1)
    mean = (activations.reshape(4) * votes).sum() / activations.sum()
    assert_close(numpy(means), np.full((1, 2, 2, 2, 3), mean), 1e-5)
    assert_close(numpy(active), np.full((1, 2, 2, 2), 0.5), 1e-6)


@pytest.mark.parametrize("use_routing_bias", [True, False])
def test_weights_of_the_layer(use_routing_bias):
    routing = SelfRouting(
        use_routing_bias,
        routing_kernel_initializer="ones",
        routing_bias_initializer=keras.initializers.Constant(0.5),
        routing_kernel_regularizer=keras.regularizers.L2(0.1),
    )
    layer = CapsuleLayer(7, (2, 4), routing=routing)
    layer.build((None, 5, 2, 3))
    weights = {w.name: ops.convert_to_numpy(w) for w in layer.weights}
    assert weights.pop("kernel").shape == (5, 3, 7, 4)
    np.testing.assert_array_equal(
        weights.pop("routing_kernel"), np.ones((5, 6, 7))
    )
    if use_routing_bias:
        np.testing.assert_array_equal(
            weights.pop("routing_bias"), np.full((7, 5), 0.5)
        )
    assert not weights
    (penalty,) = layer.losses
    assert numpy(penalty) == pytest.approx(0.1 * 5 * 6 * 7)


def test_routing_begins_uniform():
    layer = CapsuleLayer(7, 2, routing=SelfRouting())
    capsules = np.random.default_rng(4).normal(size=(2, 5, 3))
    (_, active), coupling = layer(capsules, return_coupling=True)
    assert_close(numpy(active), np.full((2, 7), 1 / 7), 1e-6)
    assert_close(numpy(coupling), np.full((2, 5, 7), 1 / 7), 1e-6)


def test_config():
    constant = keras.initializers.Constant(0.5)
    routing = SelfRouting(False, "ones", constant, "l2")
    config = json.loads(json.dumps(routing.get_config()))
    loaded = SelfRouting.from_config(config)
    assert loaded.get_config() == routing.get_config()
    assert loaded.routing_bias_initializer.value == 0.5
    assert not loaded.use_routing_bias


@values(NOT_BOOLEANS)
def test_bad_switch(value):
    with pytest.raises(ValueError, match=invalid("use_routing_bias", "True")):
        SelfRouting(use_routing_bias=value)


@pytest.mark.parametrize(
    "name", ["routing_kernel_initializer", "routing_bias_initializer"]
)
def test_unknown_initializer(name):
    with pytest.raises(ValueError, match="Could not interpret initializer"):
        SelfRouting(**{name: "unknown"})


def test_unknown_regularizer():
    with pytest.raises(ValueError, match="Could not interpret regularizer"):
        SelfRouting(routing_kernel_regularizer="unknown")


def test_outputs_are_refused():
    poses, kernel, activations, routing_kernel, _ = make_arrays()
    with pytest.raises(ValueError, match="cannot start from earlier outputs"):
        SelfRouting(False)(
            poses,
            kernel,
            activations=activations,
            weights={"routing_kernel": routing_kernel},
            outputs=np.zeros((BATCH, OUTPUTS, OUT_DIM)),
        )


def test_no_initializer_is_the_default():
    routing = SelfRouting(
        routing_kernel_initializer=None, routing_bias_initializer=None
    )
    assert routing.get_config() == SelfRouting().get_config()


def test_three_layers_of_zeros_in_float16():
    layers = [
        CapsuleLayer(5, (2, 7), routing="self_routing", dtype="float16")
        for _ in range(3)
    ]
    zeros = np.zeros((2, 3, 2, 4), "float16")

    def stack(poses, activations):
        for layer in layers:
            poses, activations = layer((poses, activations))
        return ops.sum(ops.sin(poses)) + ops.sum(ops.sin(activations))

    slopes = gradient(stack, zeros, zeros[:, :, 0, 0])
    assert all(np.isfinite(each).all() for each in slopes)
