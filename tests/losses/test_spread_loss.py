import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.losses import SpreadLoss
from keras_capsules.losses import spread_loss
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.gradients import numeric_gradient
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

LABELS = np.array([1, 0])
ACTIVATIONS = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.4]], "float32")


def oracle(multi_hot, activations, margin=0.9):
    """Loops over every number, and branches instead of a maximum."""
    losses = np.zeros(activations.shape[:-1])
    for index in np.ndindex(losses.shape):
        y, a = multi_hot[index], activations[index]
        target = np.average(a, weights=y)
        for present, activation in zip(y, a, strict=True):
            if target - activation < margin:
                shortfall = margin - (target - activation)
                losses[index] += (1 - present) * shortfall**2
    return losses


def random_activations(*shape):
    return np.random.default_rng(3).uniform(0, 1, shape)


def tensor(array):
    """A backend tensor, whose values are not looked at before the loss is."""
    return ops.convert_to_tensor(np.asarray(array, "float32"))


@pytest.mark.parametrize(
    "margin, expected", [(0.9, 0.69), (0.214209, 0.006623)]
)
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], np.eye(3)[LABELS]])
def test_golden(labels, margin, expected):
    losses = numpy(spread_loss(labels, ACTIVATIONS, margin))
    assert losses.mean() == pytest.approx(expected, abs=1e-6)
    loss = numpy(SpreadLoss(margin)(labels, ACTIVATIONS))
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("margin", [0, 0.2, 0.9, 1])
@pytest.mark.parametrize("kind", ["one-hot", "multi-hot", "soft"])
def test_equals_the_oracle(kind, margin):
    random = np.random.default_rng(5)
    multi_hot = {
        "one-hot": np.eye(7)[random.integers(0, 7, (2, 5))],
        "multi-hot": np.maximum(
            random.integers(0, 2, (2, 5, 7)), np.eye(7)[[[3]]]
        ),
        "soft": random.uniform(0.1, 1, (2, 5, 7)),
    }[kind]
    activations = random_activations(2, 5, 7)
    losses = evaluate(
        lambda y, a: spread_loss(y, a, margin), multi_hot, activations
    )
    assert losses.dtype == "float64"
    expected = oracle(multi_hot, activations, margin)
    np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-15)


def test_only_differences_count():
    expected = numpy(spread_loss(LABELS, ACTIVATIONS))
    losses = numpy(spread_loss(LABELS, ACTIVATIONS + 0.25))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    far = np.array([[0.05, 0.96, 0.0]])
    assert numpy(spread_loss([1], far)) == 0


@needs_float64
def test_gradient():
    activations = random_activations(5, 7)
    multi_hot = np.random.default_rng(11).uniform(0.1, 0.9, (5, 7))

    def scalar(y_true, y_pred):
        return ops.sum(spread_loss(y_true, y_pred, 0.6))

    actual = gradient(scalar, multi_hot, activations)
    expected = numeric_gradient(scalar, multi_hot, activations)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", [spread_loss, SpreadLoss(reduction=None)])
def test_symbolic_input(loss):
    for y_true in [(5,), (5, 1), (5, 7)]:
        labels = keras.Input(y_true, dtype="int32")
        losses = loss(labels, keras.Input((5, 7)))
        assert losses.shape == (None, 5)
        assert losses.dtype == "float32"


def test_single_class():
    # There is nothing to be spread from.
    assert numpy(spread_loss([[1], [1]], [[0.5], [0.1]])).tolist() == [0, 0]


# Invalid labels.


@pytest.mark.parametrize("loss", [spread_loss, SpreadLoss()])
def test_labels_that_name_no_class_raise(loss):
    with pytest.raises(ValueError, match="labels out of range. Expected int"):
        loss(np.array([0, 3]), ACTIVATIONS)
    with pytest.raises(ValueError, match="multi-hot labels out of range"):
        loss([[0, 2, 0], [1, 0, 0]], ACTIVATIONS)
    message = (
        r"`y_true` has multi-hot labels without a class\. Expected at least "
        r"one class in every example\. Received: all 0 in 1 of 2 examples"
    )
    with pytest.raises(ValueError, match=message):
        loss([[0, 0, 0], [1, 0, 0]], ACTIVATIONS)


