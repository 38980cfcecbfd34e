import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import activations
from keras_capsules.activations import exponential_squash
from keras_capsules.activations import safe_norm
from keras_capsules.activations import squash
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import numeric_gradient
from tests.helpers.gradients import second_gradient

EPSILON = 1e-7
SQUASHES = [squash, exponential_squash]
FUNCTIONS = [*SQUASHES, safe_norm]
DTYPES = ["float16", "bfloat16", "float32"]
MACHINE_EPSILON = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23}
LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": float(np.finfo("float32").max),
}
# NumPy has no bfloat16, but all of these are float32 numbers.
SUBNORMAL = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
}
squashes = pytest.mark.parametrize("function", SQUASHES)
functions = pytest.mark.parametrize("function", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def random(*shape, scale=1.0, dtype="float64"):
    return np.random.default_rng(7).normal(0, scale, shape).astype(dtype)


def oracle(function, x, axis=-1):
    """The textbook formulas: no epsilon, and no scaling either."""
    x = np.asarray(x, "longdouble")
    length = np.sqrt(np.sum(x * x, axis=axis, keepdims=True))
    if function is safe_norm:
        return np.squeeze(length, axis=axis)
    if function is squash:
        return length**2 / (1 + length**2) * (x / length)
    return (1 - np.exp(-length)) * (x / length)


def in_dtype(function, dtype, **kwargs):
    """Makes `function` work in `dtype` on tensors of another one."""

    def call(x):
        y = function(ops.cast(x, dtype), **kwargs)
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        return ops.cast(y, x.dtype)

    return call


def weighted_sum(function, **kwargs):
    """A scalar that depends on each output of `function` differently."""

    def call(x):
        y = ops.reshape(function(x, **kwargs), (-1,))
        weights = np.linspace(0.5, 1.5, y.shape[0])
        return ops.sum(y * ops.cast(ops.convert_to_tensor(weights), y.dtype))

    return call


def extreme_vectors(dtype, dim):
    """Zeros, the smallest numbers there are, and the largest."""
    signs = np.zeros((4, dim), "float32")
    signs[0] = 1
    signs[1] = (-1.0) ** np.arange(dim)
    signs[2, ::2] = 1
    signs[3, -1] = -1
    small, large = signs * SUBNORMAL[dtype], signs * LARGEST[dtype]
    return np.concatenate([0 * signs[:1], small[1:], large]).astype("float32")


def tolerance(dtype):
    """How far above 1 rounding may lift a length.

    By half a machine epsilon, to `dtype`, and a few of float32 before that.
    """
    return MACHINE_EPSILON[dtype] / 2 + 1e-6


# Values.


@functions
@pytest.mark.parametrize(
    "axis",
    [-1, 0, 1, (1, 3), [-1, 0], (0, 1, 2, 3)],
    ids=["last", "first", "middle", "two", "list", "all"],
)
def test_equals_the_formula(function, axis):
    x = random(3, 5, 2, 7)
    y = evaluate(lambda x: function(x, axis=axis, epsilon=1e-14), x)
    expected = oracle(function, x, tuple(np.atleast_1d(axis)))
    assert y.dtype == "float64"
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected.astype("float64"), rtol=1e-12)


@functions
@pytest.mark.parametrize("scale", [1e-2, 1e3, 1e4, 1e5, 1e30])
def test_equals_the_formula_in_float32(function, scale):
    # Both sides of the length from which vectors are scaled.
    x = random(8, 7, scale=scale, dtype="float32")
    y = evaluate(lambda x: function(x, epsilon=1e-12), x)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, oracle(function, x).astype("float32"), 1e-6)


@pytest.mark.parametrize(
    "function, expected",
    [
        (squash, [25 / 26 * 0.6, 25 / 26 * 0.8]),
        (exponential_squash, [0.6 * 0.993262053, 0.8 * 0.993262053]),
        (safe_norm, 5.0),
    ],
)
def test_golden(function, expected):
    y = evaluate(function, np.array([3.0, 4.0]))
    np.testing.assert_allclose(y, expected, rtol=1e-7)


