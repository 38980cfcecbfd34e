"""The margin loss, against loops over all numbers."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.losses import MarginLoss
from keras_capsules.losses import margin_loss
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import numeric_gradient
from tests.helpers.losses import LABELS
from tests.helpers.losses import LENGTHS
from tests.helpers.losses import LOSSES
from tests.helpers.losses import in_float32 as numpy
from tests.helpers.losses import margin_loss_oracle as oracle
from tests.helpers.losses import random_labels
from tests.helpers.losses import random_lengths
from tests.helpers.losses import tensor

forms = pytest.mark.parametrize("form", ["sum", "half_mean"])


# The function.


def test_golden_paper():
    losses = numpy(margin_loss(LABELS, LENGTHS))
    np.testing.assert_allclose(losses, LOSSES, rtol=1e-6)
    assert losses.mean() == pytest.approx(1.07, rel=1e-6)


def test_golden_half_mean():
    losses = numpy(
        margin_loss(LABELS, LENGTHS, reduction_over_classes="half_mean")
    )
    np.testing.assert_allclose(losses, 0.5 * LOSSES / 3, rtol=1e-6)
    assert losses.mean() == pytest.approx(0.178333, abs=1e-6)


@forms
@pytest.mark.parametrize(
    "margins", [(0.9, 0.1, 0.5), (0.95, 0.05, 0.8), (1, 0, 0), (0.6, 0.4, 3)]
)
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 5, 7), (5, 1)], ids=str)
def test_equals_the_oracle(shape, margins, form):
    lengths = random_lengths(*shape)
    multi_hot = random_labels(*shape, num_classes=2)
    losses = evaluate(
        lambda t, v: margin_loss(t, v, *margins, reduction_over_classes=form),
        multi_hot,
        lengths,
    )
    expected = oracle(multi_hot, lengths, *margins, code=form == "half_mean")
    assert losses.dtype == "float64"
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_at_least_float32(dtype):
    losses = margin_loss(LABELS, ops.cast(LENGTHS, dtype))
    assert keras.backend.standardize_dtype(losses.dtype) == "float32"
    rounded = evaluate(
        lambda x: ops.cast(ops.cast(x, dtype), "float32"), LENGTHS
    )
    np.testing.assert_allclose(
        numpy(losses), oracle(LABELS, rounded), rtol=1e-6
    )


def test_empty_batch():
    assert margin_loss(np.zeros((0,)), np.zeros((0, 3))).shape == (0,)


@forms
def test_gradient_is_the_numeric_one(form):
    lengths = random_lengths(5, 7)
    multi_hot = np.random.default_rng(11).uniform(0.1, 0.9, (5, 7))

    def scalar(y_true, y_pred):
        return ops.sum(margin_loss(y_true, y_pred, reduction_over_classes=form))

    actual = gradient(scalar, multi_hot, lengths)
    expected = numeric_gradient(scalar, multi_hot, lengths)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


def test_gradient_vanishes_at_and_beyond_the_margins():
    lengths = np.array([[0.9, 0.1], [1.0, 0.0], [2.0, -1.0]], "float32")
    labels = np.zeros(3)
    slopes = gradient(lambda v: ops.sum(margin_loss(labels, v)), lengths)
    np.testing.assert_array_equal(slopes, np.zeros((3, 2)))


@pytest.mark.parametrize("loss", [margin_loss, MarginLoss(reduction=None)])
def test_symbolic_input(loss):
    y_pred = keras.Input((5, 7))
    for y_true in [(5,), (5, 1), (5, 7)]:
        losses = loss(keras.Input(y_true, dtype="int32"), y_pred)
        assert losses.shape == (None, 5)
        assert losses.dtype == "float32"


# Arguments.


def make_class(**kwargs):
    return MarginLoss(**kwargs)


def make_function(**kwargs):
    return margin_loss(LABELS, LENGTHS, **kwargs)


@pytest.mark.parametrize("make", [make_class, make_function])
@pytest.mark.parametrize("name", ["positive_margin", "negative_margin"])
@pytest.mark.parametrize(
    "value", [-0.1, 1.1, None, "0.5", np.nan, True], ids=str
)
def test_invalid_margin_raises(make, name, value):
    message = (
        rf"Invalid value for argument `{name}`\. Expected a finite number of "
        rf"at least 0 and at most 1\. Received: {name}="
    )
    with pytest.raises(ValueError, match=message):
        make(**{name: value})


@pytest.mark.parametrize("make", [make_class, make_function])
@pytest.mark.parametrize("margins", [(0.1, 0.9), (0.5, 0.5)])
def test_margins_in_the_wrong_order_raise(make, margins):
    message = (
        r"Invalid value for argument `negative_margin`\. Expected a number "
        rf"less than positive_margin={margins[0]}\. "
        rf"Received: negative_margin={margins[1]}"
    )
    with pytest.raises(ValueError, match=message):
        make(positive_margin=margins[0], negative_margin=margins[1])


@pytest.mark.parametrize("make", [make_class, make_function])
@pytest.mark.parametrize("value", [-0.5, None, "0.5", np.inf, True], ids=str)
def test_invalid_absent_weight_raises(make, value):
    message = (
        r"Invalid value for argument `absent_weight`\. Expected a finite "
        r"number of at least 0\. Received: absent_weight="
    )
    with pytest.raises(ValueError, match=message):
        make(absent_weight=value)


@pytest.mark.parametrize("make", [make_class, make_function])
@pytest.mark.parametrize("value", ["mean", "", None, 1], ids=str)
def test_invalid_reduction_over_classes_raises(make, value):
    message = (
        r"Invalid value for argument `reduction_over_classes`\. Expected one "
        r"of 'sum', 'half_mean'\. Received: reduction_over_classes="
    )
    with pytest.raises(ValueError, match=message):
        make(reduction_over_classes=value)


def test_invalid_reduction_raises():
    with pytest.raises(ValueError, match="Invalid value for argument `reduct"):
        MarginLoss(reduction="median")


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_numpy_numbers_are_arguments_too(number):
    loss = MarginLoss(number(0.75), number(0.25), number(0.5))
    expected = oracle(LABELS, LENGTHS, 0.75, 0.25, 0.5).mean()
    assert numpy(loss(LABELS, LENGTHS)) == pytest.approx(expected, rel=1e-6)
    json.dumps(loss.get_config())


# The class.


def test_config():
    loss = MarginLoss()
    assert loss.name == "margin_loss"
    assert loss.get_config() == {
        "name": "margin_loss",
        "reduction": "sum_over_batch_size",
        "positive_margin": 0.9,
        "negative_margin": 0.1,
        "absent_weight": 0.5,
        "reduction_over_classes": "sum",
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {
            "positive_margin": 0.8,
            "negative_margin": 0.2,
            "absent_weight": 0.3,
            "reduction_over_classes": "half_mean",
            "reduction": "sum",
            "name": "classes",
            "dtype": "bfloat16",
        },
        {"dtype": keras.DTypePolicy("mixed_float16"), "reduction": None},
    ],
    ids=["default", "other", "policy"],
)
def test_round_trip(kwargs):
    loss = MarginLoss(**kwargs)
    config = keras.losses.serialize(loss)
    assert config["registered_name"] == "keras_capsules>MarginLoss"
    loaded = keras.losses.deserialize(json.loads(json.dumps(config)))
    assert isinstance(loaded, MarginLoss)
    assert loaded.get_config() == loss.get_config()
    np.testing.assert_array_equal(
        numpy(loaded(LABELS, LENGTHS)), numpy(loss(LABELS, LENGTHS))
    )


def test_function_is_registered():
    name = "keras_capsules>margin_loss"
    assert keras.saving.get_registered_name(margin_loss) == name
    assert keras.saving.get_registered_object(name) is margin_loss


def test_unweighted():
    assert numpy(MarginLoss()(LABELS, LENGTHS)) == pytest.approx(1.07)
    loss = MarginLoss(reduction_over_classes="half_mean")(LABELS, LENGTHS)
    assert numpy(loss) == pytest.approx(0.178333, abs=1e-6)
    loss = MarginLoss(0.8, 0.2, 0.3)(LABELS, LENGTHS)
    expected = oracle(LABELS, LENGTHS, 0.8, 0.2, 0.3).mean()
    assert numpy(loss) == pytest.approx(expected)


@forms
def test_all_correct(form):
    lengths = np.array([[0.9, 0.1, 0.0], [0.05, 0.95, 1.0]], "float32")
    loss = MarginLoss(reduction_over_classes=form, reduction="sum")
    assert numpy(loss(np.array([[1, 0, 0], [0, 1, 1]]), lengths)) == 0


def test_scalar_weighted():
    loss = MarginLoss()(LABELS, LENGTHS, sample_weight=2.3)
    assert numpy(loss) == pytest.approx(2.3 * 1.07)


@pytest.mark.parametrize("labels", [np.array([2, 1]), np.array([[2], [1]])])
def test_sample_weighted(labels):
    weights = np.array([1.2, 3.4])
    expected = oracle(np.eye(3)[[2, 1]], LENGTHS) @ weights / 2
    loss = MarginLoss()(labels, LENGTHS, sample_weight=weights)
    assert numpy(loss) == pytest.approx(expected, rel=1e-6)


def test_position_weighted():
    lengths, labels = (
        random_lengths(2, 3, 7),
        random_labels(2, 3, num_classes=7),
    )
    weights = np.array([[1.0, 0.0, 2.0], [0.5, 3.0, 0.0]])
    expected = oracle(np.eye(7)[labels], lengths) * weights
    loss = MarginLoss()(labels, lengths, sample_weight=weights)
    assert numpy(loss) == pytest.approx(expected.mean(), rel=1e-5)


def test_zero_weighted():
    loss = MarginLoss()(LABELS, LENGTHS, sample_weight=0.0)
    assert numpy(loss) == 0


@pytest.mark.parametrize(
    "reduction, expected",
    [
        ("sum_over_batch_size", (1.2 * 0.02 + 3.4 * 2.12) / 2),
        ("mean", (1.2 * 0.02 + 3.4 * 2.12) / 2),
        ("sum", 1.2 * 0.02 + 3.4 * 2.12),
        ("mean_with_sample_weight", (1.2 * 0.02 + 3.4 * 2.12) / 4.6),
        ("none", [1.2 * 0.02, 3.4 * 2.12]),
        (None, [1.2 * 0.02, 3.4 * 2.12]),
    ],
    ids=str,
)
def test_reduction(reduction, expected):
    loss = MarginLoss(reduction=reduction)
    weights = np.array([1.2, 3.4])
    losses = numpy(loss(LABELS, LENGTHS, sample_weight=weights))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype(dtype):
    loss = MarginLoss(dtype=dtype)(LABELS, LENGTHS)
    assert keras.backend.standardize_dtype(loss.dtype) == dtype
    assert numpy(loss) == pytest.approx(1.07, rel=1e-2)


def test_dtype_defaults_to_floatx():
    keras.config.set_floatx("float16")
    try:
        assert MarginLoss().dtype == "float16"
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_large_labels_survive_a_small_dtype(dtype, as_tensor):
    # 4097 is 4096 in both 16-bit dtypes.
    lengths = np.zeros((2, 5000), "float32")
    lengths[:, 4097] = 1
    labels = tensor([4097, 4096]) if as_tensor else np.array([4097, 4096])
    losses = MarginLoss(reduction=None, dtype=dtype)(labels, lengths)
    expected = [0, 0.9**2 + 0.5 * 0.9**2]
    np.testing.assert_allclose(numpy(losses), expected, rtol=1e-2)


def test_keras_mask_is_respected():
    lengths = tensor(random_lengths(2, 3, 7))
    labels = random_labels(2, 3, num_classes=7)
    mask = np.array([[True, False, True], [False, True, False]])
    losses = oracle(np.eye(7)[labels], numpy(lengths))
    try:
        lengths._keras_mask = ops.convert_to_tensor(mask)
    except AttributeError:
        pytest.skip("This backend's tensors cannot carry a mask.")
    assert numpy(MarginLoss()(labels, lengths)) == pytest.approx(
        losses[mask].mean(), rel=1e-5
    )


# In Keras.


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("labels", "uint8"),
        ("labels", "float32"),
        ("trailing axis", "int64"),
        ("one-hot", "float32"),
    ],
)
def test_model_fit(kind, dtype):
    labels = random_labels(60, num_classes=3)
    x = (np.eye(3)[labels] + 0.1 * random_lengths(60, 3)).astype("float32")
    y = {
        "labels": labels,
        "trailing axis": labels[:, None],
        "one-hot": np.eye(3)[labels],
    }[kind].astype(dtype)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    # All wrong at first: the longest capsule is the next class's.
    model.layers[0].set_weights([np.roll(np.eye(3), 1, axis=1), np.zeros(3)])
    model.compile("adam", MarginLoss(), metrics=["accuracy"])
    loss, accuracy = model.evaluate(x, y, verbose=0)
    expected = oracle(np.eye(3)[labels], model.predict(x, verbose=0)).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == 0
    model.optimizer.learning_rate = 0.1
    model.fit(x, y, batch_size=20, epochs=10, verbose=0)
    trained, accuracy = model.evaluate(x, y, verbose=0)
    assert trained < 0.1 * loss
    assert accuracy == 1


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_compiled_model_round_trip(run_eagerly, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(
        "sgd",
        MarginLoss(0.8, reduction_over_classes="half_mean", dtype="float32"),
        run_eagerly=run_eagerly,
    )
    labels = random_labels(5, num_classes=3)
    loss = model.evaluate(random_lengths(5, 3), labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    again = loaded.evaluate(random_lengths(5, 3), labels, verbose=0)
    assert again == pytest.approx(loss)


@pytest.mark.parametrize("labels", [np.array([2, 0]), np.eye(3)[[2, 0]]])
def test_function_as_a_loss(labels):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    model.compile("sgd", margin_loss)
    expected = oracle(np.eye(3)[[2, 0]], LENGTHS).mean()
    loss = model.evaluate(LENGTHS, labels, verbose=0)
    assert loss == pytest.approx(expected)


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="the other backends compile functions",
)
def test_lists_of_tensors_without_values():
    """As a loss in a compiled function may make them."""
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(lambda y: margin_loss(np.array([0]), [[y, y]]))
    else:
        import tensorflow as tf

        compiled = tf.function(lambda y: margin_loss(np.array([0]), [[y, y]]))
    expected = margin_loss(np.array([0]), np.array([[0.5, 0.5]], "float32"))
    value = compiled(keras.ops.convert_to_tensor(0.5))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
