"""Derivatives of all kinds, of layers that work on a few examples at a time."""

import functools
import logging
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import routing as routings
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import run as engine
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.gradients import second_gradient
from tests.helpers.testing import BACKEND
from tests.helpers.testing import SLOW_ON_JAX

BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 5, 7, 3, 4, 2
SIZE = 2  # of a block: two of them, and a rest
NAMES = sorted(routings.ROUTINGS)


@pytest.fixture
def blocks(monkeypatch):
    monkeypatch.setattr(engine, "block_size", lambda *_: SIZE)


def at_once(monkeypatch):
    """Takes all examples at once, and keeps their votes for the gradient."""
    monkeypatch.setattr(engine, "block_size", lambda *_: None)


def random(*shape, seed=0):
    numbers = np.random.default_rng(seed)
    return numbers.normal(0, 0.7, shape).astype("float32")


def make_layer(name):
    """A built layer, and a function of its weights and of capsules."""
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing=name)
    layer.build((None, INPUTS, DIM))
    for index, weight in enumerate(layer.trainable_variables):
        weight.assign(random(*weight.shape, seed=index))

    def call(weights, inputs):
        state = [each.value for each in layer.non_trainable_variables]
        outputs, _ = layer.stateless_call(weights, state, inputs)
        return ops.concatenate(
            [ops.reshape(x, (-1,)) for x in keras.tree.flatten(outputs)]
        )

    return call, [each.value for each in layer.trainable_variables]


# JAX's transformations.

only_jax = pytest.mark.skipif(
    BACKEND != "jax", reason="JAX has these transformations"
)


@only_jax
@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_equals_finite_differences(name, blocks):
    import jax

    call, weights = make_layer(name)
    point = weights, random(BATCH, INPUTS, DIM, seed=8)
    slope = keras.tree.map_structure(
        lambda x: 0.1 * random(*x.shape, seed=9), point
    )
    upstream = random(*jax.eval_shape(call, *point).shape, seed=10)

    @jax.jit
    def derivatives(point):
        _, tangent = jax.jvp(call, point, slope)
        _, pull = jax.vjp(call, *point)
        return tangent, pull(upstream)

    @jax.jit
    def at(step):
        return call(*jax.tree.map(lambda x, dx: x + step * dx, point, slope))

    tangent, slopes = derivatives(point)

    # Of the fourth order, so that steps may be large enough for float32.
    one, two = 0.05, 0.1
    first, second = ((at(step) - at(-step)) / (2 * step) for step in (one, two))
    exact = np.asarray((4 * first - second) / 3)
    assert np.abs(exact).max() > 1e-2
    assert_close(tangent, exact, 1e-3)
    # Forward and reverse mode are of one and the same matrix.
    products = jax.tree.map(lambda x, y: np.sum(x * y), slopes, slope)
    np.testing.assert_allclose(
        sum(jax.tree.leaves(products)),
        np.sum(np.asarray(tangent) * upstream),
        rtol=1e-4,
        atol=1e-5,
    )


@only_jax
@pytest.mark.parametrize("name", NAMES)
def test_vmap_equals_a_loop(name, blocks):
    """Over a further axis of inputs: values and gradients."""
    import jax

    call, weights = make_layer(name)
    inputs = random(3, BATCH, INPUTS, DIM, seed=8)

    def loss(inputs):
        return ops.sum(ops.sin(call(weights, inputs)))

    step = jax.value_and_grad(loss)
    values, slopes = jax.jit(jax.vmap(step))(inputs)

    step = jax.jit(step)
    for index in range(3):
        value, slope = step(inputs[index])
        assert_close(values[index], value, 1e-5)
        assert_close(slopes[index], slope, 1e-5)


# Second derivatives in reverse mode.

ROUTINGS = {
    "dynamic": DynamicRouting(2),
    # Temperature and variances with which shares are neither all alike nor
    # all or nothing.
    "em": EMRouting(2, inverse_temperature=1.0, min_variance=1.0),
}
WHICH = {"poses": 0, "kernel": 1}


