"""The fully connected layer: values, shapes, weights, arguments of routings."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.losses import MarginLoss
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.routing import serialize
from keras_capsules.routing import weighted_sum
from tests.helpers.capsules import random
from tests.helpers.capsules import route
from tests.helpers.capsules import weights_of
from tests.helpers.capsules import with_random_weights
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.gradients import numeric_gradient
from tests.helpers.testing import check_saving
from tests.helpers.testing import compile_for_one_trace
from tests.helpers.testing import numpy

# Values.


@pytest.mark.parametrize(
    "num_inputs, input_dim, num_capsules, capsule_dim",
    [(7, 3, 5, 11), (1, 3, 5, 2), (7, 1, 5, 2), (7, 3, 1, 2), (7, 3, 5, 1)],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_equals_the_oracle(
    num_inputs, input_dim, num_capsules, capsule_dim, use_bias
):
    poses = random(2, num_inputs, input_dim)
    layer = CapsuleLayer(num_capsules, capsule_dim, use_bias=use_bias)
    with_random_weights(layer, poses.shape)
    kernel, *bias = weights_of(layer)
    bias = bias[0] if use_bias else np.zeros((num_capsules, capsule_dim))
    outputs, coupling = route(poses, kernel, bias)

    result = numpy(layer(poses))
    np.testing.assert_allclose(result, outputs, rtol=1e-4, atol=1e-5)
    assert (np.linalg.norm(result, axis=-1) < 1).all()
    result, shares = layer(poses, return_coupling=True)
    np.testing.assert_allclose(numpy(result), outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numpy(shares), coupling, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numpy(shares).sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "routing, num_iterations",
    [
        ("dynamic", 3),
        (DynamicRouting(1), 1),
        (DynamicRouting(2), 2),
        (serialize(DynamicRouting(5)), 5),
    ],
    ids=["name", "one", "two", "config"],
)
def test_routing(routing, num_iterations):
    poses = random(2, 7, 3)
    layer = CapsuleLayer(5, 2, routing=routing)
    assert layer.routing.num_iterations == num_iterations
    kernel, bias = weights_of(with_random_weights(layer, poses.shape))
    outputs, coupling = route(poses, kernel, bias, num_iterations)
    result, shares = layer(poses, return_coupling=True)
    np.testing.assert_allclose(numpy(result), outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numpy(shares), coupling, rtol=1e-4, atol=1e-5)


def test_routing_instance_is_used():
    routing = DynamicRouting(2)
    assert CapsuleLayer(5, 2, routing=routing).routing is routing


@needs_float64
def test_float64():
    poses, kernel, bias = random(2, 7, 3), random(7, 3, 5, 2), random(5, 2)

    def capsules(poses):
        layer = CapsuleLayer(5, 2, dtype="float64")
        layer.build(poses.shape)
        layer.set_weights([kernel, bias])
        return layer(poses)

    result = evaluate(capsules, poses)
    assert result.dtype == "float64"
    np.testing.assert_allclose(
        result, route(poses, kernel, bias)[0], rtol=1e-11, atol=1e-11
    )


@needs_float64
def test_gradient():
    poses, kernel, bias = random(1, 5, 2), random(5, 2, 3, 2), random(3, 2)

    def total(poses):
        layer = CapsuleLayer(3, 2, dtype="float64")
        layer.build(poses.shape)
        layer.set_weights([kernel, bias])
        capsules = layer(poses)
        return ops.sum(
            capsules * ops.convert_to_tensor(random(*capsules.shape))
        )

    np.testing.assert_allclose(
        gradient(total, poses), numeric_gradient(total, poses), atol=1e-7
    )


# Shapes.


@pytest.mark.parametrize("grid", [(2, 15), (5, 3, 2), (1, 5, 1, 6)], ids=str)
def test_grid_is_flattened(grid):
    flat = random(2, 30, 7).astype("float32")
    layer = with_random_weights(CapsuleLayer(3, 5), flat.shape)
    expected = numpy(layer(flat))
    on_grid = CapsuleLayer(3, 5)
    shape = (2, *grid, 7)
    on_grid.build(shape)
    assert on_grid.kernel.shape == layer.kernel.shape == (30, 7, 3, 5)
    on_grid.set_weights(layer.get_weights())
    result, coupling = on_grid(flat.reshape(shape), return_coupling=True)
    np.testing.assert_array_equal(numpy(result), expected)
    assert coupling.shape == (2, 30, 3)
    assert on_grid.compute_output_shape((None, *grid, 7)) == (None, 3, 5)
    assert on_grid.compute_output_shape(shape) == (2, 3, 5)


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 1, 5)], ids=str)
def test_symbolic_coupling(shape, tmp_path):
    inputs = keras.Input(shape)
    num_inputs = math.prod(shape[:-1])
    capsules, coupling = CapsuleLayer(3, 2)(inputs, return_coupling=True)
    assert capsules.shape == (None, 3, 2)
    assert coupling.shape == (None, num_inputs, 3)
    assert capsules.dtype == coupling.dtype == "float32"
    model = keras.Model(inputs, [capsules, coupling])
    poses = random(5, *shape)
    for batch in [5, 1]:
        outputs, shares = model.predict(poses[:batch], verbose=0)
        assert outputs.shape == (batch, 3, 2)
        assert shares.shape == (batch, num_inputs, 3)
        np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-5)
    # The loaded model still returns it.
    loaded = check_saving(keras.Model(inputs, coupling), poses, tmp_path)
    assert loaded.output_shape == (None, num_inputs, 3)


def test_symbolic_coupling_in_16_bits():
    layer = CapsuleLayer(3, 2, dtype="mixed_bfloat16")
    symbolic = layer(keras.Input((7, 5)), return_coupling=True)
    eager = layer(random(2, 7, 5), return_coupling=True)
    for spec, tensor in zip(symbolic, eager, strict=True):
        assert spec.dtype == "bfloat16"
        assert keras.backend.standardize_dtype(tensor.dtype) == "bfloat16"
        assert tuple(tensor.shape[1:]) == spec.shape[1:]


# Weights.


def test_weights():
    layer = CapsuleLayer(5, 11)
    layer.build((None, 7, 3))
    assert layer.kernel.shape == (7, 3, 5, 11)
    assert layer.bias.shape == (5, 11)
    assert [weight.name for weight in layer.weights] == ["kernel", "bias"]
    np.testing.assert_array_equal(numpy(layer.bias), np.float32(0.1))

    layer = CapsuleLayer(5, 11, use_bias=False)
    layer.build((None, 7, 3))
    assert layer.bias is None
    assert [weight.name for weight in layer.weights] == ["kernel"]


@pytest.mark.parametrize(
    "num_inputs, input_dim, num_capsules, capsule_dim, expected",
    [
        (1152, 8, 10, 16, 10 / math.sqrt(1152 * 16)),
        (16, 64, 3, 16, 3 / math.sqrt(16 * 16)),
        # With many outputs and few inputs, a vote is as long as its input.
        (4, 16, 100, 9, 1 / math.sqrt(9)),
        (1, 64, 4, 64, 1 / math.sqrt(64)),
    ],
)
def test_default_standard_deviation(
    num_inputs, input_dim, num_capsules, capsule_dim, expected
):
    keras.utils.set_random_seed(1)
    kernels = []
    for _ in range(4):  # of so many numbers, chance hardly moves the mean
        layer = CapsuleLayer(num_capsules, capsule_dim)
        layer.build((None, num_inputs, input_dim))
        kernels.append(numpy(layer.kernel))
    kernel = np.stack(kernels)
    assert kernel.mean() == pytest.approx(0, abs=0.02 * expected)
    assert kernel.std() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("num_inputs", [16, 1000])
def test_uniform_sums_are_as_long_as_an_input(num_inputs):
    keras.utils.set_random_seed(1)
    layer = CapsuleLayer(3, 16)
    layer.build((None, num_inputs, 8))
    poses = random(200, num_inputs, 8)
    poses *= 0.5 / np.linalg.norm(poses, axis=-1, keepdims=True)
    sums = np.einsum("bid,idje->bje", poses, numpy(layer.kernel)) / 3
    length = np.sqrt(np.mean(np.sum(sums**2, axis=-1)))
    assert length == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    "initializer", ["ones", keras.initializers.Constant(1.0)], ids=type
)
def test_initializers(initializer):
    layer = CapsuleLayer(
        5, 2, kernel_initializer=initializer, bias_initializer=initializer
    )
    layer.build((None, 7, 3))
    np.testing.assert_array_equal(numpy(layer.kernel), np.ones((7, 3, 5, 2)))
    np.testing.assert_array_equal(numpy(layer.bias), np.ones((5, 2)))


def test_regularizers():
    layer = CapsuleLayer(
        5,
        2,
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer="l1",
    )
    layer(random(2, 7, 3))
    kernel_loss, bias_loss = layer.losses
    expected = 0.1 * np.sum(numpy(layer.kernel) ** 2)
    assert numpy(kernel_loss) == pytest.approx(expected, rel=1e-5)
    assert numpy(bias_loss) == pytest.approx(0.01 * 10 * 0.1)


def test_constraints():
    layer = CapsuleLayer(
        5,
        2,
        bias_initializer=keras.initializers.Constant(-1.0),
        kernel_constraint="non_neg",
        bias_constraint=keras.constraints.NonNeg(),
    )
    model = keras.Sequential([keras.Input((7, 3)), layer])
    assert (numpy(layer.kernel) < 0).any()
    model.compile("sgd", "mse")
    model.fit(random(2, 7, 3), random(2, 5, 2), verbose=0)
    assert (numpy(layer.kernel) >= 0).all()
    assert (numpy(layer.bias) >= 0).all()


# Learning starts at once.


def learnable(num_inputs, dim=4, classes=3, length=0.5):
    """Poses of a length, each near one that stands for its class."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    labels = np.arange(24) % classes
    poses = rng.normal(0, 1, (classes, num_inputs, dim))[labels]
    poses += rng.normal(0, 1, poses.shape)
    poses *= length / np.linalg.norm(poses, axis=-1, keepdims=True)
    return poses.astype("float32"), labels


