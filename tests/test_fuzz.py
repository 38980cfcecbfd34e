"""Random layers, networks and labels keep the laws that hold for all of them.

`make test` runs a few cases, always the same ones; `make fuzz` runs 10,000 new
ones. Case and seed of a failure are printed, and repeated first in later runs.
"""

import functools
import pathlib
import tempfile
from unittest import mock

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import keras_capsules
from keras_capsules import layers
from keras_capsules import routing as routings
from keras_capsules.layers import PropagateNaN
from keras_capsules.models import batches
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import mixtures
from tests.helpers import modes
from tests.helpers import networks
from tests.helpers.testing import BACKEND
from tests.helpers.testing import arrays
from tests.helpers.testing import on_one_backend

# JAX compiles every new shape for seconds.
pytestmark = on_one_backend

SIZES = st.integers(1, 4)
NUMBERS = np.random.default_rng(0).normal(size=10**4)

# Routings.

OPTIONS = {
    "dynamic": st.fixed_dictionaries(
        {
            "num_iterations": st.integers(1, 3),
            "leaky": st.booleans(),
            "stop_gradient": st.booleans(),
        }
    ),
    "em": st.fixed_dictionaries(
        {
            "num_iterations": st.integers(1, 3),
            "inverse_temperature": st.sampled_from([1e-3, 0.01, 1.0]),
            "inverse_temperature_decay": st.sampled_from([0.0, 0.95]),
            "min_variance": st.sampled_from([1e-4, 1.0]),
            "cost_scale": st.sampled_from([1.0, 30.0, "normalized"]),
        }
    ),
    "inverted_attention": st.fixed_dictionaries(
        {
            "num_iterations": st.integers(1, 3),
            "scale_agreement": st.booleans(),
            "center": st.booleans(),
            "scale": st.booleans(),
        }
    ),
    "self_attention": st.just({}),
    "self_routing": st.just({}),
    "variational_bayes": st.fixed_dictionaries(
        {
            "num_iterations": st.integers(1, 3),
            "covariance": st.sampled_from(["diagonal", "diagonal", "full"]),
            "batch_normalization": st.booleans(),
            "covariance_prior": st.sampled_from([1.0, 100.0]),
        }
    ),
}


@st.composite
def some_routing(draw):
    name = draw(st.sampled_from(sorted(routings.ROUTINGS)))
    options = draw(OPTIONS.get(name, st.just({})))
    return routings.ROUTINGS[name](**options)


# Layers, the shapes of their inputs, and what kind of capsules these are.


@st.composite
def routed(draw):
    routing = draw(some_routing())
    kind = draw(st.sampled_from(["dense", "1d", "2d", "transposed"]))
    inputs, outputs = draw(SIZES), draw(SIZES)
    rows, dim = draw(st.sampled_from([None, 1, 2, 3])), draw(SIZES)
    output_dim = draw(SIZES)
    capsule_dim = output_dim if rows is None else (rows, output_dim)
    pose = (dim,) if rows is None else (rows, dim)
    if kind == "dense":
        layer = layers.CapsuleLayer(outputs, capsule_dim, routing=routing)
        grid = draw(st.sampled_from([(), (2,), (2, 3)]))
    else:
        layer_class, axes = {
            "1d": (layers.ConvCapsules1D, 1),
            "2d": (layers.ConvCapsules2D, 2),
            "transposed": (layers.ConvCapsules2DTranspose, 2),
        }[kind]
        layer = layer_class(
            outputs,
            capsule_dim,
            draw(st.integers(1, 3)),
            draw(st.integers(1, 2)),
            draw(st.sampled_from(["valid", "same"])),
            routing=routing,
        )
        grid = tuple(draw(st.integers(3, 4)) for _ in range(axes))
    # Matrices always have activations beside them.
    is_pair = rows is not None or draw(st.booleans())
    return layer, (*grid, inputs, *pose), len(pose) if is_pair else 0


