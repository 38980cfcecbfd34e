"""Routings that users write, with the documented helpers.

One is a class with a single method, one goes on from earlier outputs, and one
has all that a routing may have.
"""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules1D
from keras_capsules import ConvCapsules2D
from keras_capsules import ConvCapsules2DTranspose
from keras_capsules import ConvCapsules3D
from keras_capsules.layers import CapsuleStack
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.routing import agreement
from keras_capsules.routing import run as engine
from keras_capsules.routing import softmax_over_outputs
from keras_capsules.routing import weighted_sum
from tests.helpers import modes
from tests.helpers.capsules import places_of_windows
from tests.helpers.testing import BACKEND
from tests.helpers.testing import arrays
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy


@keras.saving.register_keras_serializable(package="third_party")
class Least(Routing):
    """Votes that agree with the mean of all votes count for more."""

    def route(self, votes):
        means = ops.mean(votes, axis=2)
        coupling = softmax_over_outputs(agreement(votes, means))
        return Routed(weighted_sum(coupling, votes), None, coupling)


@keras.saving.register_keras_serializable(package="third_party")
class GoesOn(Routing):
    """The same, or votes that agree with earlier outputs do."""

    activation_from = "nothing"

    def route(self, votes, outputs=None):
        if outputs is None:
            outputs = ops.mean(votes, axis=2)
        coupling = softmax_over_outputs(agreement(votes, outputs))
        return Routed(ops.tanh(weighted_sum(coupling, votes)), None, coupling)


@keras.saving.register_keras_serializable(package="third_party")
class Most(Routing):
    """Everything that a routing may take, make and have."""

    activation_from = "routing"
    averages = True

    def __init__(self, num_iterations=3):
        self.num_iterations = num_iterations

    def build(self, layer, spec):
        mixing = keras.layers.Dense(spec.num_outputs, name="mixing")
        mixing.build((None, spec.num_outputs))
        return {
            "gain": layer.add_weight(name="gain", shape=(spec.num_outputs,)),
            "mixing": mixing,
        }

    def route(self, votes, weights, poses, activations, bias, windows=None):
        given = ops.cast(activations, votes.dtype)
        given = given * ops.mean(ops.square(poses), axis=2)  # [b, i]
        if windows is not None:  # outputs of all windows compete
            given = given / windows.sum(ops.ones_like(given))
        logits = ops.zeros_like(votes[..., 0])
        for _ in range(self.num_iterations):
            coupling = softmax_over_outputs(logits)
            shares = coupling * given[:, None]
            sums = weighted_sum(shares, votes) + bias
            yield Routed(sums, ops.sum(shares, axis=2), coupling)
            logits = weights["gain"][:, None] * agreement(votes, sums)

    def finish(self, routed, weights, training):
        poses = routed.poses * (2.0 if training else 1.0)
        activations = ops.sigmoid(weights["mixing"](routed.activations))
        return Routed(poses, activations, routed.coupling)

    def get_config(self):
        return {"num_iterations": self.num_iterations}


# The same with NumPy. Examples are n, which may be windows.


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def agreeing(votes, targets):
    return np.einsum("njif,njf->nji", votes, targets)


def summed(coupling, votes):
    return np.einsum("nji,njif->njf", coupling, votes)


def least(votes):
    coupling = softmax(agreeing(votes, votes.mean(axis=2)))
    return [summed(coupling, votes), coupling]


def going_on(votes, outputs=None):
    if outputs is None:
        outputs = votes.mean(axis=2)
    coupling = softmax(agreeing(votes, outputs))
    return [np.tanh(summed(coupling, votes)), coupling]


def most(votes, poses, activations, weights, number, training):
    """`number` counts the windows that contain each input capsule."""
    given = activations * np.square(poses).mean(axis=2) / number
    logits = np.zeros(votes.shape[:3])
    for _ in range(3):
        coupling = softmax(logits)
        shares = coupling * given[:, None]
        sums = summed(shares, votes) + weights["bias"]
        logits = weights["gain"][:, None] * agreeing(votes, sums)
    mixed = shares.sum(axis=2) @ weights["kernel"] + weights["mixing bias"]
    return [sums * (1 + training), 1 / (1 + np.exp(-mixed)), coupling]