def call_of_one(name, which, dtype="float32"):
    """A scalar function of poses or of a kernel, an array, and a direction."""
    rows = random(BATCH, INPUTS, 1, DIM, seed=1)
    kernel = random(INPUTS, DIM, OUTPUTS, OUT_DIM, seed=2)
    arrays = [rows.astype(dtype), kernel.astype(dtype)]
    weights = {}
    if name == "em":
        weights = {
            key: random(OUTPUTS, seed=seed).astype(dtype)
            for seed, key in enumerate(["beta_u", "beta_a"], 3)
        }
    place = WHICH[which]

    def loss(x):
        changed = [ops.convert_to_tensor(each) for each in arrays]
        changed[place] = x
        # In training, because only then graphs of unknown batches have blocks.
        routed = ROUTINGS[name](*changed, weights=weights, training=True)
        results = [x for x in routed if x is not None]
        return sum(ops.sum(ops.sin(x)) for x in results)

    direction = random(*arrays[place].shape, seed=5).astype(dtype)
    return loss, arrays[place], direction


each_of_both = pytest.mark.parametrize("which", WHICH)
for_both_routings = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "dynamic" else SLOW_ON_JAX)
        for name in ROUTINGS
    ],
)


@for_both_routings
@each_of_both
def test_second_derivatives(which, name, blocks, monkeypatch):
    loss, array, direction = call_of_one(name, which)
    with monkeypatch.context() as patch:
        at_once(patch)
        exact = second_gradient(loss, array, direction)
    assert np.abs(exact).max() > 1e-2
    assert_close(second_gradient(loss, array, direction), exact, 1e-5)


@needs_float64
@for_both_routings
@each_of_both
def test_second_derivatives_equal_numeric_ones(which, name, blocks):
    loss, array, direction = call_of_one(name, which, "float64")
    step = 1e-5
    exact = (
        gradient(loss, array + step * direction)
        - gradient(loss, array - step * direction)
    ) / (2 * step)
    assert_close(second_gradient(loss, array, direction), exact, 1e-6)


# The others are the same graphs for other sizes, and take long to compile.
IN_GRAPHS = [
    pytest.param(
        name,
        which,
        known,
        xla,
        marks=[pytest.mark.slow]
        * ((name, which, known) != ("dynamic", "poses", True)),
        id=f"{name}-{which}-{'known' if known else 'unknown'}{'-xla' * xla}",
    )
    for name in ROUTINGS
    for which, known, xla in [
        ("poses", True, False),
        ("poses", False, False),
        ("kernel", True, False),
        ("poses", True, True),
        ("kernel", True, True),
    ]
]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's graphs")
@pytest.mark.parametrize(("name", "which", "known", "xla"), IN_GRAPHS)
def test_second_derivatives_in_a_graph(
    name, which, known, xla, blocks, monkeypatch
):
    import tensorflow as tf

    loss, array, direction = call_of_one(name, which)
    shape = [array.shape[0] if known else None, *array.shape[1:]]

    @functools.partial(
        tf.function,
        autograph=False,
        jit_compile=xla,
        input_signature=[tf.TensorSpec(shape)],
    )
    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = loss(x)
            slope = tf.reduce_sum(inner.gradient(value, x) * direction)
        return outer.gradient(slope, x)

    ours = np.asarray(second(tf.constant(array)))
    at_once(monkeypatch)
    assert_close(ours, second_gradient(loss, array, direction), 1e-5)


# Exported models.

# The others have the same loops.
QUICK_TO_EXPORT = {"dynamic", "self_routing"}


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="TensorFlow writes and reads SavedModels"
)
@pytest.mark.parametrize(
    ("name", "batch"),
    # If the batch is unknown, exported models have no blocks.
    [
        pytest.param(
            name,
            BATCH,
            marks=() if name in QUICK_TO_EXPORT else pytest.mark.slow,
        )
        for name in NAMES
    ]
    + [("dynamic", None)],
)
def test_a_saved_model_warns_of_nothing(name, batch, blocks, tmp_path, caplog):
    """TensorFlow warns of gradients that are custom and were not saved."""
    import tensorflow as tf

    inputs = keras.Input((INPUTS, DIM))
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing=name)
    model = keras.Model(inputs, layer(inputs))
    model.export(
        tmp_path / "model",
        verbose=False,
        input_signature=[
            keras.InputSpec(shape=(batch, INPUTS, DIM), dtype="float32")
        ],
    )
    images = tf.constant(random(BATCH, INPUTS, DIM))

    def slope(call):
        with tf.GradientTape() as tape:
            tape.watch(images)
            results = keras.tree.flatten(call(images))
            value = sum(tf.reduce_sum(tf.sin(x)) for x in results)
        return [*results, tape.gradient(value, images)]

    exact = slope(model)
    caplog.clear()

    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        served = tf.saved_model.load(tmp_path / "model")
        ours = slope(served.serve)

    assert "custom gradient" not in caplog.text
    assert not caplog.records
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
