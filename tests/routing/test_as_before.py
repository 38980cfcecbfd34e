"""Outputs and gradients of every routing, as version 0.1 computed them.

`as_before.npz` was written by commit 4c65e83, whose votes never existed as a
tensor. To write it again, put this file into a checkout of that commit and run
`python -m tests.routing.test_as_before` there, without what is about blocks.
"""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing import SelfRouting
from keras_capsules.routing import VariationalBayesRouting
from keras_capsules.routing import run
from tests.helpers.testing import SLOW_ON_JAX

FIXTURE = pathlib.Path(__file__).with_name("as_before.npz")
ROUTINGS = {
    "dynamic": lambda: DynamicRouting(),
    "leaky": lambda: DynamicRouting(2, leaky=True),
    "stopped": lambda: DynamicRouting(stop_gradient=True),
    "self_attention": lambda: SelfAttentionRouting(),
    "inverted_attention": lambda: InvertedAttentionRouting(3),
    "scaled_attention": lambda: InvertedAttentionRouting(scale_agreement=True),
    "em": lambda: EMRouting(inverse_temperature=1.0, min_variance=0.1),
    "em_scaled": lambda: EMRouting(cost_scale="normalized"),
    "variational_bayes": lambda: VariationalBayesRouting(),
    "full_covariance": lambda: VariationalBayesRouting(
        covariance="full", batch_normalization=False
    ),
    "self_routing": lambda: SelfRouting(),
}
# Prime, distinct sizes.
LAYERS = {
    "vectors": lambda routing: (
        CapsuleLayer(5, 7, routing=routing),
        ((3, 11, 2), (3, 11)),
    ),
    "matrices": lambda routing: (
        CapsuleLayer(
            5,
            (3, 2),
            routing=routing,
            share_over_positions=True,
            coordinate_addition=True,
        ),
        ((2, 2, 3, 2, 3, 5), (2, 2, 3, 2)),
    ),
    "windows": lambda routing: (
        ConvCapsules2D(3, 5, 3, strides=2, padding="same", routing=routing),
        ((2, 5, 4, 2, 3), (2, 5, 4, 2)),
    ),
}


def compute(layer_name, routing_name):
    """Arrays by name: outputs, coupling, gradients of a loss of them."""
    random = np.random.default_rng(7)
    layer, (poses_shape, activations_shape) = LAYERS[layer_name](
        ROUTINGS[routing_name]()
    )
    inputs = [
        random.normal(0, 0.7, poses_shape).astype("float32"),
        random.uniform(0.1, 0.9, activations_shape).astype("float32"),
    ]
    layer.build((poses_shape, activations_shape))
    for weight in sorted(layer.trainable_weights, key=lambda w: w.name):
        weight.assign(random.normal(0.3, 0.4, weight.shape))

    def outputs_of(*inputs):
        outputs, coupling = layer(inputs, return_coupling=True)
        return [*keras.tree.flatten(outputs), coupling]

    def loss(*inputs):
        *outputs, _ = outputs_of(*inputs)
        return sum(ops.sum(ops.sin(2.0 * each)) for each in outputs)

    arrays = {
        f"{layer_name}/{routing_name}/{name}": ops.convert_to_numpy(each)
        for name, each in zip(
            "abc", outputs_of(*map(ops.convert_to_tensor, inputs)), strict=False
        )
    }
    for name, each in zip(
        ("poses", "kernel"), gradients(layer, loss, inputs), strict=True
    ):
        arrays[f"{layer_name}/{routing_name}/to_{name}"] = each
    return arrays


def gradients(layer, loss, inputs):
    """Gradients to the poses and to the kernel."""
    backend = keras.backend.backend()
    inputs = [ops.convert_to_tensor(each) for each in inputs]
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = loss(*inputs)
        found = tape.gradient(value, [inputs[0], layer.kernel.value])
    elif backend == "jax":
        import jax

        def stateless(poses, kernel):
            with keras.StatelessScope([(layer.kernel, kernel)]):
                return loss(poses, inputs[1])

        found = jax.grad(stateless, (0, 1))(inputs[0], layer.kernel.value)
    else:
        import torch

        inputs[0] = inputs[0].clone().requires_grad_()
        found = torch.autograd.grad(
            loss(*inputs), [inputs[0], layer.kernel.value]
        )
    return [ops.convert_to_numpy(each) for each in found]


@pytest.mark.parametrize("routing_name", ROUTINGS)
@pytest.mark.parametrize(
    "layer_name",
    [
        pytest.param(name, marks=SLOW_ON_JAX if name == "windows" else ())
        for name in LAYERS
    ],
)
@pytest.mark.parametrize(
    "blocks",
    ["as usual", pytest.param("of one example", marks=pytest.mark.slow)],
)
def test_equals_version_0_1(layer_name, routing_name, blocks, monkeypatch):
    if blocks == "of one example":
        monkeypatch.setattr(run, "block_size", lambda *_: 1)
    with np.load(FIXTURE) as saved:
        expected = dict(saved)
    for name, value in compute(layer_name, routing_name).items():
        scale = max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(
            value / scale, expected[name] / scale, rtol=0, atol=1e-5
        )


if __name__ == "__main__":
    everything = {}
    for one in LAYERS:
        for other in ROUTINGS:
            everything |= compute(one, other)
    np.savez_compressed(FIXTURE, **everything)