def test_labels_without_a_class_but_for_rounding():
    with pytest.raises(ValueError, match="without a class.*1 of 2 examples"):
        spread_loss([[-0.005, 0, 0], [1, 0, 0]], ACTIVATIONS)


def test_an_absent_single_class_raises():
    with pytest.raises(ValueError, match="Expected two classes or more"):
        SpreadLoss()([0, 1], [[0.5], [0.5]])


@pytest.mark.parametrize("labels", [[0, 3], [[1, 0, 0], [0, 0, 0]]], ids=str)
def test_a_tensor_that_names_no_class_gives_nan(labels):
    losses = numpy(spread_loss(tensor(labels), ACTIVATIONS))
    assert np.isnan(losses[1])
    expected = oracle(np.eye(3)[[0]], ACTIVATIONS[:1])[0]
    assert losses[0] == pytest.approx(expected)
    assert np.isnan(numpy(SpreadLoss()(tensor(labels), ACTIVATIONS)))


@pytest.mark.parametrize("loss", [spread_loss, SpreadLoss()])
def test_shape_mismatch_raises(loss):
    with pytest.raises(ValueError, match="Expected `y_true` to hold integer"):
        loss(np.zeros(5), np.zeros((4, 7)))


# Arguments.


@pytest.mark.parametrize(
    "value", [-0.1, 1.1, None, "0.5", np.nan, True], ids=str
)
def test_invalid_margin_raises(value):
    message = (
        r"Invalid value for argument `margin`\. Expected a finite number of at "
        r"least 0 and at most 1\. Received: margin="
    )
    with pytest.raises(ValueError, match=message):
        SpreadLoss(value)
    with pytest.raises(ValueError, match=message):
        spread_loss(LABELS, ACTIVATIONS, value)
    loss = SpreadLoss()
    with pytest.raises(ValueError, match=message):
        loss.margin = value
    assert loss.margin == 0.9


# The class.


def test_config():
    loss = SpreadLoss()
    loss.margin = 0.25
    assert loss.get_config() == {
        "name": "spread_loss",
        "reduction": "sum_over_batch_size",
        "margin": 0.25,
        "dtype": "float32",
    }
    loss = SpreadLoss(0.5, "sum", "classes", "bfloat16")
    config = keras.losses.serialize(loss)
    assert config["registered_name"] == "keras_capsules>SpreadLoss"
    loaded = keras.losses.deserialize(json.loads(json.dumps(config)))
    assert isinstance(loaded, SpreadLoss)
    assert loaded.get_config() == loss.get_config()


def test_function_is_registered():
    name = "keras_capsules>spread_loss"
    assert keras.saving.get_registered_name(spread_loss) == name
    assert keras.saving.get_registered_object(name) is spread_loss


def test_sample_weights_and_reduction():
    weights = np.array([1.2, 3.4])
    each = oracle(np.eye(3)[LABELS], ACTIVATIONS) * weights
    for reduction, expected in [(None, each), ("sum", each.sum())]:
        loss = SpreadLoss(reduction=reduction)
        losses = numpy(loss(LABELS, ACTIVATIONS, sample_weight=weights))
        np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_labels_survive_a_small_dtype(dtype):
    # 4097 is 4096 in both 16-bit dtypes.
    activations = np.zeros((2, 5000), "float32")
    activations[:, 4097] = 1
    loss = SpreadLoss(0.5, reduction=None, dtype=dtype)
    losses = numpy(loss(np.array([4097, 4096]), activations))
    np.testing.assert_allclose(losses, [0, 1.5**2 + 4998 * 0.25], rtol=1e-2)


def test_fit():
    # All wrong at first: the most active capsule is the next class's.
    labels = np.random.default_rng(7).integers(0, 3, 60)
    x = np.eye(3)[labels] + 0.1 * random_activations(60, 3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.layers[0].set_weights([np.roll(np.eye(3), 1, axis=1), np.zeros(3)])
    model.compile(keras.optimizers.Adam(0.1), SpreadLoss())
    loss = model.evaluate(x, labels, verbose=0)
    expected = oracle(np.eye(3)[labels], model.predict(x, verbose=0)).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    model.fit(x, labels, batch_size=20, epochs=10, verbose=0)
    assert model.evaluate(x, labels, verbose=0) < 0.1 * loss
    assert (model.predict(x, verbose=0).argmax(axis=1) == labels).all()
