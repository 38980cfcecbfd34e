"""Routing in graphs, with and without XLA, in 32 and 16 bits."""

import keras
import numpy as np
import pytest
from blocks import set_blocks
from gradients import assert_close
from gradients import gradient
from keras import ops

from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.votes import Votes

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.skipif(
        BACKEND == "torch", reason="TensorFlow and JAX have XLA"
    ),
    pytest.mark.usefixtures("optimized"),
]

BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 3, 13, 5, 7, 11
ROUTINGS = {
    "dynamic": DynamicRouting(),
    "leaky": DynamicRouting(2, leaky=True),
    "stopped": DynamicRouting(stop_gradient=True),
    "self_attention": SelfAttentionRouting(False),
}
# Of the largest entry. A bfloat16 has 8 bits, and sums of 13 x 5 terms and
# three iterations are between an input and a gradient.
TOLERANCES = {"float32": 1e-5, "bfloat16": 4e-2}
MODES = ["eager", "graph", "xla"]


class DenseVotes(Votes):
    """The same contractions from the tensor of all votes."""

    def mix(self, coefficients):
        return ops.einsum("jbi,bijpe->jbpe", coefficients, self.dense())

    def agreement(self, targets):
        return ops.einsum("bijpe,jbpe->jbi", self.dense(), targets)

    def sum(self):
        return ops.einsum("bijpe->jbpe", self.dense())


def make_arrays():
    random = np.random.default_rng(0)
    poses = random.normal(size=(BATCH, INPUTS, 1, DIM))
    kernel = random.normal(size=(INPUTS, DIM, OUTPUTS, OUT_DIM))
    return [each.astype("float32") for each in (poses, 0.5 * kernel)]


def value_and_gradients(routing, votes, mode, dtype):
    """Poses, and gradients of a loss of them, of a routing compiled so."""

    def poses(u, w):
        u, w = ops.cast(u, dtype), ops.cast(w, dtype)
        return ops.cast(routing(votes(u, w)).poses, "float32")

    compiled = poses
    if mode != "eager" and BACKEND == "jax":
        import jax

        compiled = jax.jit(poses)
    elif mode != "eager":
        import tensorflow as tf

        compiled = tf.function(poses, jit_compile=mode == "xla")
    arrays = make_arrays()
    value = compiled(*(ops.convert_to_tensor(x) for x in arrays))
    slopes = gradient(lambda *x: ops.sum(ops.sin(3.0 * compiled(*x))), *arrays)
    return [ops.convert_to_numpy(value), *slopes]


@pytest.mark.parametrize("mode", MODES if BACKEND != "jax" else MODES[::2])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", ROUTINGS)
def test_equals_the_dense_form(name, dtype, mode, monkeypatch):
    set_blocks(monkeypatch, (3, 2))  # a loop, and a block before it
    ours = value_and_gradients(ROUTINGS[name], Votes, mode, dtype)
    exact = value_and_gradients(ROUTINGS[name], DenseVotes, "eager", "float32")
    for one, other in zip(ours, exact, strict=True):
        assert_close(one, other, TOLERANCES[dtype])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="counts TensorFlow's")
@pytest.mark.parametrize("name", ROUTINGS)
def test_graphs_do_not_grow_with_the_parents(name, monkeypatch):
    import tensorflow as tf

    set_blocks(monkeypatch, (1, 16))

    def operations(outputs):
        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 5, 1, 3)),
                tf.TensorSpec((5, 3, outputs, 2)),
            ]
        )
        def step(poses, kernel):
            with tf.GradientTape() as tape:
                tape.watch([poses, kernel])
                loss = ops.sum(ROUTINGS[name](Votes(poses, kernel)).poses)
            return tape.gradient(loss, [poses, kernel])

        graph = step.get_concrete_function().graph.as_graph_def()
        return len(graph.node) + sum(
            len(function.node_def) for function in graph.library.function
        )

    assert operations(1000) == operations(101)
