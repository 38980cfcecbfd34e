"""Coupling that does not depend on the input."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules import routing
from keras_capsules.activations import exponential_squash
from keras_capsules.activations import squash
from keras_capsules.engine.blocks import over_examples
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import FixedRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing.tracing import tracing
from tests.helpers.capsules import random
from tests.helpers.capsules import set_random_weights
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy

# Distinct primes, so that no axis can be taken for another.
BATCH, INPUTS, ROWS, DIM, OUTPUTS, OUT_DIM = 13, 5, 2, 3, 7, 11


def of_one_by_one(poses, kernel, coupling, bias):
    """Weighted sums of votes `[b, j, p, e]`, one vote after the other."""
    sums = np.zeros((len(poses), kernel.shape[2], poses.shape[2], OUT_DIM))
    for i in range(poses.shape[1]):
        for j in range(kernel.shape[2]):
            vote = poses[:, i] @ kernel[i % len(kernel), :, j]
            sums[:, j] += coupling[j, i] * vote
    return sums + bias


@pytest.mark.parametrize("kernels", [INPUTS, 1], ids=["own", "shared"])
@pytest.mark.parametrize("rows", [1, ROWS], ids=["vectors", "matrices"])
def test_equals_one_vote_after_the_other(rows, kernels):
    one = FixedRouting()
    poses = random(BATCH, INPUTS, rows, DIM).astype("float32")
    kernel = random(kernels, DIM, OUTPUTS, OUT_DIM, seed=4).astype("float32")
    coupling = random(OUTPUTS, INPUTS, seed=5).astype("float32")
    bias = random(OUTPUTS, rows * OUT_DIM, seed=6).astype("float32")
    shape = (OUTPUTS, rows, OUT_DIM)
    sums = of_one_by_one(poses, kernel, coupling, bias.reshape(shape))
    exact = numpy(squash(sums.reshape(BATCH, OUTPUTS, -1)))
    arguments = map(ops.convert_to_tensor, (poses, kernel))
    weights = {"coupling": ops.convert_to_tensor(coupling)}
    routed = one(*arguments, bias=ops.convert_to_tensor(bias), weights=weights)
    np.testing.assert_allclose(numpy(routed.poses), exact, rtol=1e-4, atol=1e-5)
    assert routed.activations is None
    np.testing.assert_array_equal(
        numpy(routed.coupling),
        np.broadcast_to(coupling, (BATCH, OUTPUTS, INPUTS)),
    )
    # In the engine, it is the same.
    arguments = map(ops.convert_to_tensor, (poses, kernel))
    with tracing() as traces:
        traced = one(
            *arguments, bias=ops.convert_to_tensor(bias), weights=weights
        )
    assert len(traces) == 1 and len(traces[0].coupling) == 1
    np.testing.assert_allclose(
        numpy(traced.poses), numpy(routed.poses), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting()), (2, INPUTS, DIM)),
        (ConvCapsules2D(3, 2, 2, routing=FixedRouting()), (2, 3, 4, 5, DIM)),
    ],
    ids=["dense", "convolution"],
)
def test_at_first_it_is_one_iteration_of_dynamic_routing(layer, shape):
    capsules = random(*shape).astype("float32")
    layer(capsules)
    config = {**layer.get_config(), "routing": DynamicRouting(1)}
    other = type(layer).from_config(config)
    other(capsules)
    for one, weight in zip(
        layer.trainable_weights, other.trainable_weights, strict=True
    ):
        value = random(*weight.shape)
        one.assign(value)
        weight.assign(value)
    outputs, coupling = layer(capsules, return_coupling=True)
    exact, uniform = other(capsules, return_coupling=True)
    np.testing.assert_allclose(
        numpy(outputs), numpy(exact), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(numpy(coupling), numpy(uniform), rtol=1e-6)


def test_the_coupling_is_not_trained():
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting())
    layer.build((None, INPUTS, DIM))
    assert [each.name for each in layer.non_trainable_weights] == ["coupling"]
    assert [each.name for each in layer.trainable_weights] == ["kernel", "bias"]


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
def test_gradients_equal_those_of_the_engine(share, monkeypatch):
    capsules = random(BATCH, INPUTS, DIM).astype("float32")
    target = random(BATCH, OUTPUTS, OUT_DIM, seed=4).astype("float32")

    def trained():
        keras.utils.set_random_seed(3)
        layer = CapsuleLayer(
            OUTPUTS, OUT_DIM, FixedRouting(), share_over_positions=share
        )
        model = keras.Sequential([keras.Input((INPUTS, DIM)), layer])
        set_random_weights(layer, 0.3)
        model.compile(keras.optimizers.SGD(1.0), "mse")
        model.train_on_batch(capsules, target)
        return [numpy(each) for each in layer.weights]

    ours = trained()
    monkeypatch.setattr("keras_capsules.routing.fixed.is_tracing", lambda: True)
    for one, other in zip(ours, trained(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_no_votes_in_memory(monkeypatch):
    """There is one product of matrices, whatever the number of examples."""

    def fail(*args, **kwargs):
        raise AssertionError(over_examples)

    monkeypatch.setattr("keras_capsules.routing.run.make_votes", fail)
    monkeypatch.setattr("keras_capsules.routing.run.over_examples", fail)
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting())
    assert layer(random(BATCH, INPUTS, DIM)).shape == (BATCH, OUTPUTS, OUT_DIM)


def test_masks():
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting())
    capsules = random(2, INPUTS, DIM).astype("float32")
    layer(capsules)
    set_random_weights(layer)
    mask = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1]], bool)
    outputs, coupling = layer(capsules, mask=mask, return_coupling=True)
    exact = layer(capsules * mask[..., None])
    np.testing.assert_allclose(numpy(outputs), numpy(exact), rtol=1e-5)
    assert (numpy(coupling)[~mask] == 0).all()
    assert (numpy(coupling)[mask] > 0).all()


@pytest.mark.parametrize(
    ("activation", "exact"),
    [
        ("squash", squash),
        ("exponential_squash", exponential_squash),
        (None, lambda x: x),
    ],
)
def test_activations(activation, exact, tmp_path):
    one = FixedRouting(activation, "random_normal")
    assert routing.get(routing.serialize(one)).get_config() == one.get_config()
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, one, use_bias=False)
    model = keras.Sequential([keras.Input((INPUTS, DIM)), layer])
    capsules = random(BATCH, INPUTS, DIM).astype("float32")
    loaded = check_saving(model, capsules, tmp_path)
    assert loaded.layers[0].routing.get_config() == one.get_config()
    sums = of_one_by_one(
        capsules[:, :, None],
        numpy(layer.kernel),
        numpy(layer.routing_weights["coupling"]),
        0.0,
    )
    sums = sums[:, :, 0].astype("float32")
    np.testing.assert_allclose(
        numpy(layer(capsules)), numpy(exact(sums)), rtol=1e-4, atol=1e-5
    )


def test_the_initializer():
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting("squash", "ones"))
    layer.build((None, INPUTS, DIM))
    assert (numpy(layer.routing_weights["coupling"]) == 1).all()
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting)
    layer.build((None, INPUTS, DIM))
    np.testing.assert_allclose(
        numpy(layer.routing_weights["coupling"]), 1 / OUTPUTS
    )


def test_sixteen_bits():
    layer = CapsuleLayer(
        OUTPUTS, OUT_DIM, FixedRouting(), dtype="mixed_float16"
    )
    outputs = layer(random(BATCH, INPUTS, DIM).astype("float16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert np.isfinite(numpy(outputs)).all()


def test_unknown_numbers_of_inputs_raise():
    layer = CapsuleLayer(3, 2, FixedRouting(), share_over_positions=True)
    with pytest.raises(ValueError, match="has weights for each input capsule"):
        layer(keras.Input((None, 4)))


def test_earlier_outputs_raise():
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting())
    capsules = random(2, INPUTS, DIM).astype("float32")
    outputs = layer(capsules)
    with pytest.raises(ValueError, match="cannot start from earlier outputs"):
        layer(capsules, outputs=outputs)


def test_votes_of_self_attention_with_its_own_coupling():
    """What is frozen for one example is exact for that example."""
    capsules = random(1, INPUTS, DIM).astype("float32")
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, SelfAttentionRouting())
    exact, coupling = layer(capsules, return_coupling=True)
    fixed = CapsuleLayer(OUTPUTS, OUT_DIM, FixedRouting("exponential_squash"))
    fixed(capsules)
    fixed.kernel.assign(layer.kernel)
    fixed.bias.assign(layer.bias)
    fixed.routing_weights["coupling"].assign(numpy(coupling)[0].T)
    np.testing.assert_allclose(
        numpy(fixed(capsules)), numpy(exact), rtol=1e-4, atol=1e-6
    )