# Layers, with distinct primes for sizes.

BATCH, OUTPUTS, OUT_DIM, DIM, ROWS, TYPES = 3, 5, 7, 2, 3, 3
# Of each convolution, the size of its grid and of its windows.
CONVOLUTIONS = {
    "signal": (ConvCapsules1D, (7,), (3,)),
    "conv": (ConvCapsules2D, (5, 4), (3, 2)),
    "volume": (ConvCapsules3D, (3, 2, 4), (2, 1, 3)),
    "transposed": (ConvCapsules2DTranspose, (2, 3), (3, 2)),
}
STRIDES = 2  # of the transposed convolution


def windows_of(kind):
    """For each window of a convolution, its places on the grid."""
    _, size, window = CONVOLUTIONS[kind]
    return places_of_windows(size, window, [1] * len(size), "valid")[0]


def unfold(kind, grid):
    """The input capsules of each window, `[b windows, places types, ...]`."""
    windows = [
        np.concatenate([grid[(slice(None), *at)] for at in window], axis=1)
        for window in windows_of(kind)
    ]
    return np.stack(windows, axis=1).reshape(-1, *windows[0].shape[1:])


def count_windows(kind):
    """Of each input capsule of each window, the windows that contain it."""
    count = np.zeros((BATCH, *CONVOLUTIONS[kind][1], TYPES))
    for window in windows_of(kind):
        for at in window:
            count[(slice(None), *at)] += 1
    return unfold(kind, count)


def unfold_transposed(grid):
    """What contributes to each output, `[b positions, types, places, ...]`."""
    (height, width), window = CONVOLUTIONS["transposed"][1:]
    size = [STRIDES * height + 1, STRIDES * width]
    found = np.zeros((BATCH, *size, TYPES, *window, *grid.shape[4:]))
    for y, x in np.ndindex(height, width):
        for row, column in np.ndindex(window):
            at = STRIDES * y + row, STRIDES * x + column
            found[(slice(None), *at, slice(None), row, column)] = grid[:, y, x]
    return found.reshape(-1, TYPES, math.prod(window), *grid.shape[4:])


def make(kind, routing, dtype="float32"):
    """A built layer with weights of some size, and its input."""
    dims, options = (DIM,), {"routing": routing, "dtype": dtype}
    if kind in CONVOLUTIONS:
        layer, size, window = CONVOLUTIONS[kind]
        if kind == "transposed":
            options |= {"strides": STRIDES, "share_over_types": False}
        layer = layer(OUTPUTS, OUT_DIM, window, **options)
        shape = (BATCH, *size, TYPES)
    else:
        dim = OUT_DIM
        if kind == "matrices":
            dim, dims = (ROWS, OUT_DIM), (ROWS, DIM)
        layer = CapsuleLayer(OUTPUTS, dim, **options)
        shape = (BATCH, 11)
    numbers = np.random.default_rng(0)
    inputs = numbers.normal(size=(*shape, *dims)).astype("float32")
    if routing.activation_from == "routing":
        inputs = [inputs, numbers.uniform(size=shape).astype("float32")]
    layer.build(keras.tree.map_structure(lambda x: x.shape, inputs))
    for weight in layer.weights:
        weight.assign(numbers.normal(0, 0.3, weight.shape))
    return layer, inputs


