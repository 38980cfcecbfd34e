"""Work for a few examples at a time, against the same work for all at once."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules import routing
from keras_capsules.engine import blocks
from keras_capsules.engine import compilation
from keras_capsules.engine.blocks import block_size
from keras_capsules.engine.blocks import over_examples
from keras_capsules.engine.votes import make_votes
from keras_capsules.routing import run as engine
from tests.helpers import modes
from tests.helpers.gradients import assert_close
from tests.helpers.testing import BACKEND

SIZE = 6  # of a block
# None, one, a block, a block and one, two blocks, two blocks and a few, and
# three blocks that are somewhat smaller.
BATCHES = [0, 1, SIZE, SIZE + 1, 2 * SIZE, 2 * SIZE + 5, 3 * (SIZE - 1)]

in_all_modes = pytest.mark.parametrize("mode", modes.MODES)
of_all_batches = pytest.mark.parametrize("batch", BATCHES)


def random(*shape):
    numbers = np.random.default_rng(sum(shape)).normal(size=shape)
    return numbers.astype("float32")


def arrays(batch):
    """Two tensors of examples and two that they share."""
    examples = {"x": random(batch, 3), "y": random(batch, 7, 2)}
    return examples, {"w": random(3, 11), "c": random(2)}


def work(examples, shared):
    """Two results, each of all or nearly all that there is."""
    products = ops.tanh(ops.matmul(examples["x"], shared["w"]))
    sums = ops.matmul(examples["y"], shared["c"][:, None])[..., 0]
    return products, sums * ops.sum(products, axis=1, keepdims=True)


def assert_equal(ours, exact):
    assert ours.keys() == exact.keys()
    for key, value in exact.items():
        assert ours[key].shape == value.shape, key
        assert_close(ours[key], value, 1e-5)


@in_all_modes
@of_all_batches
def test_equals_the_work_for_all_at_once(batch, mode):
    def in_blocks(examples, shared):
        return over_examples(work, examples, shared, SIZE)

    ours = modes.run(mode, in_blocks, *arrays(batch))

    assert_equal(ours, modes.run(modes.MODES[0], work, *arrays(batch)))


@in_all_modes
@pytest.mark.parametrize("size", [1, 99, None])
def test_equals_the_work_for_all_at_once_with_blocks_of_other_sizes(size, mode):
    def in_blocks(examples, shared):
        return over_examples(work, examples, shared, size)

    ours = modes.run(mode, in_blocks, *arrays(7))

    assert_equal(ours, modes.run(modes.MODES[0], work, *arrays(7)))


@in_all_modes
def test_equals_the_work_for_all_at_once_without_xla(mode):
    def in_blocks(examples, shared):
        return over_examples(work, examples, shared, SIZE, xla=False)

    ours = modes.run(mode, in_blocks, *arrays(13))

    assert_equal(ours, modes.run(modes.MODES[0], work, *arrays(13)))


@in_all_modes
@of_all_batches
def test_is_given_a_few_examples_at_a_time(batch, mode):
    seen = set()

    def watched(examples, shared):
        sizes = {x.shape[0] for x in examples.values()}
        assert len(sizes) == 1
        assert shared["w"].shape == (3, 11)
        seen.update(sizes)
        return work(examples, shared)

    def in_blocks(examples, shared):
        return over_examples(watched, examples, shared, SIZE)

    modes.run(mode, in_blocks, *arrays(batch))

    # If the batch is unknown, the number of left-over examples is, too.
    expected = {None, SIZE}
    if mode != "unknown":
        expected = {
            0: {0},
            1: {1},
            SIZE: {SIZE},
            SIZE + 1: {SIZE, 1},
            2 * SIZE: {SIZE},
            2 * SIZE + 5: {SIZE, 5},
            3 * (SIZE - 1): {SIZE - 1},
        }[batch]
    assert seen == expected


def test_one_tensor_is_returned_as_one():
    examples, shared = arrays(SIZE + 2)
    result = over_examples(
        lambda examples, shared: work(examples, shared)[0],
        keras.tree.map_structure(ops.convert_to_tensor, examples),
        keras.tree.map_structure(ops.convert_to_tensor, shared),
        SIZE,
    )
    assert_close(
        ops.convert_to_numpy(result), np.tanh(examples["x"] @ shared["w"]), 1e-5
    )


def test_nothing_is_shared():
    examples = {"x": ops.convert_to_tensor(random(SIZE + 2, 3))}
    result = over_examples(lambda x, _: x["x"] * 2, examples, {}, SIZE)
    assert_close(ops.convert_to_numpy(result), random(SIZE + 2, 3) * 2, 1e-6)


# How many examples there are in a block.

VOTES, KERNEL = 1152 * 160, 1152 * 8 * 160  # of one example of the CapsNet


@pytest.mark.parametrize(
    ("kind", "size"), [("cpu", 8), ("gpu", 728), ("tpu", 728)]
)
def test_block_size_depends_on_the_device(kind, size, monkeypatch):
    monkeypatch.setattr(compilation, "device", lambda: kind)
    assert block_size(VOTES, KERNEL) == size


def test_device_is_one_that_block_size_knows():
    assert compilation.device() in ("cpu", "gpu", "tpu")


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tpu"])
def test_block_size_is_at_least_one(kind, monkeypatch):
    monkeypatch.setattr(compilation, "device", lambda: kind)
    assert block_size(10**12, 1) == 1
    assert block_size(0, 0) >= 1


def test_block_size_of_any_number_of_examples():
    """Those of a small layer at once: not every runtime has loops."""
    assert block_size(VOTES, KERNEL, is_open=True) is None
    assert block_size(10 * VOTES, KERNEL, is_open=True) == 1
    assert block_size(None, KERNEL, is_open=True) is None
    assert block_size(None, KERNEL) == 1


def test_block_size_grows_with_the_kernel(monkeypatch):
    monkeypatch.setattr(compilation, "device", lambda: "cpu")
    small, large = block_size(VOTES, 1), block_size(VOTES, 3 * KERNEL)
    assert small == 2
    # As many votes as there are numbers in the kernel.
    assert large == 3 * 8


@pytest.mark.parametrize("also", [(), ("model",)], ids=["data", "model"])
def test_block_size_is_that_of_each_device(also, monkeypatch):
    monkeypatch.setattr(compilation, "device", lambda: "cpu")
    shape = (3, 2)[: 1 + len(also)]
    names = [f"cpu:{index}" for index in range(int(np.prod(shape)))]
    mesh = keras.distribution.DeviceMesh(shape, ["batch", *also], names)
    if also:
        layout = keras.distribution.LayoutMap(mesh)
        distribution = keras.distribution.ModelParallel(
            layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
        )
    else:
        distribution = keras.distribution.DataParallel(
            mesh, auto_shard_dataset=False
        )
    monkeypatch.setattr(
        keras.distribution, "distribution", lambda: distribution
    )
    assert block_size(VOTES, KERNEL) == 3 * 8


@pytest.mark.skipif(BACKEND != "jax", reason="shards no batch")
@pytest.mark.parametrize("devices", [2, 5])
@in_all_modes
def test_blocks_across_devices_equal_the_work_for_all_at_once(
    mode, devices, monkeypatch
):
    monkeypatch.setattr(blocks, "_devices_of_a_batch", lambda: devices)

    def in_blocks(examples, shared):
        return over_examples(work, examples, shared, 2 * devices)

    # Blocks, and a rest that all devices have a part of, or that they do not.
    for batch in (6 * devices, 7 * devices, 6 * devices + 1):
        ours = modes.run(mode, in_blocks, *arrays(batch))
        exact = modes.run(modes.MODES[0], work, *arrays(batch))
        assert_equal(ours, exact)


# Layers.

EASY, HARD = ("dense", "dynamic"), ("conv", "em")


def make_layer(kind, routing):
    """A layer that is built, and the shape of one example of its input."""
    if kind == "dense":
        layer, shape = CapsuleLayer(5, 2, routing=routing), (7, 3)
    else:
        # Two types on a grid, where 3 x 2 windows share input capsules.
        layer, shape = ConvCapsules2D(5, 3, 2, routing=routing), (4, 3, 2, 3)
    layer.build((None, *shape))
    numbers = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(numbers.normal(0, 0.5, weight.shape))
    return layer, shape


def at_once(monkeypatch):
    """Takes all examples at once, and keeps their votes for the gradient."""
    monkeypatch.setattr(engine, "block_size", lambda *_: None)


def in_blocks_of(size, monkeypatch):
    """Sets the number of examples in a block, for layers of any size."""
    monkeypatch.setattr(engine, "block_size", lambda *_: size)


def exactly(monkeypatch, function, batch, shape, weights):
    """The expected results of layers."""
    with monkeypatch.context() as patch:
        at_once(patch)
        # Not all of Keras's operations take no examples at all.
        examples = {"inputs": random(max(batch, 1), *shape)}
        exact = modes.run(modes.MODES[0], function, examples, weights)
    if batch == 0:
        exact = {
            key: value * 0 if key in weights else value[:0]
            for key, value in exact.items()
        }
    return exact


# Compiling takes most of the time: JAX and TensorFlow's XLA do so for each
# number of examples that is known.
LAYERS = [
    pytest.param(
        kind,
        routing,
        mode,
        [5]
        if mode in ("compiled", "graph") and (kind, routing) != EASY
        else [0, 1, 3, 4, 5],
        marks=[pytest.mark.slow]
        * (mode in ("graph", "unknown") and (kind, routing) == HARD),
        id=f"{kind}-{routing}-{mode}",
    )
    for kind in ("dense", "conv")
    for routing in ("dynamic", "em")
    for mode in modes.MODES
]


@pytest.mark.parametrize(("kind", "routing", "mode", "batches"), LAYERS)
def test_layers_equal_the_same_at_once(
    kind, routing, mode, batches, monkeypatch
):
    layer, shape = make_layer(kind, routing)
    function, weights = modes.of_layer(layer, training=True)
    prepared = modes.prepare(mode, function)
    for batch in batches:
        with monkeypatch.context() as patch:
            in_blocks_of(3, patch)
            ours = prepared({"inputs": random(batch, *shape)}, weights)
        exact = exactly(monkeypatch, function, batch, shape, weights)
        assert_equal(ours, exact)
        assert batch == 0 or np.abs(exact["inputs"]).max() > 1e-3


@pytest.mark.skipif(
    "unknown" not in modes.MODES, reason="knows how many examples there are"
)
@pytest.mark.parametrize(
    ("kind", "routing", "is_small"),
    [
        ("dense", "em", True),
        ("conv", "dynamic", True),
        ("dense", "em", False),
        ("conv", "dynamic", False),
    ],
)
def test_layers_that_are_not_trained_equal_the_same_at_once(
    kind, routing, is_small, monkeypatch
):
    """In a graph of any number of examples, as exported models are."""
    layer, shape = make_layer(kind, routing)
    function, weights = modes.of_layer(layer, training=False)
    prepared = modes.prepare("unknown", function)
    for batch in (0, 1, 4):
        with monkeypatch.context() as patch:
            if not is_small:
                patch.setattr(blocks, "_USUAL_BATCH", 10**12)
            ours = prepared({"inputs": random(batch, *shape)}, weights)
        exact = exactly(monkeypatch, function, batch, shape, weights)
        assert_equal(ours, exact)


class Constant(routing.DynamicRouting):
    """Its coupling has no gradient: the engine or the routing stops it."""

    def __init__(self, by_engine):
        super().__init__()
        self.stop_gradient = by_engine

    def route(self, votes, bias=None):
        coupling = routing.softmax_over_outputs(ops.sum(votes, axis=3))
        if not self.stop_gradient:
            coupling = ops.stop_gradient(coupling)
        sums = routing.weighted_sum(coupling, votes)
        return routing.Routed(self.combine(sums, bias), None, coupling)


@in_all_modes
@pytest.mark.parametrize("training", [True, None])
def test_the_engine_stops_the_gradient_of_the_coupling(
    mode, training, monkeypatch
):
    in_blocks_of(3, monkeypatch)
    poses = {"inputs": random(5, 7, 3)}
    layers = [CapsuleLayer(2, 5, routing=Constant(by)) for by in (True, False)]
    for layer in layers:
        layer.build((None, 7, 3))
        layer.kernel.assign(layers[0].kernel)
    ours, exact = (
        modes.run(mode, function, poses, weights)
        for function, weights in (
            modes.of_layer(layer, training=training) for layer in layers
        )
    )
    assert_equal(ours, exact)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("routing", ["dynamic", "em"])
@pytest.mark.parametrize(("batch", "seen"), [(1, {1}), (7, {1, 3})])
def test_layers_make_the_votes_of_a_few_examples(
    batch, seen, routing, training, monkeypatch
):
    """One image is not made a whole block of."""
    in_blocks_of(3, monkeypatch)
    sizes = []

    def watched(poses, kernel):
        sizes.append(poses.shape[0])
        return make_votes(poses, kernel)

    monkeypatch.setattr(engine, "make_votes", watched)
    layer, shape = make_layer("dense", routing)
    sizes.clear()
    layer(random(batch, *shape), training=training)
    assert set(sizes) == seen


def test_windows_of_an_image_are_in_one_block(monkeypatch):
    """They share input capsules, which some routings have to know."""
    in_blocks_of(2, monkeypatch)
    sizes = []

    def watched(poses, kernel):
        sizes.append(poses.shape[0])
        return make_votes(poses, kernel)

    monkeypatch.setattr(engine, "make_votes", watched)
    layer, shape = make_layer("conv", "em")
    layer(random(5, *shape))
    assert set(sizes) == {2 * 6, 6}


@pytest.mark.skipif(
    BACKEND != "jax", reason="only JAX tells how much memory a step allocates"
)
@pytest.mark.parametrize("routing", sorted(routing.ROUTINGS))
def test_no_tensor_as_large_as_the_votes_of_a_batch_exists(routing):
    import jax

    batch, inputs, outputs, dim = 64, 211, 13, 16
    layer = CapsuleLayer(outputs, dim, routing=routing)
    layer.build((None, inputs, 2))
    weights = [weight.value for weight in layer.trainable_variables]
    others = [weight.value for weight in layer.non_trainable_variables]

    @jax.jit
    @jax.grad
    def step(weights, poses):
        results, _ = layer.stateless_call(weights, others, poses, training=True)
        return sum(ops.sum(ops.square(x)) for x in keras.tree.flatten(results))

    compiled = step.lower(weights, random(batch, inputs, 2)).compile()
    votes = batch * inputs * outputs * dim * 4
    assert compiled.memory_analysis().temp_size_in_bytes < votes