@functions
def test_epsilon_is_added_to_the_squared_length(function):
    x = np.array([0.3, 0.0, -0.4])
    y = evaluate(lambda x: function(x, epsilon=0.75), x)
    factor = {squash: 0.5, exponential_squash: 1 - np.exp(-1.0)}
    expected = 1.0 if function is safe_norm else x * factor[function]
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_keepdims():
    x = random(2, 3, 5)
    kept = evaluate(lambda x: safe_norm(x, axis=(0, 2), keepdims=True), x)
    dropped = evaluate(lambda x: safe_norm(x, axis=(0, 2)), x)
    assert kept.shape == (1, 3, 1)
    np.testing.assert_array_equal(kept.ravel(), dropped)


@functions
def test_accepts_lists_and_integers(function):
    expected = evaluate(function, np.array([[3.0, 4.0]], "float32"))
    for x in ([[3.0, 4.0]], [[3, 4]], np.array([[3, 4]], "int8")):
        y = function(x)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_allclose(ops.convert_to_numpy(y), expected, 1e-6)


# Laws.


@squashes
@dtypes
@pytest.mark.parametrize("dim", [1, 7, 1024])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_length_is_at_most_1(function, dtype, dim, scale):
    x = random(8, dim, scale=scale, dtype="float32")
    y = evaluate(in_dtype(function, dtype), x).astype("float64")
    lengths = np.linalg.norm(y, axis=-1)
    assert lengths.max() <= 1 + tolerance(dtype)


@squashes
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e20])
def test_direction_is_preserved(function, scale):
    x = random(8, 7, scale=scale, dtype="float32")
    y = evaluate(function, x).astype("float64")
    x = x.astype("float64")
    np.testing.assert_allclose(
        y / np.linalg.norm(y, axis=-1, keepdims=True),
        x / np.linalg.norm(x, axis=-1, keepdims=True),
        rtol=1e-6,
    )


@squashes
def test_longer_stays_longer(function):
    lengths = np.geomspace(1e-3, 20, 50)[:, None]
    y = evaluate(function, lengths * np.array([0.6, -0.8]))
    assert np.all(np.diff(np.linalg.norm(y, axis=-1)) > 0)


@squashes
@dtypes
def test_odd_function(function, dtype):
    x = random(8, 7, scale=10.0, dtype="float32")
    y = evaluate(in_dtype(function, dtype), x)
    np.testing.assert_array_equal(evaluate(in_dtype(function, dtype), -x), -y)


@squashes
@dtypes
def test_zero_stays_zero(function, dtype):
    y = evaluate(in_dtype(function, dtype), np.zeros((2, 3), "float32"))
    np.testing.assert_array_equal(y, np.zeros((2, 3)))


def test_short_vectors():
    x = np.array([6e-3, -8e-3])
    np.testing.assert_allclose(evaluate(squash, x), 0.01 * x, rtol=1e-3)
    np.testing.assert_allclose(
        evaluate(exponential_squash, x), (1 - 0.005) * x, rtol=1e-3
    )
    assert evaluate(safe_norm, 0 * x) == pytest.approx(EPSILON**0.5)


@functions
def test_vectors_do_not_mix(function):
    x = extreme_vectors("float32", 3)
    x[5] = [0.1, -0.2, 0.3]
    together = evaluate(function, x)
    np.testing.assert_array_equal(evaluate(function, x[5:6]), together[5:6])


@functions
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinite_and_nan_entries_give_nan(function, bad):
    x = np.array([[1.0, bad], [3.0, 4.0]], "float32")
    y = evaluate(function, x)
    assert np.all(np.isnan(y[0]))
    assert np.all(np.isfinite(y[1]))


# Derivatives.