def progress(model, poses, labels):
    """The loss after 25 steps as a share of the first one."""
    losses = model.fit(poses, labels, batch_size=24, epochs=25, verbose=0)
    losses = losses.history["loss"]
    return losses[-1] / losses[0]


@pytest.mark.parametrize(
    "num_inputs", [16, pytest.param(4000, marks=pytest.mark.slow)]
)
def test_learning_starts_at_once(num_inputs):
    poses, labels = learnable(num_inputs)
    model = keras.Sequential(
        [keras.Input((num_inputs, 4)), CapsuleLayer(3, 8), CapsuleLength()]
    )
    compile_for_one_trace(model, keras.optimizers.Adam(1e-3), MarginLoss())
    assert progress(model, poses, labels) < 0.8


@pytest.mark.parametrize(
    "num_inputs", [16, pytest.param(4000, marks=pytest.mark.slow)]
)
def test_learning_starts_for_the_initial_kernel(num_inputs):
    # Neither a bias that makes capsules long nor Adam, which makes up for
    # small gradients. A step moves the sum of votes as far for any number of
    # inputs.
    poses, labels = learnable(num_inputs)
    layer = CapsuleLayer(3, 8, use_bias=False)
    model = keras.Sequential(
        [keras.Input((num_inputs, 4)), layer, CapsuleLength()]
    )
    initial = numpy(layer.kernel)
    optimizer = keras.optimizers.SGD(4.0 / num_inputs)
    compile_for_one_trace(model, optimizer, MarginLoss())
    assert progress(model, poses, labels) < 0.8

    # The test notices a kernel that is ten times too small.
    small = keras.initializers.TruncatedNormal(stddev=0.1 * initial.std())
    layer.kernel.assign(small(initial.shape))
    assert progress(model, poses, labels) > 0.8


