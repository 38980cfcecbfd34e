"""The operator against the vote tensor written out, in NumPy and in Keras."""

import functools

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

from keras_capsules.votes import Votes

# Distinct primes, so that no axis can be taken for another.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 2, 5, 3, 7, 11
METHODS = ("mix", "agreement", "pull", "outer", "sum", "dense")
OPERANDS = {
    "mix": "c",
    "agreement": "t",
    "pull": "ct",
    "outer": "ct",
    "sum": "",
    "dense": "",
}


@pytest.fixture(params=[1, 13], ids=["vectors", "matrices"])
def rows(request):
    return request.param


@pytest.fixture(params=BLOCKS)
def blocks(request, monkeypatch):
    """How parents are taken together."""
    set_blocks(monkeypatch, request.param)


def make_arrays(rows, dtype="float64", seed=0):
    random = np.random.default_rng(seed)
    shapes = {
        "u": (BATCH, INPUTS, rows, DIM),
        "w": (INPUTS, DIM, OUTPUTS, OUT_DIM),
        "c": (OUTPUTS, BATCH, INPUTS),
        "t": (OUTPUTS, BATCH, rows, OUT_DIM),
    }
    return {
        name: random.normal(size=shape).astype(dtype)
        for name, shape in shapes.items()
    }


def expected(method, u, w, c, t):
    """What each method should give, from the vote tensor, with NumPy."""
    votes = np.einsum("bipd,idje->bijpe", u, w)
    return {
        "mix": lambda: np.einsum("jbi,bijpe->jbpe", c, votes),
        "agreement": lambda: np.einsum("bijpe,jbpe->jbi", votes, t),
        "pull": lambda: np.einsum("jbi,idje,jbpe->bipd", c, w, t),
        "outer": lambda: np.einsum("jbi,bipd,jbpe->idje", c, u, t),
        "sum": lambda: np.einsum("bijpe->jbpe", votes),
        "dense": lambda: votes,
    }[method]()


def apply(method, u, w, *operands):
    return getattr(Votes(u, w), method)(*operands)


@pytest.mark.parametrize("method", METHODS)
def test_values_equal_the_vote_tensor(method, rows, blocks):
    arrays = make_arrays(rows)
    operands = [arrays[name] for name in OPERANDS[method]]

    value = evaluate(
        lambda *x: apply(method, *x), arrays["u"], arrays["w"], *operands
    )

    assert_close(value, expected(method, **arrays))


@pytest.mark.parametrize("method", METHODS)
def test_float32_equals_the_vote_tensor(method, blocks):
    arrays = make_arrays(1, "float32")
    operands = [arrays[name] for name in "uw" + OPERANDS[method]]
    exact = expected(method, **make_arrays(1))
    weights = np.random.default_rng(1).normal(size=exact.shape)
    weights = weights.astype("float32")

    value = evaluate(lambda *x: apply(method, *x), *operands)
    gradients = gradient(
        lambda *x: ops.sum(ops.multiply(apply(method, *x), weights)),
        *operands,
    )

    assert_close(value, exact, 1e-5)
    # The form is linear in each operand, so that its gradient by one of them
    # is the form again; einsum finds it from the letters.
    letters = {"u": "bipd", "w": "idje", "c": "jbi", "t": "jbpe"}
    out = {
        "mix": "jbpe",
        "agreement": "jbi",
        "pull": "bipd",
        "outer": "idje",
        "sum": "jbpe",
        "dense": "bijpe",
    }[method]
    names = "uw" + OPERANDS[method]
    names = names.replace({"pull": "u", "outer": "w"}.get(method, "-"), "")
    exact_arrays = make_arrays(1)
    for name, ours in zip("uw" + OPERANDS[method], gradients, strict=True):
        if name not in names:
            assert not ours.any()  # the operand that this one leaves out
            continue
        others = [other for other in names if other != name]
        inputs = ",".join([out] + [letters[other] for other in others])
        theirs = np.einsum(
            f"{inputs}->{letters[name]}",
            weights.astype("float64"),
            *(exact_arrays[other] for other in others),
        )
        assert_close(ours, theirs, 1e-5)


@needs_float64
@pytest.mark.parametrize("method", ["mix", "agreement", "pull", "outer"])
def test_gradients_equal_numeric_ones(method, rows, blocks):
    arrays = make_arrays(rows)
    operands = [arrays[name] for name in "uw" + OPERANDS[method]]

    def loss(*x):
        return ops.sum(ops.sin(apply(method, *x)))

    gradients = gradient(loss, *operands)

    check_slopes(loss, gradients, *operands, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "which"),
    [
        (method, which)
        for method in ("mix", "agreement", "pull", "outer")
        for which in (0, 1, 2)  # poses, kernel, operand
        # These leave that very operand out.
        if (method, which) not in (("pull", 0), ("outer", 1))
    ],
)
def test_second_derivatives_equal_the_vote_tensor(method, which, blocks):
    arrays = make_arrays(1, "float32")
    operands = [arrays[name] for name in "uw" + OPERANDS[method]]
    direction = np.random.default_rng(2).normal(size=operands[which].shape)
    direction = direction.astype("float32")

    def loss(form):
        return of_one(functools.partial(form, method), operands, which)

    second = second_gradient(loss(apply), operands[which], direction)

    exact = second_gradient(loss(_dense_apply), operands[which], direction)
    assert_close(second, exact, 1e-5)