@functions
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_gradient_is_the_numeric_one(function, scale):
    x = random(3, 5, scale=scale)
    scalar = weighted_sum(function)
    numeric = numeric_gradient(scalar, x, step=1e-6)
    np.testing.assert_allclose(gradient(scalar, x), numeric, 1e-5, atol=1e-8)


@functions
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_second_gradient_is_the_numeric_one(function, scale):
    x = random(2, 3, scale=scale)
    direction = random(3, 3)[1:]
    scalar = weighted_sum(function, epsilon=1e-2)

    def slope(step):
        return gradient(scalar, x + step * direction)

    numeric = (slope(1e-6) - slope(-1e-6)) / 2e-6
    actual = second_gradient(scalar, x, direction)
    np.testing.assert_allclose(actual, numeric, rtol=1e-5, atol=1e-7)


@squashes
@pytest.mark.parametrize("scale", [1e5, 1e15, 1e30])
def test_gradient_of_long_vectors(function, scale):
    # Their length is 1 to rounding, so that only a turn is left:
    # (I - dd') / |x|, for a direction d.
    x = random(8, 7, scale=scale, dtype="float32")
    length = np.linalg.norm(x.astype("float64"), axis=-1, keepdims=True)
    direction = x / length
    weights = np.linspace(0.5, 1.5, x.size).reshape(x.shape)
    along = np.sum(weights * direction, axis=-1, keepdims=True)
    expected = (weights - along * direction) / length
    actual = gradient(weighted_sum(function), x) * scale
    np.testing.assert_allclose(actual, expected * scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e15, 1e30])
def test_gradient_of_the_norm_is_the_direction(scale):
    x = random(1, 7, scale=scale, dtype="float32")
    direction = x / np.linalg.norm(x.astype("float64"))
    actual = gradient(weighted_sum(safe_norm), x)
    np.testing.assert_allclose(actual, 0.5 * direction, rtol=1e-6)


@squashes
@dtypes
@pytest.mark.parametrize(
    "dim, epsilon", [(1, 1e-20), (7, EPSILON), (1024, EPSILON), (1024, 1e-20)]
)
def test_extreme_vectors(function, dtype, dim, epsilon):
    x = extreme_vectors(dtype, dim)
    call = in_dtype(function, dtype, epsilon=epsilon)
    lengths = np.linalg.norm(evaluate(call, x).astype("float64"), axis=-1)
    # The factor of the largest float16 is still visibly less than 1.
    np.testing.assert_allclose(
        lengths,
        [0, 0, 0, 0, 1, 1, 1, 1],
        atol=2e-5 + MACHINE_EPSILON[dtype],
    )
    assert np.all(lengths <= 1 + tolerance(dtype))
    scalar = weighted_sum(call)
    assert np.all(np.isfinite(gradient(scalar, x)))
    second = second_gradient(scalar, x, np.ones_like(x))
    assert np.all(np.isfinite(second))


@dtypes
@pytest.mark.parametrize("dim", [1, 7, 1024])
def test_norm_of_extreme_vectors(dtype, dim):
    x = extreme_vectors(dtype, dim)
    call = in_dtype(safe_norm, dtype)
    y = evaluate(call, x).astype("float64")
    expected = np.hypot(oracle(safe_norm, x), EPSILON**0.5).astype("float64")
    expected[expected > LARGEST[dtype]] = np.inf
    np.testing.assert_allclose(y, expected, rtol=MACHINE_EPSILON[dtype])
    assert np.all(np.isfinite(gradient(weighted_sum(call), x)))
    second = second_gradient(weighted_sum(call), x, np.ones_like(x))
    assert np.all(np.isfinite(second))


@functions
@pytest.mark.parametrize("value", [5e-324, np.finfo("float64").max])
def test_extreme_vectors_in_float64(function, value):
    with np.errstate(over="ignore"):
        x = np.array([[value, 0.0, -value], [-value, 0.0, 0.0]])
    y = evaluate(function, x)
    assert not np.any(np.isnan(y))
    assert function is safe_norm or np.all(np.isfinite(y))
    assert np.all(np.isfinite(gradient(weighted_sum(function), x)))


