"""Dynamic routing against an independent NumPy version of the paper's."""

import numpy as np
import pytest
from keras import ops

from keras_capsules.routing import DynamicRouting
from tests.helpers.blocks import in_blocks
from tests.helpers.blocks import set_block_size
from tests.helpers.gradients import KEEPS_FLOAT64
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.gradients import of_one
from tests.helpers.gradients import second_gradient
from tests.helpers.testing import slow_on_jax

# Distinct primes, so that no axis can be taken for another. Matrices have 2
# rows.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 3, 5, 13, 7, 11


def make_arrays(rows=1, seed=0):
    """Poses, kernel and bias, scaled so that routing has much to decide."""
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(BATCH, INPUTS, rows, DIM)),
        random.normal(size=(INPUTS, DIM, OUTPUTS, OUT_DIM)) / DIM**0.5,
        random.normal(size=(OUTPUTS, rows * OUT_DIM)),
    )


def route(poses, kernel, bias=None, **options):
    return DynamicRouting(**options)(poses, kernel, bias=bias)


def oracle(poses, kernel, bias=0.0, num_iterations=3, leaky=False):
    """The paper's procedure, one example at a time, with its votes."""
    all_poses, all_coupling = [], []
    for example in poses:
        votes = np.einsum("ipd,idje->ijpe", example, kernel)
        votes = votes.reshape(*votes.shape[:2], -1)
        logits = np.zeros(votes.shape[:2])
        for _ in range(num_iterations):
            weights = np.exp(logits)
            total = weights.sum(axis=1, keepdims=True)
            coupling = weights / (total + 1 if leaky else total)
            s = (coupling[:, :, None] * votes).sum(axis=0) + bias
            squared = (s**2).sum(axis=1, keepdims=True)
            v = squared / (1 + squared) * s / np.sqrt(squared)
            logits = logits + (votes * v).sum(axis=2)
        all_poses.append(v)
        all_coupling.append(coupling.T)
    return np.stack(all_poses), np.stack(all_coupling)


# From the votes sin(1), ..., sin(18), of shape [1, 3, 2, 3], in float64.
GOLDEN_ONE = [[0.403010, 0.606894, 0.252803], [-0.333512, -0.613043, -0.328946]]
GOLDEN_THREE = [
    [0.402297, 0.606438, 0.253023],
    [-0.334200, -0.613565, -0.328821],
]
GOLDEN_LEAKY = [
    [0.432451, 0.632734, 0.286737],
    [-0.242218, -0.485184, -0.236885],
]
GOLDEN_COUPLING = [0.497024, 0.499037, 0.501127]


def golden_votes():
    """Poses `[b, i, 1, 1]` of 1, and as the kernel the votes they cast."""
    kernel = np.sin(np.arange(1.0, 19.0)).reshape(3, 1, 2, 3)
    return np.ones((1, 3, 1, 1)), kernel


@pytest.mark.parametrize(
    ("options", "bias", "golden"),
    [
        ({"num_iterations": 1}, None, GOLDEN_ONE),
        ({"num_iterations": 3}, None, GOLDEN_THREE),
        ({"num_iterations": 3, "leaky": True}, 0.1, GOLDEN_LEAKY),
    ],
    ids=["one", "three", "leaky and bias"],
)
def test_golden_values(options, bias, golden):
    if bias is not None:
        bias = np.full((2, 3), bias)

    def poses(*votes):
        return route(*votes, bias, **options).poses

    value = evaluate(poses, *golden_votes())

    np.testing.assert_allclose(value[0], golden, atol=1e-6)


def test_golden_coupling():
    coupling = evaluate(lambda *x: route(*x).coupling, *golden_votes())
    np.testing.assert_allclose(coupling[0, 0], GOLDEN_COUPLING, atol=1e-6)