@st.composite
def plain(draw):
    """Layers that do not route."""
    kind = draw(st.sampled_from(["primary", "matrix", "length", "shared"]))
    grid = (draw(st.integers(3, 5)), draw(st.integers(3, 5)))
    number, dim = draw(SIZES), draw(SIZES)
    if kind == "primary":
        activation = draw(st.sampled_from(["squash", "exponential_squash"]))
        layer = layers.PrimaryCapsules(number, dim, 2, activation=activation)
        return layer, (*grid, draw(SIZES)), 0
    if kind == "matrix":
        layer = layers.MatrixPrimaryCapsules(number, (2, dim))
        return layer, (*grid, draw(SIZES)), 0
    if kind == "shared":
        layer = layers.SharedKernelConvCapsules2D(number, dim)
        return layer, (*grid, draw(SIZES), draw(SIZES)), 0
    return layers.CapsuleLength(), (*grid, number, dim), 0


# The largest poses of which outputs and gradients are finite, in float32. A
# routing may take the lengths of vectors for activations; these are
# probabilities, and what is larger counts as more than one capsule.
LARGEST, LARGEST_VECTORS = 1e12, 1e6
MAGNITUDES = [0.0, 1e-30, 1e-4, 1.0, 1.0, 1e3, LARGEST_VECTORS, LARGEST]


def case(draw):
    layer, shape, pose_axes = draw(st.one_of(routed(), routed(), plain()))
    dtype = draw(st.sampled_from(["float32", "float32", "mixed_bfloat16"]))
    layer = type(layer).from_config({**layer.get_config(), "dtype": dtype})
    batch = draw(st.integers(0, 4))
    size = draw(st.sampled_from(MAGNITUDES))
    if not pose_axes:
        size = min(size, LARGEST_VECTORS)
    start = draw(st.integers(0, 100))
    inputs = [numbers(batch, shape, start, size)]
    if pose_axes:
        uniform = np.random.default_rng(start).uniform
        activations = uniform(size=(batch, *shape[:-pose_axes]))
        inputs.append(activations.astype("float32"))
    hypothesis.note(f"{layer.get_config()}, {batch=}, {shape=}, {size=}")
    return layer, inputs, size


def numbers(batch, shape, start, size):
    total = batch * int(np.prod(shape))
    x = NUMBERS[start : start + total]
    return (size * x).reshape(batch, *shape).astype("float32")


def call(layer, inputs, **options):
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
    inputs = inputs if len(inputs) == 2 else inputs[0]
    return arrays(layer(inputs, **options))


def check_layer(data):
    keras.utils.set_random_seed(2)
    layer, inputs, size = case(data.draw)
    shapes = [x.shape for x in inputs]
    outputs = call(layer, inputs)
    announced = keras.tree.flatten(
        keras.tree.map_shape_structure(
            tuple,
            layer.compute_output_shape(
                shapes if len(shapes) == 2 else shapes[0]
            ),
        )
    )
    flat = [size for one in outputs for size in one.shape]
    assert flat == announced
    for one in outputs:
        assert np.isfinite(one).all()
    check_range(layer, outputs)
    batch = len(inputs[0])
    if batch == 0:
        return
    if layer.dtype_policy.name == "float32":  # others are cast by the layer
        check_gradients(layer, inputs)
    check_each_by_itself(layer, inputs, outputs, size)


def check_range(layer, outputs):
    routing = getattr(layer, "routing", None)
    if len(outputs) == 2:
        assert (outputs[1] >= 0).all() and (outputs[1] <= 1.001).all()
    elif routing is not None and routing.activation_from == "length":
        lengths = np.linalg.norm(outputs[0].astype("float64"), axis=-1)
        assert (lengths <= 1.01).all()


def check_gradients(layer, inputs):
    names = ["poses", "activations"][: len(inputs)]
    function, weights = modes.of_layer(
        layer, names if len(inputs) == 2 else None
    )
    names = names if len(inputs) == 2 else ["inputs"]
    examples = dict(zip(names, inputs, strict=True))
    for name, x in modes.run("eager", function, examples, weights).items():
        assert np.isfinite(x).all(), name