# Arguments.


@functions
@pytest.mark.parametrize(
    "axis",
    [2, -3, None, 1.0, "last", True, (), (0, 2), (0, 0), (1, -1)],
    ids=str,
)
def test_invalid_axis_raises(function, axis):
    message = (
        r"Invalid value for argument `axis`\. Expected an axis, or several "
        r"different ones, of an input of shape \(2, 3\)\. Received: axis="
    )
    with pytest.raises(ValueError, match=message):
        function(np.ones((2, 3), "float32"), axis=axis)


@functions
def test_a_number_has_no_axis(function):
    with pytest.raises(ValueError, match="argument `axis`.*shape \\(\\)"):
        function(1.0)


@functions
@pytest.mark.parametrize(
    "epsilon", [0, -1e-7, 1e-21, None, "1e-7", np.nan, np.inf, True], ids=str
)
def test_invalid_epsilon_raises(function, epsilon):
    message = (
        r"Invalid value for argument `epsilon`\. Expected a finite number of "
        r"at least 1e-20\. Received: epsilon="
    )
    with pytest.raises(ValueError, match=message):
        function(np.ones((2, 3), "float32"), epsilon=epsilon)


# In Keras.


@functions
@dtypes
@pytest.mark.parametrize("axis", [-1, 1, (1, 2)])
def test_symbolic_input(function, dtype, axis):
    x = keras.Input((3, 5), batch_size=2, dtype=dtype)
    y = function(x, axis=axis)
    actual = function(np.ones((2, 3, 5)).astype("float32"), axis=axis)
    assert y.shape == tuple(actual.shape)
    assert y.dtype == dtype


@functions
def test_functional_model_round_trip(function, tmp_path):
    inputs = keras.Input((None, 5))
    model = keras.Model(inputs, function(inputs, axis=(1, 2)))
    x = random(2, 3, 5, dtype="float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = evaluate(lambda x: function(x, axis=(1, 2)), x)
    actual = loaded.predict(x, verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@squashes
def test_layer_activation_round_trip(function, tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(5, activation=function)]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].activation is function
    x = random(2, 3, dtype="float32")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@squashes
def test_get_by_name(function):
    assert activations.get(function.__name__) is function
    assert activations.get(function) is function
    assert activations.serialize(function) == function.__name__


@pytest.mark.parametrize("identifier", ["relu", None, safe_norm])
def test_get_what_keras_gets(identifier):
    function = activations.get(identifier)
    assert function is keras.activations.get(identifier)
    config = json.loads(json.dumps(activations.serialize(function)))
    assert activations.get(config) is function


def test_get_unknown_raises():
    with pytest.raises(ValueError, match="squish"):
        activations.get("squish")


@functions
def test_registered(function):
    name = f"keras_capsules>{function.__name__}"
    assert keras.saving.get_registered_name(function) == name
    assert keras.saving.get_registered_object(name) is function


@squashes
@pytest.mark.parametrize(
    "policy, jit_compile", [("float32", True), ("mixed_bfloat16", False)]
)
def test_model_fit(function, policy, jit_compile):
    if keras.backend.backend() == "torch":
        jit_compile = False  # PyTorch's compiler warns of its own future.
    # An identity kernel hands the vectors on: zeros, and long ones.
    dense = keras.layers.Dense(
        7, activation=function, kernel_initializer="identity", dtype=policy
    )
    model = keras.Sequential([keras.Input((7,)), dense])
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x = 1e30 * np.sign(extreme_vectors("bfloat16", 7))
    history = model.fit(x, 0.5 + 0 * x, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    kernel = dense.get_weights()[0]
    assert np.all(np.isfinite(kernel))
    assert np.any(kernel != np.eye(7))
