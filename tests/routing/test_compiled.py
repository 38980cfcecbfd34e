"""Routing in graphs, with and without XLA, in 32 and 16 bits."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.routing import RoutingSpec
from tests.helpers.blocks import set_block_size
from tests.helpers.gradients import assert_close
from tests.helpers.routings import all_routings
from tests.helpers.testing import BACKEND
from tests.helpers.testing import SLOW_ON_JAX

pytestmark = [
    pytest.mark.skipif(
        BACKEND == "torch", reason="TensorFlow and JAX have XLA"
    ),
    pytest.mark.usefixtures("optimized"),
]

# Distinct primes, so that no axis can be taken for another.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 5, 13, 3, 7, 11
ROUTINGS = all_routings()
# Of the largest entry. A bfloat16 has 8 bits. All is computed in float32, so
# that only gradients are rounded to it.
TOLERANCES = {"float32": 1e-5, "bfloat16": 4e-3}
# Slow routings are compiled in fewer ways. Mixtures compute in float32
# whatever they are given.
MIXTURES = [name for name in ROUTINGS if ROUTINGS[name].takes("windows")]
FEW = [n for n, one in ROUTINGS.items() if one.activation_from == "length"]
CASES = [
    pytest.param(
        name,
        mode,
        dtype,
        # Most of JAX's operations are compiled one by one for it.
        marks=SLOW_ON_JAX
        if mode == "eager"
        else [pytest.mark.slow] * (dtype == "bfloat16" and name != "dynamic"),
    )
    for name in ROUTINGS
    for mode in ("eager", "graph", "xla")
    for dtype in TOLERANCES
    if not (mode == "eager" and BACKEND == "jax" and name not in FEW)
    and not (mode == "graph" and (BACKEND == "jax" or name not in FEW))
    and not (mode == "xla" and dtype == "bfloat16" and name in MIXTURES)
]


def route_in_blocks(routing, poses, kernel, activations, weights):
    return routing(poses, kernel, activations=activations, weights=weights)


def route_dense(routing, poses, kernel, activations, weights):
    """The same from the tensor of all votes, which is kept."""
    votes = ops.einsum("bipd,idje->bjipe", poses, kernel)
    votes = ops.reshape(votes, (BATCH, OUTPUTS, INPUTS, OUT_DIM))
    *_, routed = routing.iterate(
        votes=votes,
        sum_votes=lambda coupling: ops.einsum("bji,bjif->bjf", coupling, votes),
        poses=poses[:, :, 0],
        activations=activations,
        weights={k: ops.convert_to_tensor(v) for k, v in weights.items()},
    )
    return routing.finish(routed, weights, False)


def make_arrays():
    """Poses, kernel and activations, all of which bfloat16 can hold."""
    random = np.random.default_rng(0)
    poses = random.normal(size=(BATCH, INPUTS, 1, DIM))
    kernel = 0.5 * random.normal(size=(INPUTS, DIM, OUTPUTS, OUT_DIM))
    activations = random.uniform(0.1, 1, size=(BATCH, INPUTS))
    return [
        ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
        for x in (poses, kernel, activations)
    ]


def make_weights(routing, inputs, dim, outputs, out_dim):
    """The weights of `build`, with values that are neither zeros nor ones."""
    spec = RoutingSpec(inputs, outputs, (1, out_dim), (1, dim))
    weights = routing.build(keras.layers.Layer(), spec)
    random = np.random.default_rng(1)
    return {
        name: random.normal(0, 0.5, weight.shape).astype("float32")
        for name, weight in weights.items()
    }


def value_and_gradients(routing, form, mode, dtype):
    """The results of a routing compiled in this mode, and their gradients."""
    weights = make_weights(routing, INPUTS, DIM, OUTPUTS, OUT_DIM)

    def route(u, w, a):
        u, w, a = (ops.cast(x, dtype) for x in (u, w, a))
        routed = form(routing, u, w, a, weights)
        parts = [ops.reshape(routed.poses, (-1,))]
        if routed.activations is not None:
            parts.append(ops.reshape(routed.activations, (-1,)))
        return ops.cast(ops.concatenate(parts), "float32")

    def loss(*tensors):
        value = route(*tensors)
        return ops.sum(ops.sin(3.0 * value)), value

    tensors = [ops.convert_to_tensor(x) for x in make_arrays()]
    if BACKEND == "jax":
        import jax

        both = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        (_, value), slopes = (jax.jit(both) if mode == "xla" else both)(
            *tensors
        )
    else:
        import tensorflow as tf

        def both(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                total, value = loss(*tensors)
            zero = tf.UnconnectedGradients.ZERO
            return value, tape.gradient(
                total, tensors, unconnected_gradients=zero
            )

        if mode != "eager":
            both = tf.function(both, jit_compile=mode == "xla")
        value, slopes = both(*tensors)
    return [ops.convert_to_numpy(x) for x in (value, *slopes)]


@functools.cache
def dense_form(name):
    """The same from all votes at once, in the way that is ready soonest."""
    mode = "xla" if BACKEND == "jax" else "eager"
    return value_and_gradients(ROUTINGS[name], route_dense, mode, "float32")


@pytest.mark.parametrize("name, mode, dtype", CASES)
def test_equals_the_dense_form(name, mode, dtype, monkeypatch):
    exact = dense_form(name)
    set_block_size(monkeypatch, 2)  # two blocks and a rest
    ours = value_and_gradients(ROUTINGS[name], route_in_blocks, mode, dtype)
    for one, other in zip(ours, exact, strict=True):
        assert_close(one, other, TOLERANCES[dtype])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="counts TensorFlow's")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in MIXTURES else pytest.mark.slow)
        for name in ROUTINGS
    ],
)
def test_graphs_do_not_grow_with_the_batch(name, monkeypatch):
    import tensorflow as tf

    set_block_size(monkeypatch, 2)
    routing = ROUTINGS[name]
    weights = make_weights(routing, 5, 3, 7, 2)

    def operations(batch):
        @tf.function(
            input_signature=[
                tf.TensorSpec((batch, 5, 1, 3)),
                tf.TensorSpec((5, 3, 7, 2)),
            ]
        )
        def step(poses, kernel):
            with tf.GradientTape() as tape:
                tape.watch([poses, kernel])
                routed = routing(poses, kernel, weights=weights)
                loss = ops.sum(routed.poses)
            return tape.gradient(loss, [poses, kernel])

        graph = step.get_concrete_function().graph.as_graph_def()
        return len(graph.node) + sum(
            len(function.node_def) for function in graph.library.function
        )

    # Zeros of fewer than 1000 numbers are constants there.
    assert operations(10001) == operations(1001)
