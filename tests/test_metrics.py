"""The exact-match accuracy, against sets of classes."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_capsules
from keras_capsules.metrics import ExactMatchAccuracy
from tests.helpers.losses import tensor
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import invalid

# Right; a class is missing; there is one too many; both; nothing is there.
LABELS = np.array(
    [[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], "int32"
)
SCORES = np.array(
    [
        [0.6, 0.5, 0.9],
        [0.7, 0.4, 0.1],
        [0.8, 0.9, 0.2],
        [0.9, 0.1, 0.2],
        [0.1, 0.2, 0.3],
    ],
    "float32",
)
MATCHES = np.array([1, 0, 0, 0, 1])


def oracle(labels, scores, threshold=0.5, top_k=None):
    """Compares sets of classes, one example after the other."""
    matches = []
    for present, found in zip(labels, scores, strict=True):
        actual = {k for k, one in enumerate(present) if one > 0.5}
        if top_k is None:
            predicted = {k for k, one in enumerate(found) if one > threshold}
        else:
            ranked = sorted(range(len(found)), key=lambda k: (-found[k], k))
            predicted = set(ranked[:top_k])
        matches.append(float(actual == predicted))
    return np.array(matches)


def result(metric, *arguments):
    return float(ops.convert_to_numpy(metric(*arguments)))


def test_by_hand():
    np.testing.assert_array_equal(oracle(LABELS, SCORES), MATCHES)
    assert result(ExactMatchAccuracy(), LABELS, SCORES) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.2}, {"top_k": 1}, {"top_k": 2}, {"top_k": 7}],
    ids=str,
)
def test_equals_the_oracle(options):
    random = np.random.default_rng(3)
    # Few values, so that there are equal scores.
    scores = random.integers(0, 5, (997, 7)) / 4
    labels = random.integers(0, 2, (997, 7))
    # Some right ones, which are rare by chance.
    for k in range(0, 997, 3):
        predicted = np.argsort(-scores[k], kind="stable")[:2]
        labels[k] = np.isin(np.arange(7), predicted)
    expected = oracle(labels, scores, **options)
    assert 0 < expected.mean() < 1 or options.get("top_k") == 7
    metric = ExactMatchAccuracy(**options)
    assert result(metric, labels, scores) == pytest.approx(expected.mean())


def test_it_accumulates_and_resets():
    metric = ExactMatchAccuracy()
    metric.update_state(LABELS[:2], SCORES[:2])
    metric.update_state(LABELS[2:], SCORES[2:])
    assert float(metric.result()) == pytest.approx(2 / 5)
    metric.reset_state()
    assert float(metric.result()) == 0


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("kind", ["integer", "column", "one-hot", "soft"])
def test_labels_of_every_form(kind, as_tensor):
    labels = np.array([2, 0, 1, 2, 2])
    given = {
        "integer": labels,
        "column": labels[:, None],
        "one-hot": np.eye(3)[labels],
        "soft": 0.8 * np.eye(3)[labels] + 0.1,
    }[kind]
    given = tensor(given) if as_tensor else given
    expected = oracle(np.eye(3)[labels], SCORES, top_k=1).mean()
    assert 0 < expected < 1
    metric = ExactMatchAccuracy(top_k=1)
    assert result(metric, given, SCORES) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_scores_of_every_dtype(dtype):
    scores = ops.cast(SCORES, dtype)
    assert result(ExactMatchAccuracy(), LABELS, scores) == pytest.approx(0.4)
    assert ExactMatchAccuracy(dtype="float32").dtype == "float32"


def test_sample_weights():
    weights = np.array([3.0, 1.0, 0.0, 2.0, 5.0])
    expected = (MATCHES @ weights) / weights.sum()
    metric = ExactMatchAccuracy()
    assert result(metric, LABELS, SCORES, weights) == pytest.approx(expected)


def test_an_invalid_label_counts_as_wrong():
    nothing = np.zeros((3, 3), "float32")
    labels = tensor([0, 3, -1])
    assert result(ExactMatchAccuracy(), labels, nothing) == 0
    labels = tensor([[0, 0, 0], [0, 0, 2], [0, 0, np.nan]])
    assert result(ExactMatchAccuracy(), labels, nothing) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="labels out of range"):
        ExactMatchAccuracy()(np.array([0, 3, 1]), nothing)


def test_keras_accuracy_is_misleading_with_several_classes():
    """Of an untrained network, whose scores say nothing."""
    labels = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], "float32")
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, kernel_initializer="zeros")]
    )
    metrics = ["accuracy", ExactMatchAccuracy()]
    model.compile("sgd", "mse", metrics=metrics, **QUICK)
    logs = model.evaluate(np.ones((3, 2)), labels, verbose=0, return_dict=True)
    assert logs["accuracy"] == 1
    assert logs["exact_match_accuracy"] == 0


def test_in_fit_and_from_a_file(tmp_path):
    labels = np.random.default_rng(5).integers(0, 2, (60, 3))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.layers[0].set_weights([-np.eye(3), np.full(3, 0.6)])
    model.compile(
        keras.optimizers.Adam(0.1),
        "mse",
        metrics=[ExactMatchAccuracy(0.25, name="exact")],
        weighted_metrics=[ExactMatchAccuracy(top_k=2)],
    )
    x = labels.astype("float32")
    stop = keras.callbacks.EarlyStopping("exact", patience=99)
    weights = np.arange(60.0)
    history = model.fit(
        x, labels, 20, 30, verbose=0, sample_weight=weights, callbacks=[stop]
    ).history
    assert stop.monitor_op(2, 1) and not stop.monitor_op(1, 2)
    assert history["exact"][0] < 0.1
    assert history["exact"][-1] == 1
    logs = model.evaluate(
        x, labels, sample_weight=weights, verbose=0, return_dict=True
    )
    assert logs["exact"] == 1
    two = oracle(labels, model.predict(x, verbose=0), top_k=2)
    expected = np.average(two, weights=weights)
    assert logs["exact_match_accuracy"] == pytest.approx(expected, rel=1e-5)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.evaluate(
        x, labels, sample_weight=weights, verbose=0, return_dict=True
    )
    assert again == pytest.approx(logs)


@pytest.mark.skipif(BACKEND == "torch", reason="others compile functions")
def test_unknown_batch_in_a_graph():
    if BACKEND == "jax":
        import jax

        metric = ExactMatchAccuracy()
        state = metric.stateless_update_state
        variables = jax.jit(state)(
            metric.stateless_reset_state(), LABELS, SCORES
        )
        value = metric.stateless_result(variables)
    else:
        import tensorflow as tf

        metric = ExactMatchAccuracy()
        specs = [
            tf.TensorSpec((None, 3), each) for each in ("int32", "float32")
        ]
        update = tf.function(metric.update_state, input_signature=specs)
        update(LABELS, SCORES)
        value = metric.result()
    assert float(value) == pytest.approx(0.4)


def test_configuration():
    metric = ExactMatchAccuracy(0.25, 3, "exact", "float32")
    config = keras.metrics.serialize(metric)
    assert config["registered_name"] == "keras_capsules>ExactMatchAccuracy"
    loaded = keras.metrics.deserialize(json.loads(json.dumps(config)))
    assert type(loaded) is ExactMatchAccuracy
    assert loaded.get_config() == metric.get_config()
    assert (loaded.threshold, loaded.top_k, loaded.name) == (0.25, 3, "exact")
    assert keras_capsules.ExactMatchAccuracy is ExactMatchAccuracy


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("threshold", None, "a finite number"),
        ("threshold", "0.5", "a finite number"),
        ("threshold", np.nan, "a finite number"),
        ("top_k", 0, "a positive integer"),
        ("top_k", 2.0, "a positive integer"),
        ("top_k", True, "a positive integer"),
    ],
)
def test_bad_options(name, value, expected):
    with pytest.raises(ValueError, match=invalid(name, expected)):
        ExactMatchAccuracy(**{name: value})


def test_bad_calls():
    message = r"at least top_k=4 classes\. Received: y_pred\.shape=\(5, 3\)"
    with pytest.raises(ValueError, match=message):
        ExactMatchAccuracy(top_k=4)(LABELS, SCORES)
    with pytest.raises(ValueError, match="Expected `y_true` to hold integer"):
        ExactMatchAccuracy()(LABELS[:4], SCORES)
    with pytest.raises(ValueError, match=invalid("y_pred", "numbers")):
        ExactMatchAccuracy()([0], [["a", "b"]])
    with pytest.raises(ValueError, match="CapsuleLength"):
        ExactMatchAccuracy()(np.zeros(5), np.zeros((5, 3, 7)))