@pytest.mark.parametrize(
    "routing",
    ["dynamic", pytest.param("self_attention", marks=pytest.mark.slow)],
)
def test_learning_starts_for_few_long_capsules(routing):
    poses, labels = learnable(16, dim=8, classes=10, length=1.0)
    layer = CapsuleLayer(10, 16, routing=routing, use_bias=False)
    model = keras.Sequential([keras.Input((16, 8)), layer, CapsuleLength()])
    initial = numpy(layer.kernel)
    compile_for_one_trace(model, keras.optimizers.Adam(1e-3), MarginLoss())
    assert progress(model, poses, labels) < 0.55

    # With longer votes, which would make output capsules as long as input
    # capsules, the first iteration decides everything.
    layer.kernel.assign(2.5 * initial)
    assert progress(model, poses, labels) > 0.6


# The arguments of a routing.


@keras.saving.register_keras_serializable(package="test_capsule_layer")
class WeightedSum(Routing):
    """Has weights, and remembers its arguments."""

    def build(self, layer, spec):
        self.built_with = tuple(spec)
        shape = (spec.num_outputs, spec.num_inputs)
        weight = layer.add_weight(name="share", shape=shape)
        return {"share": weight}

    def route(
        self,
        votes,
        weights,
        activations=None,
        bias=None,
        windows=None,
        outputs=None,
    ):
        assert windows is None and outputs is None
        self.called_with = (activations, bias)
        share = ops.broadcast_to(weights["share"], ops.shape(votes)[:3])
        poses = weighted_sum(share, votes)
        return Routed(poses if bias is None else poses + bias, None, share)

    def finish(self, routed, weights, training):
        self.finished_with = (weights, training)
        return routed


