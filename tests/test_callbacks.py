import functools
import math

import keras
import numpy as np
import pytest

from keras_capsules.callbacks import SpreadMarginSchedule
from keras_capsules.callbacks import spread_margin
from keras_capsules.losses import SpreadLoss
from keras_capsules.losses import spread_loss
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy

# The margin of a step, in tests: 0.1, 0.2, ...


def tenths(step):
    return 0.1 * (step + 1)


# The schedule.


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 0.214209),
        (50_000, 0.2375),
        (100_000, 0.2942),
        (200_000, 0.595),
        (400_000, 0.976),
        (700_000, 0.99),
        (10**9, 0.99),
    ],
)
def test_golden_margins(step, expected):
    digits = 6 if step == 0 else 3
    assert spread_margin(step) == pytest.approx(expected, abs=0.6 * 10**-digits)


def test_constants_of_the_schedule():
    exact = 0.1 + 0.5 / (1 + math.exp(-(7 / 3 - 2)))
    assert spread_margin(7, 0.1, 0.5, 3, 2) == pytest.approx(exact, rel=1e-12)
    # Capped at sigmoid(10).
    exact = 0.1 + 0.5 / (1 + math.exp(-10))
    assert spread_margin(700, 0.1, 0.5, 3, 2) == pytest.approx(exact, rel=1e-12)
    # So late that an exponential would overflow.
    assert spread_margin(0, 0.1, 0.5, 3, 1e4) == 0.1


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("step", -1, "an integer of at least 0"),
        ("step", 1.0, "an integer of at least 0"),
        ("start", 1.1, "a finite number of at least 0 and at most 1"),
        ("growth", -0.1, "a finite number of at least 0"),
        ("growth", 0.81, "start \\+ growth of at most 1"),
        ("duration", 0, "a finite number greater than 0"),
        ("delay", None, "a finite number"),
    ],
)
def test_bad_constant(name, value, expected):
    message = rf"Invalid value for argument `{name}`\. Expected {expected}"
    with pytest.raises(ValueError, match=message):
        spread_margin(**{"step": 0, name: value})


# The callback.


class Recorder(keras.callbacks.Callback):
    """The loss of each batch; Keras reports the mean of those so far."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_begin(self, epoch, logs=None):
        self.means = [0.0]

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(float(logs["loss"]))
        total = len(self.means) - 1
        self.losses.append(
            total * self.means[-1] - (total - 1) * self.means[-2]
        )


def make_model(loss=None, learning_rate=0.0, **kwargs):
    """Two classes that are always equally active: the loss is margin^2."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, kernel_initializer="zeros"),
        ]
    )
    kwargs.setdefault("loss", loss or SpreadLoss())
    model.compile(keras.optimizers.SGD(learning_rate), **kwargs)
    return model


def margins_in_fit(model, callback, batches, **kwargs):
    recorder = Recorder()
    history = model.fit(
        np.ones((4 * batches, 3)),
        np.arange(4 * batches) % 2,
        batch_size=4,
        shuffle=False,
        callbacks=[callback, recorder],
        verbose=0,
        **kwargs,
    )
    return np.sqrt(recorder.losses), history.history


def test_the_compiled_loss_has_the_margin_of_each_step(tmp_path):
    model = make_model()
    callback = SpreadMarginSchedule(tenths)
    validation = np.ones((4, 3)), np.zeros(4)
    margins, history = margins_in_fit(
        model, callback, 3, epochs=2, validation_data=validation
    )
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    np.testing.assert_allclose(margins, expected, rtol=1e-5)
    assert history["spread_margin"] == pytest.approx([0.3, 0.6])
    np.testing.assert_allclose(np.sqrt(history["val_loss"]), [0.3, 0.6])
    assert model.loss.margin == pytest.approx(0.6)

    # It continues there, also in a model that was saved with its optimizer.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.margin == pytest.approx(0.6)
    margins, _ = margins_in_fit(loaded, SpreadMarginSchedule(tenths), 2)
    np.testing.assert_allclose(margins, [0.7, 0.8], rtol=1e-5)


def test_training_goes_on_between_new_functions():
    # One class becomes the more active, step by step, as without compiling.
    weights = []
    for run_eagerly in (False, True):
        model = make_model(learning_rate=0.1, run_eagerly=run_eagerly)
        model.fit(
            np.ones((8, 3)),
            np.zeros(8),
            batch_size=2,
            callbacks=[SpreadMarginSchedule(tenths)],
            verbose=0,
        )
        assert int(model.optimizer.iterations) == 4
        weights.append(numpy(model.layers[0].kernel))
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5)
    assert weights[0].any()