def expected(kind, layer, inputs, training=False):
    """The expected output of the layer, with its coupling, as a flat list."""
    weights = {
        weight.path.split("/")[-1]: numpy(weight.value).astype("float64")
        for weight in layer.weights
        if "mixing" not in weight.path
    }
    poses, activations = inputs if isinstance(inputs, list) else (inputs, None)
    kernel, number, grid = weights.pop("kernel"), 1, ()
    if kind in CONVOLUTIONS:
        grid = layer.compute_output_shape(poses.shape[:-1] + (DIM,))
        grid = (grid[0] if isinstance(grid[0], tuple) else grid)[1:-2]
    if kind == "transposed":
        kernel = np.moveaxis(kernel, 2, 0)
        kernel = kernel.reshape(TYPES, -1, *kernel.shape[-2:])
        poses = unfold_transposed(poses)
        poses = poses.reshape(len(poses), TYPES, -1)
        if activations is not None:
            activations = unfold_transposed(activations).max(axis=2)
    elif kind in CONVOLUTIONS:
        kernel = kernel.reshape(-1, *kernel.shape[-3:])
        poses, number = unfold(kind, poses), count_windows(kind)
        if activations is not None:
            activations = unfold(kind, activations)
    # Vectors are matrices of one row.
    matrices = poses.reshape(*poses.shape[:2], -1, poses.shape[-1])
    votes = np.einsum("nipd,idje->njipe", matrices, kernel)
    votes = votes.reshape(*votes.shape[:3], -1)
    poses = poses.reshape(*poses.shape[:2], -1)
    if isinstance(layer.routing, Most):
        mixing = layer.routing_weights["mixing"]
        weights["kernel"] = numpy(mixing.kernel.value)
        weights["bias"] = weights["bias"].reshape(OUTPUTS, -1)
        weights["mixing bias"] = numpy(mixing.bias.value)
        results = most(votes, poses, activations, weights, number, training)
    else:
        form = least if isinstance(layer.routing, Least) else going_on
        results = form(votes)
    results[-1] = results[-1].transpose(0, 2, 1)
    if kind == "matrices":
        results[0] = results[0].reshape(-1, OUTPUTS, ROWS, OUT_DIM)
    return [x.reshape(BATCH, *grid, *x.shape[1:]) for x in results]


ROUTINGS = {"least": Least(), "goes-on": GoesOn(), "most": Most()}
of_all_routings = pytest.mark.parametrize(
    "routing", ROUTINGS.values(), ids=ROUTINGS.keys()
)
in_all_layers = pytest.mark.parametrize(
    "kind",
    ["dense", "matrices"]
    + [
        pytest.param(kind, marks=() if kind == "conv" else pytest.mark.slow)
        for kind in CONVOLUTIONS
    ],
)
# Poses, activations and coupling are of order 1; sums are of some ten terms.
TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 4e-2, "mixed_float16": 5e-3}


def assert_near(ours, exact, dtype="float32"):
    ours = arrays(ours)
    assert len(ours) == len(exact)
    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(
            one.astype("float64"),
            other,
            rtol=TOLERANCES[dtype],
            atol=TOLERANCES[dtype],
        )


@of_all_routings
@in_all_layers
@pytest.mark.parametrize("training", [False, True])
def test_layers_equal_the_oracle(kind, routing, training):
    layer, inputs = make(kind, routing)
    ours = layer(inputs, training=training, return_coupling=True)
    assert_near(ours, expected(kind, layer, inputs, training))


@of_all_routings
@in_all_layers
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(kind, routing, dtype):
    layer, inputs = make(kind, routing, dtype)
    ours = layer(inputs, return_coupling=True)
    compute_dtype = dtype.removeprefix("mixed_")
    for each in keras.tree.flatten(ours):
        assert keras.backend.standardize_dtype(each.dtype) == compute_dtype
    assert_near(ours, expected(kind, layer, inputs), dtype)