def test_routing_with_weights(tmp_path):
    layer = CapsuleLayer(5, 2, routing=WeightedSum())
    with_random_weights(layer, (None, 7, 3))
    names = [weight.name for weight in layer.weights]
    assert names == ["kernel", "bias", "share"]
    assert layer.routing.built_with == (7, 5, (1, 2), (1, 3))
    kernel, bias, share = weights_of(layer)
    poses = random(2, 7, 3)
    expected = np.einsum("ji,bid,idje->bje", share, poses, kernel) + bias
    result, coupling = layer(poses, return_coupling=True)
    np.testing.assert_allclose(numpy(result), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numpy(coupling)[1], share.T, rtol=1e-6)
    activations, seen = layer.routing.called_with
    assert activations is None
    assert seen.shape == (5, 2)
    check_saving(
        keras.Sequential([keras.Input((7, 3)), layer]), poses, tmp_path
    )


def test_one_routing_serves_two_layers():
    routing = WeightedSum()
    layers = [CapsuleLayer(5, 2, routing=routing, use_bias=False)]
    layers.append(CapsuleLayer(3, 4, routing=routing, use_bias=False))
    model = keras.Sequential([keras.Input((7, 3)), *layers])
    assert [weight.shape for weight in model.weights] == [
        (7, 3, 5, 2),
        (5, 7),
        (5, 2, 3, 4),
        (3, 5),
    ]
    assert model(random(2, 7, 3)).shape == (2, 3, 4)


@pytest.mark.parametrize("training", [True, False, None])
def test_training_is_passed_to_the_routing(training):
    layer = CapsuleLayer(5, 2, routing=WeightedSum(), use_bias=False)
    layer(random(2, 7, 3), training=training)
    _, bias = layer.routing.called_with
    assert bias is None
    weights, seen = layer.routing.finished_with
    assert weights is layer.routing_weights
    assert seen is bool(training)


def test_an_empty_batch_and_integers():
    layer = CapsuleLayer(3, 2)
    assert tuple(layer(np.ones((0, 5, 7), "float32")).shape) == (0, 3, 2)
    np.testing.assert_allclose(
        numpy(layer(np.ones((2, 5, 7), "int32"))),
        numpy(layer(np.ones((2, 5, 7), "float32"))),
        rtol=1e-6,
    )


def test_16_bits_stay_near_float32():
    """Logits, softmax and squash are computed in float32 inside."""
    inputs = np.random.default_rng(0).normal(size=(2, 1152, 8)) * 0.3
    exact = CapsuleLayer(10, 16)
    exact.build(inputs.shape)
    for policy, tolerance in (
        ("mixed_float16", 2e-3),
        ("mixed_bfloat16", 1e-2),
    ):
        rounded = CapsuleLayer(10, 16, dtype=policy)
        rounded.build(inputs.shape)
        rounded.set_weights(exact.get_weights())
        np.testing.assert_allclose(
            numpy(ops.cast(rounded(inputs), "float32")),
            numpy(exact(inputs)),
            atol=tolerance,
        )