def _dense_apply(method, u, w, *operands):
    """The same from the vote tensor, differentiated by the backend."""
    named = dict(zip(OPERANDS[method], operands, strict=True))
    c, t = named.get("c"), named.get("t")
    votes = Votes(u, w).dense()
    if method == "mix":
        return ops.einsum("jbi,bijpe->jbpe", c, votes)
    if method == "agreement":
        return ops.einsum("bijpe,jbpe->jbi", votes, t)
    if method == "pull":
        weights = ops.einsum("jbi,jbpe->bijpe", c, t)
        return ops.einsum("bijpe,idje->bipd", weights, w)
    weights = ops.einsum("jbi,jbpe->bijpe", c, t)
    return ops.einsum("bijpe,bipd->idje", weights, u)


def test_a_batch_of_none_and_of_one(blocks):
    arrays = make_arrays(1, "float32")
    for batch in (0, 1):
        few = {
            name: {"u": array[:batch], "w": array}.get(name, array[:, :batch])
            for name, array in arrays.items()
        }
        for method in METHODS:
            value = apply(
                method, few["u"], few["w"], *(few[n] for n in OPERANDS[method])
            )
            np.testing.assert_allclose(
                ops.convert_to_numpy(value),
                expected(method, **few),
                rtol=1e-5,
                atol=1e-5,
            )


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 5, 3), (5, 3, 7, 11)),
        ((2, 5, 1, 3), (5, 3, 7)),
        ((2, 4, 1, 3), (5, 3, 7, 11)),
        ((2, 5, 1, 2), (5, 3, 7, 11)),
    ],
    ids=["poses rank", "kernel rank", "inputs", "dimension"],
)
def test_shapes_that_do_not_fit_raise(shapes):
    poses, kernel = (np.zeros(shape, "float32") for shape in shapes)
    with pytest.raises(ValueError, match=r"Received: poses\.shape="):
        Votes(poses, kernel)


def test_no_tensor_as_large_as_the_votes_exists():
    """Every value that JAX computes is smaller by far, backward as well."""
    if keras.backend.backend() != "jax":
        pytest.skip("JAX shows all intermediate values.")
    import jax

    batch, inputs, dim, outputs, out_dim = 11, 23, 2, 13, 17
    poses = np.ones((batch, inputs, 1, dim), "float32")
    kernel = np.ones((inputs, dim, outputs, out_dim), "float32")

    def loss(poses, kernel):
        votes = Votes(poses, kernel)
        logits = votes.agreement(votes.sum())
        return ops.sum(ops.square(votes.mix(logits)))

    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(poses, kernel)

    largest = max(_sizes(program.jaxpr))
    assert largest == kernel.size
    assert largest < batch * inputs * outputs * out_dim / 5


def _sizes(program):
    for equation in program.eqns:
        for variable in equation.outvars:
            yield int(np.prod(variable.aval.shape))
        for parameter in equation.params.values():
            if hasattr(parameter, "jaxpr"):
                yield from _sizes(parameter.jaxpr)


needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="looks into its graphs"
)


def _mix_of_four(monkeypatch, **options):
    import tensorflow as tf

    set_blocks(monkeypatch, (1, 16))
    shapes = (2, 5, 1, 3), (5, 3, 4, 2)

    @tf.function(input_signature=[tf.TensorSpec(x) for x in shapes], **options)
    def mix(poses, kernel):
        return Votes(poses, kernel).mix(ops.ones((4, 2, 5)))

    return mix, [np.ones(shape, "float32") for shape in shapes]


@needs_tensorflow
def test_a_block_waits_for_the_one_before_the_last(monkeypatch):
    """What bounds the memory of TensorFlow's graphs, which rush ahead."""
    mix, _ = _mix_of_four(monkeypatch)
    graph = mix.get_concrete_function().graph
    products = [
        each for each in graph.get_operations() if "MatMul" in each.type
    ]

    def needed(operation):
        for each in operation.inputs:
            yield each.op
            yield from needed(each.op)

    waits = [
        [other in set(needed(product)) for other in products]
        for product in products
    ]
    assert np.array_equal(waits, np.eye(4, k=-2, dtype=bool))


@needs_tensorflow
def test_xla_compiles_once_for_all_values(monkeypatch):
    """A program of constants would be compiled anew for each batch."""
    mix, inputs = _mix_of_four(monkeypatch, jit_compile=True)
    program = mix.experimental_get_compiler_ir(*inputs)(stage="hlo")
    entry = program[program.index("ENTRY") :]
    assert "parameter(0)" in entry and "parameter(1)" in entry