@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("leaky", [False, True], ids=["softmax", "leaky"])
@pytest.mark.parametrize("num_iterations", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2], ids=["vectors", "matrices"])
def test_equals_the_paper(rows, num_iterations, leaky, with_bias):
    poses, kernel, bias = make_arrays(rows)
    options = {"num_iterations": num_iterations, "leaky": leaky}
    bias = bias if with_bias else None

    arrays = (poses, kernel) if bias is None else (poses, kernel, bias)

    def route_poses(*x):
        return route(*x, **options).poses

    def route_coupling(*x):
        return route(*x, **options).coupling

    routed = [evaluate(route_poses, *arrays), evaluate(route_coupling, *arrays)]

    exact = oracle(poses, kernel, bias if with_bias else 0.0, **options)
    for ours, theirs in zip(routed, exact, strict=True):
        assert_close(ours, theirs, 1e-6 if KEEPS_FLOAT64 else 1e-5)


@needs_float64
@pytest.mark.parametrize("leaky", [False, True], ids=["softmax", "leaky"])
@pytest.mark.parametrize("num_iterations", [1, 3])
def test_gradients_equal_numeric_ones(num_iterations, leaky):
    arrays = make_arrays()
    options = {"num_iterations": num_iterations, "leaky": leaky}

    def loss(*x):
        return ops.sum(ops.sin(3.0 * route(*x, **options).poses))

    gradients = gradient(loss, *arrays)

    check_slopes(loss, gradients, *arrays, rtol=1e-5, atol=1e-7)


@in_blocks
def test_float32_gradients_equal_those_through_the_vote_tensor(
    size, monkeypatch
):
    set_block_size(monkeypatch, size)
    arrays = [array.astype("float32") for array in make_arrays()]

    def loss(*x):
        return ops.sum(ops.sin(3.0 * route(*x).poses))

    def dense_loss(poses, kernel, bias):
        return ops.sum(ops.sin(3.0 * _dense_route(poses, kernel, bias)))

    for ours, theirs in zip(
        gradient(loss, *arrays), gradient(dense_loss, *arrays), strict=True
    ):
        assert_close(ours, theirs, 1e-5)


def _dense_route(poses, kernel, bias, num_iterations=3):
    """The textbook form, from all votes at once."""
    votes = ops.einsum("bipd,idje->bijpe", poses, kernel)
    shape = OUTPUTS, poses.shape[2], OUT_DIM
    bias = ops.reshape(bias, shape)
    logits = ops.zeros_like(votes[:, :, :, 0, 0])
    for _ in range(num_iterations):
        coupling = ops.softmax(logits, axis=2)
        s = ops.einsum("bij,bijpe->bjpe", coupling, votes) + bias
        squared = ops.sum(s * s, axis=(2, 3), keepdims=True) + 1e-7
        v = s * ops.sqrt(squared) / (1 + squared)
        logits = logits + ops.einsum("bijpe,bjpe->bij", votes, v)
    return ops.reshape(v, (-1, OUTPUTS, shape[1] * OUT_DIM))


@slow_on_jax
@pytest.mark.parametrize("which", [0, 1, 2], ids=["poses", "kernel", "bias"])
def test_second_derivatives_equal_those_through_the_vote_tensor(which):
    arrays = [array.astype("float32") for array in make_arrays()]
    direction = np.random.default_rng(2).normal(size=arrays[which].shape)
    direction = direction.astype("float32")

    def loss(form):
        return of_one(form, arrays, which)

    ours = loss(lambda *x: route(*x).poses)
    second = second_gradient(ours, arrays[which], direction)

    exact = second_gradient(loss(_dense_route), arrays[which], direction)
    assert_close(second, exact, 2e-5)


