"""Second moments of votes against the vote tensor written out."""

import keras
import numpy as np
import pytest
from blocks import BLOCKS
from blocks import set_blocks
from gradients import assert_close
from gradients import check_slopes
from gradients import evaluate
from gradients import gradient
from gradients import needs_float64
from gradients import of_one
from gradients import second_gradient
from keras import ops
from testing import on_one_backend

from keras_capsules import moments
from keras_capsules.votes import Votes

# Distinct primes, so that no axis can be taken for another.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 2, 5, 3, 7, 11

sizes = pytest.mark.parametrize("rows", [1, 13], ids=["vectors", "matrices"])
blocks = pytest.mark.parametrize("blocks", BLOCKS)
kinds = pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
both = pytest.mark.parametrize("moment", ["scatter", "distance"])


def make_arrays(moment, full, rows, dtype="float64"):
    """Poses, kernel, coefficients or precisions, centers."""
    random = np.random.default_rng(0)
    poses = random.normal(size=(BATCH, INPUTS, rows, DIM))
    kernel = random.normal(size=(INPUTS, DIM, OUTPUTS, OUT_DIM))
    centers = random.normal(size=(OUTPUTS, BATCH, rows, OUT_DIM))
    if moment == "scatter":
        operand = random.normal(size=(OUTPUTS, BATCH, INPUTS))
    elif full:  # of no symmetry
        length = rows * OUT_DIM
        operand = random.normal(size=(OUTPUTS, BATCH, length, length))
    else:
        operand = random.normal(size=centers.shape)
    return [x.astype(dtype) for x in (poses, kernel, operand, centers)]


def apply(moment, full, poses, kernel, operand, centers):
    votes = Votes(poses, kernel)
    if moment == "scatter":
        return moments.scatter(votes, operand, centers, full)
    return moments.distance(votes, centers, operand)


def oracle(moment, full, poses, kernel, operand, centers):
    """The same with NumPy, from deviations [j, b, i, f]."""
    votes = np.einsum("bipd,idje->jbipe", poses, kernel)
    off = votes - centers[:, :, None]
    flat = off.reshape(*off.shape[:3], off.shape[3] * off.shape[4])
    if moment == "scatter":
        if full:
            return np.einsum("jbi,jbif,jbig->jbfg", operand, flat, flat)
        return np.einsum("jbi,jbipe->jbpe", operand, off**2)
    if full:
        return np.einsum("jbfg,jbif,jbig->jbi", operand, flat, flat)
    return np.einsum("jbpe,jbipe->jbi", operand, off**2)


def dense(moment, full, poses, kernel, operand, centers):
    """The same with Keras, for the backend to differentiate."""
    votes = ops.einsum("bipd,idje->jbipe", poses, kernel)
    off = votes - centers[:, :, None]
    flat = ops.reshape(off, (OUTPUTS, BATCH, INPUTS, -1))
    if moment == "scatter":
        if full:
            return ops.einsum("jbi,jbif,jbig->jbfg", operand, flat, flat)
        return ops.einsum("jbi,jbipe->jbpe", operand, off * off)
    if full:
        return ops.einsum("jbfg,jbif,jbig->jbi", operand, flat, flat)
    return ops.einsum("jbpe,jbipe->jbi", operand, off * off)


@blocks
@sizes
@kinds
@both
def test_values_equal_the_vote_tensor(moment, full, rows, blocks, monkeypatch):
    set_blocks(monkeypatch, blocks)
    arrays = make_arrays(moment, full, rows)

    value = evaluate(lambda *x: apply(moment, full, *x), *arrays)

    exact = oracle(moment, full, *arrays)
    assert value.shape == exact.shape
    assert_close(value, exact)


@on_one_backend
@blocks
@kinds
@both
def test_gradients_to_all_operands(moment, full, blocks, monkeypatch):
    set_blocks(monkeypatch, blocks)
    arrays = make_arrays(moment, full, 1, "float32")
    shape = oracle(moment, full, *arrays).shape
    weights = np.random.default_rng(1).normal(size=shape).astype("float32")

    def loss(form):
        return lambda *x: ops.sum(ops.multiply(form(moment, full, *x), weights))

    ours = gradient(loss(apply), *arrays)
    theirs = gradient(loss(dense), *arrays)

    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, 1e-5)