@of_all_routings
@in_all_layers
@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no XLA")
def test_xla(kind, routing):
    layer, inputs = make(kind, routing)

    def call(inputs):
        return layer(inputs, return_coupling=True)

    if BACKEND == "jax":
        import jax

        call = jax.jit(call)
    else:
        import tensorflow as tf

        call = tf.function(call, jit_compile=True)
        inputs = keras.tree.map_structure(tf.constant, inputs)
    results = arrays(call(inputs))
    exact = expected(kind, layer, keras.tree.map_structure(np.asarray, inputs))
    for ours, theirs in zip(results, exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@of_all_routings
@in_all_layers
def test_saved_and_loaded(kind, routing, tmp_path):
    layer, inputs = make(kind, routing)
    places = keras.tree.map_structure(
        lambda x: keras.Input(x.shape[1:]), inputs
    )
    model = keras.Model(places, layer(places))
    loaded = check_saving(model, inputs, tmp_path)
    again = loaded.layers[-1].routing
    assert type(again) is type(routing)
    assert again.get_config() == routing.get_config()


@in_all_layers
@pytest.mark.parametrize("mode", modes.MODES)
def test_a_few_examples_at_a_time_equal_all_at_once(kind, mode, monkeypatch):
    """Values and gradients, with all that a routing may take."""
    layer, (poses, activations) = make(kind, Most())
    names = ["poses", "activations"]
    examples = {"poses": poses, "activations": activations}
    function, weights = modes.of_layer(layer, names, training=True)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "block_size", lambda *_: 2)
        ours = modes.run(mode, function, examples, weights)

    monkeypatch.setattr(engine, "block_size", lambda *_: None)
    exact = modes.run(modes.MODES[0], function, examples, weights)
    assert ours.keys() == exact.keys()
    for name, value in exact.items():
        assert np.abs(value).max() > 0
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(
            ours[name] / scale, value / scale, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("concurrent", [True, False])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_stacks(kind, concurrent, compiled, tmp_path):
    if compiled and BACKEND == "torch":
        pytest.skip("PyTorch has no XLA")
    numbers = np.random.default_rng(0)
    routing = GoesOn()
    if kind == "dense":
        first, shape = CapsuleLayer(5, 3, routing=routing), (11, DIM)
    else:
        _, size, window = CONVOLUTIONS["conv"]
        first = ConvCapsules2D(5, 3, window, routing=routing)
        shape = (*size, TYPES, DIM)
    layers = [first, CapsuleLayer(4, 2, routing=routing)]
    stack = CapsuleStack(layers, num_iterations=3, concurrent=concurrent)
    inputs = numbers.normal(size=(BATCH, *shape)).astype("float32")
    place = keras.Input(shape)
    model = keras.Model(place, stack(place))
    for weight in stack.weights:
        weight.assign(numbers.normal(size=weight.shape))
    kernels = [numpy(layer.kernel.value).astype("float64") for layer in layers]
    axes = [(BATCH, 3, 3) if kind == "conv" else (BATCH,), (BATCH,)]

    def step(level, levels, before):
        poses, kernel = levels[level], kernels[level]
        if level == 0 and kind == "conv":
            poses = unfold(kind, poses)
            kernel = kernel.reshape(-1, *kernel.shape[3:])
        poses = poses.reshape(len(poses), -1, poses.shape[-1])
        votes = np.einsum("nid,idje->njie", poses, kernel)
        if before is None:
            return going_on(votes)[0].reshape(*axes[level], *votes.shape[1::2])
        outputs = before.reshape(len(poses), *before.shape[-2:])
        return going_on(votes, outputs)[0].reshape(before.shape)

    levels = [inputs]
    for level in range(2):
        levels.append(step(level, levels, None))
        for _ in range(0 if concurrent else 2):
            levels[-1] = step(level, levels, levels[-1])
    for _ in range(2 if concurrent else 0):
        levels = [
            inputs,
            step(0, levels, levels[1]),
            step(1, levels, levels[2]),
        ]

    call = stack
    if compiled and BACKEND == "jax":
        import jax

        call = jax.jit(stack)
    elif compiled:
        import tensorflow as tf

        call = tf.function(stack, jit_compile=True)
    assert_near(call(ops.convert_to_tensor(inputs)), [levels[-1]])
    if not compiled:
        check_saving(model, inputs, tmp_path)


def test_a_stack_takes_only_routings_that_go_on():
    with pytest.raises(ValueError, match="takes earlier outputs"):
        CapsuleStack([CapsuleLayer(5, 3, routing=Least())])


def test_errors_say_what_a_routing_does_not_take():
    layer, inputs = make("dense", Least())
    outputs = layer(inputs)
    with pytest.raises(ValueError, match="cannot start from earlier outputs"):
        layer(inputs, outputs=outputs)
    with pytest.raises(ValueError, match="adds no bias"):
        CapsuleLayer(5, 3, routing=Least(), use_bias=True)


def test_a_routing_needs_a_route():
    class Nothing(Routing):
        pass

    with pytest.raises(TypeError, match="route"):
        Nothing()