@in_blocks
def test_stop_gradient_leaves_the_values_and_holds_the_coupling_constant(
    size, monkeypatch
):
    set_block_size(monkeypatch, size)
    arrays = make_arrays()

    def loss(*x):
        return ops.sum(ops.sin(route(*x, stop_gradient=True).poses))

    coupling = evaluate(lambda *x: route(*x).coupling, *arrays)

    def loss_at_constant_coupling(poses, kernel, bias):
        votes = ops.einsum("bid,idje->bije", poses[:, :, 0], kernel)
        constant = ops.cast(coupling, votes.dtype)
        s = ops.einsum("bji,bije->bje", constant, votes) + bias
        squared = ops.sum(s * s, axis=2, keepdims=True) + 1e-7
        return ops.sum(ops.sin(s * ops.sqrt(squared) / (1 + squared)))

    value = evaluate(lambda *x: route(*x, stop_gradient=True).poses, *arrays)
    assert_close(value, evaluate(lambda *x: route(*x).poses, *arrays))
    for ours, theirs in zip(
        gradient(loss, *arrays),
        gradient(loss_at_constant_coupling, *arrays),
        strict=True,
    ):
        assert_close(ours, theirs, 1e-10 if KEEPS_FLOAT64 else 1e-5)


def test_coupling_is_shared_out_among_the_outputs():
    arrays = make_arrays()
    whole = evaluate(lambda *x: route(*x).coupling, *arrays).sum(axis=1)
    assert_close(whole, np.ones_like(whole))
    leaky = evaluate(lambda *x: route(*x, leaky=True).coupling, *arrays)
    assert (leaky > 0).all()
    assert (leaky.sum(axis=1) < 1).all()


def test_the_order_of_input_capsules_does_not_matter():
    poses, kernel, bias = make_arrays()
    order = np.random.default_rng(3).permutation(INPUTS)

    def value(*x):
        return route(*x).poses

    assert_close(
        evaluate(value, poses[:, order], kernel[order], bias),
        evaluate(value, poses, kernel, bias),
    )


def test_examples_do_not_influence_each_other():
    poses, kernel, bias = make_arrays()

    def value(*x):
        return route(*x).poses

    assert_close(
        evaluate(value, poses[1:], kernel, bias),
        evaluate(value, poses, kernel, bias)[1:],
    )


def test_more_iterations_sharpen_the_agreement():
    """Votes that agree draw their capsules together, one stray vote apart."""
    kernel = np.zeros((4, 1, 2, 2))
    kernel[:3, 0, 0] = [3.0, 0.0]  # three agree on the first output
    kernel[3, 0, 0] = [-3.0, 0.0]
    kernel[3, 0, 1] = [0.0, 1.0]
    poses = np.ones((1, 4, 1, 1))
    shares = [
        evaluate(
            lambda *x: route(*x, num_iterations=n).coupling,  # noqa: B023
            poses,
            kernel,
        )[0, 0]
        for n in (1, 2, 3, 4)
    ]
    for fewer, more in zip(shares, shares[1:], strict=False):
        assert (more[:3] > fewer[:3]).all()
        assert more[3] < fewer[3]


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30], ids=["0", "tiny", "huge"])
def test_extreme_votes_stay_finite(size):
    poses, kernel, bias = (a.astype("float32") for a in make_arrays())
    poses = (poses * size).astype("float32")

    def loss(*x):
        return ops.sum(route(*x).poses)

    # Two iterations of huge votes saturate the softmax, and no more.
    value = evaluate(lambda *x: route(*x).poses, poses, kernel, bias)
    assert np.isfinite(value).all()
    assert np.linalg.norm(value, axis=-1).max() <= 1 + 1e-6
    if size < 1:
        for each in gradient(loss, poses, kernel, bias):
            assert np.isfinite(each).all()


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True])
def test_bad_number_of_iterations(value):
    with pytest.raises(ValueError, match="Received: num_iterations="):
        DynamicRouting(num_iterations=value)


@pytest.mark.parametrize("name", ["leaky", "stop_gradient"])
@pytest.mark.parametrize("value", [2, "yes", None])
def test_bad_switch(name, value):
    with pytest.raises(ValueError, match=f"True or False.*{name}="):
        DynamicRouting(**{name: value})


@pytest.mark.parametrize("value", [True, 1, np.bool_(True), np.int64(1)])
def test_switches_are_what_python_takes_for_true(value):
    config = DynamicRouting(leaky=value, stop_gradient=not value).get_config()
    assert config["leaky"] is True and config["stop_gradient"] is False