def test_functions_are_made_anew_only_if_the_margin_changes(monkeypatch):
    model = make_model(run_eagerly=True)
    made = []
    original = model.make_train_function

    def make_train_function(force=False):
        made.append(force)
        original(force=force)

    monkeypatch.setattr(model, "make_train_function", make_train_function)
    margins, _ = margins_in_fit(
        model, SpreadMarginSchedule(lambda step: 0.04 * (step + 1), 0.1), 6
    )
    # Of 0.04, ..., 0.24.
    rounded = [0, 0.1, 0.1, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(margins, rounded, atol=1e-6)
    assert made.count(True) == 3


def test_exact_margins():
    model = make_model(run_eagerly=True)
    schedule = functools.partial(spread_margin, duration=1, delay=1)
    margins, _ = margins_in_fit(
        model, SpreadMarginSchedule(schedule, resolution=0), 3
    )
    exact = [schedule(step) for step in range(3)]
    np.testing.assert_allclose(margins, exact, rtol=1e-5)
    assert model.loss.margin == exact[-1]


def test_a_rounded_margin_is_at_most_one():
    model = make_model(run_eagerly=True)
    margins_in_fit(model, SpreadMarginSchedule(lambda _: 1.0, 0.06), 1)
    assert model.loss.margin == 1.0


def test_logs_have_no_more_digits_than_the_resolution():
    assert round(0.414 / 0.01) * 0.01 != 0.41
    model = make_model(run_eagerly=True)
    callback = SpreadMarginSchedule(lambda _: 0.414)
    _, history = margins_in_fit(model, callback, 1)
    assert history["spread_margin"] == [0.41]


def test_gathered_gradients_make_one_step():
    model = make_model(run_eagerly=True)
    model.optimizer.gradient_accumulation_steps = 2
    callback = SpreadMarginSchedule(tenths)
    margins, _ = margins_in_fit(model, callback, 4, epochs=2)
    expected = [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    np.testing.assert_allclose(margins, expected, rtol=1e-5)


def test_scaled_losses():
    model = make_model(run_eagerly=True)
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)),
        SpreadLoss(),
        run_eagerly=True,
    )
    margins, _ = margins_in_fit(
        model, SpreadMarginSchedule(tenths), 2, epochs=2
    )
    np.testing.assert_allclose(margins, [0.1, 0.2, 0.3, 0.4], rtol=1e-5)


def test_all_spread_losses_of_a_model():
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(2, name=name)(inputs) for name in "abc"}
    model = keras.Model(inputs, outputs)
    losses = {"a": SpreadLoss(), "b": "mse", "c": SpreadLoss(0.3)}
    model.compile("sgd", losses, run_eagerly=True)
    labels = {"a": np.zeros(4), "b": np.zeros((4, 2)), "c": np.zeros(4)}
    model.fit(
        np.ones((4, 3)),
        labels,
        callbacks=[SpreadMarginSchedule(tenths)],
        verbose=0,
    )
    assert losses["a"].margin == losses["c"].margin == pytest.approx(0.1)


def test_a_given_loss():
    other = SpreadLoss()
    model = make_model(run_eagerly=True)
    margins, _ = margins_in_fit(
        model, SpreadMarginSchedule(tenths, loss=other), 1
    )
    assert other.margin == pytest.approx(0.1)
    assert margins == pytest.approx([0.9])


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", spread_loss]
)
def test_no_margin_to_set(loss):
    model = make_model(loss)
    message = "There is no margin to set. Expected .* Received: loss="
    with pytest.raises(ValueError, match=message):
        margins_in_fit(model, SpreadMarginSchedule(), 1)


@pytest.mark.parametrize("margin", [-0.1, 1.2, None, math.nan], ids=str)
def test_bad_margin(margin):
    callback = SpreadMarginSchedule(lambda step: margin)
    message = r"`schedule\(step\)`\. Expected a finite number of at least 0 and"
    with pytest.raises(ValueError, match=message):
        margins_in_fit(make_model(run_eagerly=True), callback, 1)


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("schedule", 0.5, "a function of the number of training steps"),
        ("resolution", -0.1, "a finite number of at least 0"),
        ("resolution", None, "a finite number of at least 0"),
        ("resolution", 0.11, "a finite number of at least 0 and at most 0.1"),
        ("resolution", 2.0, "a finite number of at least 0 and at most 0.1"),
        ("loss", "spread_loss", "a SpreadLoss or None"),
        ("loss", spread_loss, "a SpreadLoss or None"),
    ],
)
def test_bad_argument(name, value, expected):
    with pytest.raises(ValueError, match=invalid(name, expected)):
        SpreadMarginSchedule(**{name: value})