def check_each_by_itself(layer, inputs, outputs, size):
    """No example depends on another one, however broken that is."""
    # What agrees by chance is decided by rounding.
    is_exact = size <= 1 and layer.dtype_policy.name == "float32"
    single = call(layer, [x[-1:] for x in inputs])
    for one, other in zip(single, outputs, strict=True):
        assert one.shape == other[-1:].shape
        if is_exact:
            np.testing.assert_allclose(one, other[-1:], rtol=1e-3, atol=1e-4)
    broken = [x.copy() for x in inputs]
    broken[0][0] = np.nan
    for one in call(layer, broken):
        is_broken = np.isnan(one[0])
        if has_gaps(layer):
            assert is_broken.any()
        else:
            assert is_broken.all() or not has_weights(layer)
        assert np.isfinite(one[1:]).all()


def has_gaps(layer):
    """Whether some outputs of a transposed layer are of no inputs."""
    if not isinstance(layer, layers.ConvCapsules2DTranspose):
        return False
    return any(np.greater(layer.strides, layer.kernel_size))


def has_weights(layer):
    # A squash of no inputs, say of a pair without poses, is not broken.
    return bool(layer.weights)


@hypothesis.given(st.data())
def test_layers(data):
    check_layer(data)


# Normalized poses have the same spread at every magnitude.


NORMALIZED = st.integers(2, 7), st.floats(-3, 37), st.integers(0, 100)


@hypothesis.given(*NORMALIZED)
def test_normalized_poses_of_any_magnitude(size, exponent, start):
    check_normalized(size, exponent, start)


def check_normalized(size, exponent, start):
    votes = numbers(2, (3, 4, size), start, 1.0)
    votes = votes / np.abs(votes).max() * np.float32(10.0**exponent / 16)
    routing = InvertedAttentionRouting(1)
    *_, result = routing.route(keras.ops.convert_to_tensor(votes), {})
    sums = votes.astype("float64").sum(axis=2) / 3
    sums -= sums.mean(axis=2, keepdims=True)
    spread = np.sqrt(sums.var(axis=2, keepdims=True) + routing.epsilon)
    poses = keras.ops.convert_to_numpy(result.poses)
    np.testing.assert_allclose(poses, sums / spread, atol=0.01)


# Networks.

WITH_DECODER = [
    name
    for name in networks.NAMES
    if any(key.startswith("decoder") for key in networks.OPTIONS[name])
]


@functools.cache
def network(name):
    keras.utils.set_random_seed(2)
    return networks.make(name)


@functools.cache
def served(name):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model"
        keras_capsules.export_saved_model(network(name), path)
        return tf.saved_model.load(path)


def as_tensor(x):
    return keras.ops.convert_to_tensor(x)


PATHS = {
    "call": lambda model, x: model(as_tensor(x)),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
    "encode": lambda model, x: model.encode(x),
    "encode tensor": lambda model, x: model.encode(as_tensor(x)),
    "reconstruct": lambda model, x: model.reconstruct(x),
    "reconstruct tensor": lambda model, x: model.reconstruct(as_tensor(x)),
    "decode": lambda model, x: model.decode(
        model.encode(x), np.zeros(len(x), int)
    ),
}
SERVED = {
    "serve": lambda model, x: model.serve(x),
    "serve capsules": lambda model, x: model.capsules(x),
    "serve reconstruct": lambda model, x: model.reconstruct(x),
}
NO_CAPSULES = [name for name in networks.NAMES if name not in WITH_DECODER]


def check_network(data, names=WITH_DECODER, paths=tuple(PATHS)):
    name = data.draw(st.sampled_from(names))
    path = data.draw(st.sampled_from(paths))
    # TensorFlow's graphs convolve no images to wrong sizes.
    batch = data.draw(st.integers(path in SERVED, 3))
    images = networks.images(5)[:batch]
    broken = data.draw(st.sets(st.integers(0, 2), max_size=2))
    broken = sorted(n for n in broken if n < batch)
    value = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    for n in broken:
        pixels = images[n].reshape(-1)
        pixels[data.draw(st.integers(0, pixels.size - 1))] = value
    if path in SERVED:
        outputs = SERVED[path](served(name), images)
    else:
        outputs = PATHS[path](network(name), images)
    for one in arrays(outputs):
        assert len(one) == batch
        for n in range(batch):
            if n in broken:
                assert np.isnan(one[n]).all(), (name, path)
            else:
                assert np.isfinite(one[n]).all(), (name, path)


def check_any_network(data):
    check_network(data)


@hypothesis.given(st.data())
def test_networks(data):
    check_any_network(data)