@needs_float64
@kinds
@both
def test_gradients_of_matrices_equal_numeric_ones(moment, full):
    arrays = make_arrays(moment, full, 13)

    def loss(*x):
        return ops.sum(ops.sin(0.1 * apply(moment, full, *x)))

    gradients = gradient(loss, *arrays)

    check_slopes(loss, gradients, *arrays, rtol=1e-5, atol=1e-6)


@on_one_backend
@pytest.mark.parametrize("blocks", [BLOCKS[0], BLOCKS[-1]])
@kinds
@both
def test_second_derivatives(moment, full, blocks, monkeypatch):
    set_blocks(monkeypatch, blocks)
    arrays = make_arrays(moment, full, 1, "float32")
    for which in range(4):
        direction = np.random.default_rng(2).normal(size=arrays[which].shape)
        direction = direction.astype("float32")
        ours, theirs = (
            second_gradient(
                of_one(
                    lambda *x, form=form: 0.1 * form(moment, full, *x),
                    arrays,
                    which,
                ),
                arrays[which],
                direction,
            )
            for form in (apply, dense)
        )
        assert_close(ours, theirs, 1e-4)


def test_votes_that_nearly_agree_keep_their_digits():
    """A difference of sums of squares of float32 would have none of them."""
    random = np.random.default_rng(0)
    kernel = np.ones((INPUTS, 1, OUTPUTS, OUT_DIM), "float32")
    poses = 1000 + random.normal(0, 0.01, (BATCH, INPUTS, 1, 1))
    poses = poses.astype("float32")
    centers = np.full((OUTPUTS, BATCH, 1, OUT_DIM), 1000, "float32")
    ones = np.ones((OUTPUTS, BATCH, INPUTS), "float32")
    arrays = poses, kernel, ones, centers

    value = evaluate(lambda *x: apply("scatter", False, *x), *arrays)

    exact = [each.astype("float64") for each in arrays]
    assert_close(value, oracle("scatter", False, *exact), 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_are_squared_in_32(dtype):
    """Squares of these would overflow a float16."""
    arrays = [
        ops.cast(ops.convert_to_tensor(1000 * x), dtype)
        for x in make_arrays("scatter", False, 1, "float32")
    ]
    arrays[1] = arrays[1] / 1000
    value = apply("scatter", False, *arrays)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    exact = [
        ops.convert_to_numpy(ops.cast(x, "float32")).astype("float64")
        for x in arrays
    ]
    value = ops.convert_to_numpy(value)
    assert_close(value, oracle("scatter", False, *exact), 1e-5)


@kinds
def test_a_batch_of_none_and_of_one(full):
    for batch in (0, 1):
        for moment in ("scatter", "distance"):
            poses, kernel, operand, centers = make_arrays(
                moment, full, 1, "float32"
            )
            few = poses[:batch], kernel, operand[:, :batch], centers[:, :batch]
            value = ops.convert_to_numpy(apply(moment, full, *few))
            exact = oracle(moment, full, *few)
            assert value.shape == exact.shape
            assert_close(value, exact, 1e-5)


@kinds
def test_no_tensor_as_large_as_the_votes_exists(full, monkeypatch):
    """Every value that JAX computes is smaller by far, backward as well."""
    if keras.backend.backend() != "jax":
        pytest.skip("JAX shows all intermediate values.")
    import jax

    set_blocks(monkeypatch, (1, 16))
    batch, inputs, dim, outputs, out_dim = 11, 23, 2, 29, 3
    poses = np.ones((batch, inputs, 1, dim), "float32")
    kernel = np.ones((inputs, dim, outputs, out_dim), "float32")
    weights = np.ones((outputs, batch, inputs), "float32")

    def loss(poses, kernel, weights):
        votes = Votes(poses, kernel)
        centers = votes.mix(weights)
        spread = moments.scatter(votes, weights, centers, full)
        return ops.sum(ops.exp(-moments.distance(votes, centers, spread)))

    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(
        poses, kernel, weights
    )

    largest = max(_sizes(program.jaxpr))
    assert largest == weights.size
    assert largest < batch * inputs * outputs * out_dim / 2


def _sizes(program):
    for equation in program.eqns:
        for variable in equation.outvars:
            yield int(np.prod(variable.aval.shape))
        for parameter in equation.params.values():
            if hasattr(parameter, "jaxpr"):
                yield from _sizes(parameter.jaxpr)
