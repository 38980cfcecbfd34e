"""Self-attention routing against an independent NumPy version."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules.routing import SelfAttentionRouting
from tests.helpers.blocks import in_blocks
from tests.helpers.blocks import set_block_size
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.gradients import of_one
from tests.helpers.gradients import second_gradient

# Distinct primes, so that no axis can be taken for another. Matrices have 2
# rows.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 3, 5, 13, 7, 11


def make_arrays(rows=1, dtype="float64"):
    """Poses, kernel, bias and coupling bias."""
    random = np.random.default_rng(0)
    return [
        random.normal(0, deviation, shape).astype(dtype)
        for deviation, shape in (
            (1, (BATCH, INPUTS, rows, DIM)),
            (DIM**-0.5, (INPUTS, DIM, OUTPUTS, OUT_DIM)),
            (1, (OUTPUTS, rows * OUT_DIM)),
            (1, (OUTPUTS, INPUTS)),
        )
    ]


def route(poses, kernel, bias=None, coupling_bias=None):
    weights = {}
    if coupling_bias is not None:
        weights = {"coupling_bias": coupling_bias}
    routing = SelfAttentionRouting(coupling_bias is not None)
    return routing(poses, kernel, bias=bias, weights=weights)


def oracle(poses, kernel, bias=None, coupling_bias=None):
    """The paper's form, with its attention matrix, for each example."""
    all_poses, all_coupling = [], []
    for example in poses:
        votes = np.einsum("ipd,idje->jipe", example, kernel)
        votes = votes.reshape(*votes.shape[:2], -1)
        attention = votes @ votes.swapaxes(1, 2)  # [j, i, i]
        logits = attention.sum(axis=2) / np.sqrt(votes.shape[2])
        coupling = np.exp(logits) / np.exp(logits).sum(axis=0)
        shares = coupling if coupling_bias is None else coupling + coupling_bias
        s = np.einsum("ji,jix->jx", shares, votes)
        if bias is not None:
            s = s + bias
        length = np.linalg.norm(s, axis=1, keepdims=True)
        v = (1 - np.exp(-length)) * s / length
        all_poses.append(v)
        all_coupling.append(coupling)
    return np.stack(all_poses), np.stack(all_coupling)


def test_golden_values():
    """Of the votes sin(1), ..., sin(18), of shape [1, 3, 2, 3]."""
    kernel = np.sin(np.arange(1.0, 19.0)).reshape(3, 1, 2, 3)
    arrays = np.ones((1, 3, 1, 1)), kernel

    poses = evaluate(lambda *x: route(*x).poses, *arrays)
    coupling = evaluate(lambda *x: route(*x).coupling, *arrays)

    golden = [
        [0.438267, 0.660893, 0.275897],
        [-0.364416, -0.668762, -0.358251],
    ]
    np.testing.assert_allclose(poses[0], golden, atol=1e-6)
    np.testing.assert_allclose(
        coupling[0, 0], [0.495809, 0.498505, 0.501320], atol=1e-6
    )


@pytest.mark.parametrize("number", [2, 3, 4], ids=["plain", "bias", "both"])
@pytest.mark.parametrize("rows", [1, 2], ids=["vectors", "matrices"])
def test_equals_the_oracle(rows, number):
    arrays = make_arrays(rows)[:number]
    exact = oracle(*arrays)
    poses = evaluate(lambda *x: route(*x).poses, *arrays)
    coupling = evaluate(lambda *x: route(*x).coupling, *arrays)
    # The paper's squash has no epsilon.
    assert_close(poses, exact[0], 1e-5)
    assert_close(coupling, exact[1], 1e-5)
    assert_close(coupling.sum(axis=1), np.ones((BATCH, INPUTS)))


@needs_float64
def test_gradients_equal_numeric_ones():
    arrays = make_arrays()

    def loss(*x):
        return ops.sum(ops.sin(3.0 * route(*x).poses))

    gradients = gradient(loss, *arrays)
    check_slopes(loss, gradients, *arrays, rtol=1e-5, atol=1e-7)


def _dense_route(poses, kernel, bias, coupling_bias):
    """The same from all votes at once."""
    votes = ops.einsum("bipd,idje->bijpe", poses, kernel)
    total = ops.sum(votes, axis=1, keepdims=True)
    size = votes.shape[3] * votes.shape[4]
    logits = ops.sum(votes * total, axis=(3, 4)) / np.sqrt(size)
    shares = ops.softmax(logits, axis=2) + ops.transpose(coupling_bias)
    s = ops.einsum("bij,bijpe->bjpe", shares, votes)
    s = ops.reshape(s, (-1, OUTPUTS, size)) + bias
    squared = ops.sum(s * s, axis=2, keepdims=True) + 1e-7
    length = ops.sqrt(squared)
    return s / length * (1 - ops.exp(-length))


@in_blocks
def test_float32_gradients_equal_the_dense_form(size, monkeypatch):
    set_block_size(monkeypatch, size)
    arrays = make_arrays(dtype="float32")

    def loss(form):
        return lambda *x: ops.sum(ops.sin(3.0 * form(*x)))

    ours = gradient(loss(lambda *x: route(*x).poses), *arrays)
    theirs = gradient(loss(_dense_route), *arrays)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, 1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_second_derivatives_equal_the_dense_form(which):
    arrays = make_arrays(dtype="float32")
    direction = np.random.default_rng(2).normal(size=arrays[which].shape)
    direction = direction.astype("float32")

    def loss(form):
        return of_one(form, arrays, which)

    ours = loss(lambda *x: route(*x).poses)
    assert_close(
        second_gradient(ours, arrays[which], direction),
        second_gradient(loss(_dense_route), arrays[which], direction),
        2e-5,
    )


def test_the_order_of_input_capsules_does_not_matter():
    poses, kernel, bias, coupling_bias = make_arrays()
    order = np.random.default_rng(3).permutation(INPUTS)

    def value(*x):
        return route(*x).poses

    assert_close(
        evaluate(
            value, poses[:, order], kernel[order], bias, coupling_bias[:, order]
        ),
        evaluate(value, poses, kernel, bias, coupling_bias),
    )


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15], ids=["0", "tiny", "huge"])
def test_extreme_votes_stay_finite(size):
    poses, *others = make_arrays(dtype="float32")
    poses = (poses * size).astype("float32")

    value = evaluate(lambda *x: route(*x).poses, poses, *others)
    assert np.isfinite(value).all()
    assert np.linalg.norm(value, axis=-1).max() <= 1 + 1e-6
    if size < 1:  # a softmax of huge logits is saturated
        slopes = gradient(lambda *x: ops.sum(route(*x).poses), poses, *others)
        assert all(np.isfinite(each).all() for each in slopes)


@pytest.mark.parametrize("use_coupling_bias", [True, False])
def test_weights_of_the_layer(use_coupling_bias):
    layer = CapsuleLayer(
        7, 2, routing=SelfAttentionRouting(use_coupling_bias), use_bias=False
    )
    layer.build((None, 5, 3))
    names = {weight.name: tuple(weight.shape) for weight in layer.weights}
    expected = {"kernel": (5, 3, 7, 2)}
    if use_coupling_bias:
        expected["coupling_bias"] = (7, 5)
    assert names == expected
    if use_coupling_bias:
        assert not keras.ops.convert_to_numpy(layer.weights[1]).any()


@pytest.mark.parametrize("value", [2, "yes", None])
def test_bad_switch(value):
    with pytest.raises(ValueError, match="Received: use_coupling_bias="):
        SelfAttentionRouting(value)