@hypothesis.given(st.data())
def test_networks_without_capsules(data):
    check_network(data, NO_CAPSULES, ("call", "predict_on_batch"))


@pytest.mark.skipif(BACKEND == "torch", reason="exports no SavedModels")
@hypothesis.given(st.data())
def test_saved_models(data):
    check_network(data, ["CapsNet", "EfficientCapsNet"], tuple(SERVED))


# Labels.


@hypothesis.given(st.data())
def test_labels(data):
    """Valid labels of every form give the loss of the formula, others none."""
    classes, batch = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    kind = data.draw(st.sampled_from(["integers", "column", "multi-hot"]))
    dtype = data.draw(st.sampled_from(["int32", "uint8", "float32", "int64"]))
    shape = {
        "integers": (batch,),
        "column": (batch, 1),
        "multi-hot": (batch, classes),
    }[kind]
    highest = 2 if kind == "multi-hot" else classes + 1
    values = st.integers(0 if dtype == "uint8" else -1, highest)
    count = int(np.prod(shape))
    labels = np.array(
        data.draw(st.lists(values, min_size=count, max_size=count)), dtype
    ).reshape(shape)
    scores = np.random.default_rng(batch).uniform(size=(batch, classes))
    scores = scores.astype("float32")
    loss = keras_capsules.losses.margin_loss
    limit = 1 if kind == "multi-hot" else classes - 1
    wide = labels.astype("int64").reshape(batch, -1)
    invalid = ((wide < 0) | (wide > limit)).any(axis=1)
    found = keras.ops.convert_to_numpy(loss(as_tensor(labels), scores))
    np.testing.assert_array_equal(np.isnan(found), invalid)
    if invalid.any():
        with pytest.raises(ValueError, match="out of range.*Received: y_true="):
            loss(labels, scores)
        return
    present = wide if kind == "multi-hot" else np.eye(classes)[wide[:, 0]]
    expected = present * np.maximum(0, 0.9 - scores) ** 2
    expected += 0.5 * (1 - present) * np.maximum(0, scores - 0.1) ** 2
    np.testing.assert_allclose(found, expected.sum(axis=1), rtol=1e-4)


# What the laws are worth: faults of the past, put back.


def exponentiated(logits, windows):
    """Shares divided after they were exponentiated."""
    powers = keras.ops.exp(logits)
    return keras.ops.log(powers / keras.ops.sum(powers, 1, keepdims=True))


def not_rescaled(self, poses, weights):
    variance = keras.ops.var(poses, axis=2, keepdims=True)
    mean = keras.ops.mean(poses, axis=2, keepdims=True)
    return (poses - mean) * keras.ops.rsqrt(variance + self.epsilon)


FAULTS = {
    "NaN is swallowed": (
        (check_any_network, st.data()),
        (PropagateNaN, "call", lambda self, inputs, features: features),
    ),
    "no rescaling": (
        (check_normalized, *NORMALIZED),
        (InvertedAttentionRouting, "_normalize", not_rescaled),
    ),
    "shares underflow": (
        (check_layer, st.data()),
        (mixtures, "log_shares", exponentiated),
    ),
    "empty batches": (
        (check_any_network, st.data()),
        (batches, "is_empty", lambda x: False),
    ),
}


# An assertion of a law, or an error of a layer.
# A warning that no test expects is an error.
WRONG = AssertionError, ValueError, RuntimeError, UserWarning, tf.errors.OpError


def search(check, *strategies, **options):
    """Runs cases until one fails, without looking for a smaller failure."""
    settings = hypothesis.settings(
        database=None,
        phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False,
        **options,
    )
    network.cache_clear()  # compiled functions hold the code of their time
    try:
        settings(hypothesis.given(*strategies)(check))()
    finally:
        network.cache_clear()


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_are_put_back_are_found(fault):
    (check, *strategies), (owner, name, function) = FAULTS[fault]
    search(check, *strategies, max_examples=2)  # nothing without the fault
    with mock.patch.object(owner, name, function):
        with pytest.raises(WRONG) as raised:
            search(check, *strategies, max_examples=300)
    # What hypothesis says of a wrong use is no finding.
    assert not type(raised.value).__module__.startswith("hypothesis")
