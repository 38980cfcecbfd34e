"""Votes and their weighted sums, against NumPy."""

import functools

import numpy as np
import pytest
from keras import ops

from keras_capsules.engine import compilation
from keras_capsules.engine import votes
from keras_capsules.engine.votes import count_votes
from keras_capsules.engine.votes import make_votes
from keras_capsules.engine.votes import sum_votes
from tests.helpers import modes
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.gradients import second_gradient
from tests.helpers.testing import BACKEND

# Distinct primes, so that no axis can be taken for another. Input capsules are
# the product of two, so that they may share matrices.
BATCH, OUTPUTS, OUT_DIM, DIM = 2, 7, 13, 5
KERNELS, PLACES, ROWS = 3, 11, 17

# Rows of a pose, and matrices for a number of input capsules.
SIZES = {
    "vectors": (1, KERNELS, 1),
    "matrices": (ROWS, KERNELS, 1),
    "shared-vectors": (1, KERNELS, PLACES),
    "shared-matrices": (ROWS, KERNELS, PLACES),
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
FORMS = {
    "make_votes": make_votes,
    "multiplied": votes._multiplied,
    "in-columns": functools.partial(votes._multiplied, in_columns=True),
    "added-up": votes._added_up,
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
forms_and_sizes = pytest.mark.parametrize(
    ("form", "size"),
    [
        pytest.param(form, size, id=f"{name}-{kind}")
        for name, form in FORMS.items()
        for kind, size in SIZES.items()
        # Only XLA has products of this rank, and only vectors use them.
        if (name, kind) != ("added-up", "shared-matrices")
    ],
)


def make_arrays(size, dtype="float64"):
    """Poses, a kernel, and weights of the votes."""
    rows, kernels, places = size
    random = np.random.default_rng(0)
    shapes = [
        (BATCH, kernels * places, rows, DIM),
        (kernels, DIM, OUTPUTS, OUT_DIM),
        (BATCH, OUTPUTS, kernels * places),
    ]
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


def expected_votes(poses, kernel):
    """`[b, j, i, f]`: capsules i and i + k share matrices."""
    kernel = np.tile(kernel, (poses.shape[1] // len(kernel), 1, 1, 1))
    result = np.einsum("bipd,idje->bjipe", poses, kernel)
    return result.reshape(*result.shape[:3], -1)


def expected_sums(poses, kernel, weights):
    return np.einsum("bji,bjif->bjf", weights, expected_votes(poses, kernel))


def sums(poses, kernel, weights, **options):
    return sum_votes(weights, poses, kernel, **options)


# Values.


@forms_and_sizes
def test_votes_are_products_with_a_matrix_for_each_pair(form, size):
    poses, kernel, _ = make_arrays(size)
    result = evaluate(form, poses, kernel)
    assert result.shape == (BATCH, OUTPUTS, size[1] * size[2], size[0] * 13)
    assert_close(result, expected_votes(poses, kernel))


@forms
def test_votes_of_no_examples(form):
    poses, kernel, _ = make_arrays(SIZES["shared-matrices"], "float32")
    result = evaluate(form, poses[:0], kernel)
    assert result.shape == (0, OUTPUTS, KERNELS * PLACES, ROWS * OUT_DIM)


@sizes
def test_number_of_votes(size):
    poses, kernel, _ = make_arrays(size)
    one = expected_votes(poses, kernel)[0]
    assert count_votes(poses, kernel) == one.size


@sizes
@pytest.mark.parametrize("step", [1, 2, 3, None])
def test_sums_of_votes(size, step):
    arrays = make_arrays(size)
    result = evaluate(functools.partial(sums, size=step), *arrays)
    assert result.shape == (BATCH, OUTPUTS, size[0] * OUT_DIM)
    assert_close(result, expected_sums(*arrays))


def test_sums_of_votes_of_one_example():
    poses, kernel, weights = make_arrays(SIZES["shared-matrices"], "float32")
    one = poses[:1], kernel, weights[:1]
    assert_close(evaluate(sums, *one), expected_sums(*one), 1e-5)


# Which form is taken.


@pytest.mark.parametrize(
    ("rows", "dim", "out_dim", "in_xla", "expected"),
    [
        (1, 16, 8, True, "added up"),
        (1, 16, 8, False, "multiplied"),
        (1, 17, 8, True, "multiplied"),
        (1, 16, 7, True, "multiplied"),
        (2, 16, 8, True, "multiplied"),
    ],
)
def test_xla_adds_up_votes_of_short_vectors(
    rows, dim, out_dim, in_xla, expected, monkeypatch
):
    if BACKEND == "torch" and in_xla:
        pytest.skip("PyTorch has no XLA")
    monkeypatch.setattr(compilation, "in_xla", lambda: in_xla)
    used = []

    def watch(name, function):
        def watched(*arguments, **options):
            used.append(name)
            return function(*arguments, **options)

        return watched

    for name in ("_added_up", "_multiplied"):
        function = watch(name[1:].replace("_", " "), getattr(votes, name))
        monkeypatch.setattr(votes, name, function)
    poses = ops.ones((2, 3, rows, dim))
    make_votes(poses, ops.ones((3, dim, 5, out_dim)))
    assert set(used) == {expected}


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no XLA")
@pytest.mark.parametrize("places", [1, PLACES])
def test_votes_in_xla_have_the_gradients_of_those_outside(places, monkeypatch):
    """In XLA, each derivative is computed in the form in which it is fast."""
    poses, kernel, _ = make_arrays((1, KERNELS, places), "float32")
    arrays = {"poses": poses}, {"kernel": kernel}

    def function(form):
        return lambda x, shared: form(x["poses"], shared["kernel"])

    exact = modes.run(modes.MODES[0], function(votes._multiplied), *arrays)
    monkeypatch.setattr(compilation, "in_xla", lambda: True)
    ours = modes.run(modes.MODES[0], function(make_votes), *arrays)
    for key, value in exact.items():
        assert_close(ours[key], value, 1e-5)


# Derivatives.


def loss(form, *arrays):
    """A scalar in which no two entries count alike."""
    result = ops.sin(form(*arrays))
    weights = np.random.default_rng(4).normal(size=result.shape)
    return ops.sum(result * ops.cast(weights, result.dtype))


@needs_float64
@forms_and_sizes
def test_gradients_of_votes_equal_numeric_ones(form, size):
    arrays = make_arrays(size)[:2]
    function = functools.partial(loss, form)
    slopes = gradient(function, *arrays)
    check_slopes(function, slopes, *arrays, rtol=1e-5, atol=1e-6)


@needs_float64
@sizes
@pytest.mark.parametrize("step", [1, 3, None])
def test_gradients_of_sums_equal_numeric_ones(size, step):
    arrays = make_arrays(size)
    function = functools.partial(loss, functools.partial(sums, size=step))
    slopes = gradient(function, *arrays)
    check_slopes(function, slopes, *arrays, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", ["vectors", "shared-matrices"])
def test_gradients_in_float32(size):
    """A gradient by einsum: votes are linear in both arguments."""
    arrays = make_arrays(SIZES[size], "float32")
    poses, kernel, weights = arrays
    rows, kernels, places = SIZES[size]
    upstream = np.random.default_rng(3).normal(
        size=(BATCH, OUTPUTS, rows, OUT_DIM)
    )
    flat = upstream.reshape(BATCH, OUTPUTS, -1).astype("float32")

    slopes = gradient(lambda *x: ops.sum(ops.multiply(sums(*x), flat)), *arrays)

    tiled = np.tile(kernel, (places, 1, 1, 1))
    exact = [
        np.einsum("bji,idje,bjpe->bipd", weights, tiled, upstream),
        np.einsum("bji,bipd,bjpe->idje", weights, poses, upstream)
        .reshape(places, *kernel.shape)
        .sum(axis=0),
        np.einsum("bipd,idje,bjpe->bji", poses, tiled, upstream),
    ]
    for ours, theirs in zip(slopes, exact, strict=True):
        assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("which", [0, 1], ids=["poses", "kernel"])
@forms
def test_second_derivatives_of_votes(which, form):
    """Those of a sine: minus the sine, times squares of first derivatives."""
    arrays = make_arrays(SIZES["shared-vectors"], "float32")[:2]
    direction = np.random.default_rng(2).normal(size=arrays[which].shape)
    direction = direction.astype("float32")

    def of_one(x):
        changed = [ops.convert_to_tensor(each) for each in arrays]
        changed[which] = x
        return ops.sum(ops.sin(form(*changed)))

    second = second_gradient(of_one, arrays[which], direction)

    moved = list(arrays)
    moved[which] = direction
    slopes = -np.sin(expected_votes(*arrays)) * expected_votes(*moved)
    slopes = slopes.reshape(BATCH, OUTPUTS, PLACES, KERNELS, OUT_DIM)
    poses = arrays[0].reshape(BATCH, PLACES, KERNELS, DIM)
    exact = [
        np.einsum("bjqke,kdje->bqkd", slopes, arrays[1]),
        np.einsum("bjqke,bqkd->kdje", slopes, poses),
    ][which]
    assert_close(second, exact.reshape(arrays[which].shape), 1e-5)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["poses", "kernel", "weights"])
def test_second_derivatives_of_sums(which):
    arrays = make_arrays(SIZES["shared-vectors"], "float32")
    direction = np.random.default_rng(2).normal(size=arrays[which].shape)
    direction = direction.astype("float32")

    def second(form):
        def of_one(x):
            changed = [ops.convert_to_tensor(each) for each in arrays]
            changed[which] = x
            return ops.sum(ops.sin(form(*changed)))

        return second_gradient(of_one, arrays[which], direction)

    def from_all_votes(poses, kernel, weights):
        return ops.einsum(
            "bji,bjif->bjf", weights, votes._multiplied(poses, kernel)
        )

    assert_close(second(sums), second(from_all_votes), 1e-5)
