"""Labels that losses take, and those that they refuse."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss
from keras_capsules.losses import margin_loss
from keras_capsules.losses import spread_loss
from keras_capsules.metrics import ExactMatchAccuracy
from tests.helpers.losses import LABELS
from tests.helpers.losses import LENGTHS
from tests.helpers.losses import LOSSES
from tests.helpers.losses import in_float32 as numpy
from tests.helpers.losses import margin_loss_oracle as oracle
from tests.helpers.losses import random_labels
from tests.helpers.losses import random_lengths
from tests.helpers.losses import tensor
from tests.helpers.testing import invalid


@pytest.mark.parametrize("trailing_axis", [False, True])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)], ids=str)
def test_integer_labels(batch, trailing_axis):
    lengths = random_lengths(*batch, 7)
    labels = random_labels(*batch, num_classes=7)
    multi_hot = np.eye(7)[labels]
    labels = labels[..., None] if trailing_axis else labels
    losses = numpy(margin_loss(labels, lengths))
    np.testing.assert_allclose(losses, oracle(multi_hot, lengths), rtol=1e-5)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int32", "int64", "float16", "float32"],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_label_dtypes(dtype, as_tensor):
    lengths = random_lengths(2, 300)
    labels = np.array([0, 1]).astype(dtype)
    multi_hot = np.eye(300)[[0, 1]].astype(dtype)
    expected = oracle(np.eye(300)[[0, 1]], lengths)
    for y_true in (labels, multi_hot):
        if as_tensor:
            y_true = ops.convert_to_tensor(y_true)
        losses = numpy(margin_loss(y_true, lengths))
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_accepts_lists():
    losses = numpy(margin_loss([2, 0], LENGTHS.tolist()))
    expected = oracle(np.eye(3)[[2, 0]], LENGTHS)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    losses = numpy(margin_loss(LABELS.tolist(), LENGTHS.tolist()))
    np.testing.assert_allclose(losses, LOSSES, rtol=1e-6)
    assert numpy(margin_loss(2, [0.3, 0.1, 0.2])) == pytest.approx(0.51)


def test_soft_labels():
    multi_hot = np.random.default_rng(11).uniform(0, 1, (5, 7))
    lengths = random_lengths(5, 7)
    losses = numpy(margin_loss(multi_hot, lengths))
    np.testing.assert_allclose(losses, oracle(multi_hot, lengths), rtol=1e-5)


def test_multi_hot_labels_may_be_rounded():
    multi_hot = np.array([[1.0078125, -1e-6]], "float32")
    assert np.isfinite(numpy(margin_loss(multi_hot, [[0.5, 0.5]])))
    assert np.isfinite(numpy(margin_loss(tensor(multi_hot), [[0.5, 0.5]])))


def test_single_class():
    # Labels say whether it is present, with or without an axis for the class.
    lengths = np.array([[0.5], [0.5]], "float32")
    losses = numpy(margin_loss(np.array([[0], [1]]), lengths))
    np.testing.assert_allclose(losses, [0.08, 0.16], rtol=1e-6)
    losses = numpy(margin_loss(np.array([0, 1]), lengths))
    np.testing.assert_allclose(losses, [0.08, 0.16], rtol=1e-6)


# Invalid labels.


@pytest.mark.parametrize("loss", [margin_loss, MarginLoss()])
@pytest.mark.parametrize("label", [-1, 3, 1.5, np.nan, np.inf, 2**32], ids=str)
def test_label_out_of_range_raises(loss, label):
    message = (
        r"`y_true` has labels out of range\. Expected integers from 0 to 2\. "
        r"Received: y_true=\["
    )
    with pytest.raises(ValueError, match=message):
        loss(np.array([0, label]), LENGTHS)
    with pytest.raises(ValueError, match=message):
        loss([[0], [label]], LENGTHS)


@pytest.mark.parametrize("loss", [margin_loss, MarginLoss()])
@pytest.mark.parametrize("label", [-1.0, 2.0, 255.0, np.nan], ids=str)
def test_multi_hot_label_out_of_range_raises(loss, label):
    message = (
        r"`y_true` has multi-hot labels out of range\. Expected numbers from "
        r"0 to 1\. Received: y_true=\["
    )
    with pytest.raises(ValueError, match=message):
        loss(np.array([[0, 1, 0], [0, 0, label]]), LENGTHS)


NO_NUMBERS = {
    "strings": [["0", "1"], ["2", "0"]],
    "string-array": np.array(["0", "1"]),
    "objects": np.array([0, 1], object),
    "ragged": [[0], [1, 2]],
    "none": [0, None],
}
no_numbers = pytest.mark.parametrize(
    "value", NO_NUMBERS.values(), ids=NO_NUMBERS.keys()
)
all_losses = pytest.mark.parametrize(
    "loss", [margin_loss, MarginLoss(), spread_loss, SpreadLoss()]
)


@all_losses
@no_numbers
def test_labels_that_are_no_numbers_raise(loss, value):
    message = invalid("y_true", "integers from 0 to 2, or multi-hot labels")
    with pytest.raises(ValueError, match=message):
        loss(value, LENGTHS)


@all_losses
@no_numbers
def test_predictions_that_are_no_numbers_raise(loss, value):
    with pytest.raises(ValueError, match=invalid("y_pred", "numbers")):
        loss([0, 1], value)


def test_an_example_without_a_class_is_shown():
    message = r"all 0 in 1 of 2 examples, such as y_true\[1\]=\[0, 0, 0\]"
    with pytest.raises(ValueError, match=message):
        spread_loss([[0, 1, 0], [0, 0, 0]], LENGTHS)


@pytest.mark.parametrize("label", [-1, 3, 1.5, np.nan, 2**24 + 1], ids=str)
def test_label_out_of_range_in_a_tensor_gives_nan(label):
    # Only the example itself, so that the culprit can be found.
    losses = numpy(margin_loss(tensor([label, 2]), LENGTHS))
    assert np.isnan(losses[0])
    assert losses[1] == pytest.approx(oracle(np.eye(3)[[2]], LENGTHS[1:])[0])
    assert np.isnan(numpy(MarginLoss()(tensor([label, 2]), LENGTHS)))
    weights = np.array([0.0, 1.0])
    assert np.isnan(numpy(MarginLoss()(tensor([label, 2]), LENGTHS, weights)))


@pytest.mark.parametrize("label", [-1.0, 2.0, 255.0, np.nan], ids=str)
def test_multi_hot_label_out_of_range_in_a_tensor_gives_nan(label):
    y_true = tensor([[0, 0, label], [1, 1, 1]])
    losses = numpy(margin_loss(y_true, LENGTHS))
    assert np.isnan(losses[0])
    assert losses[1] == pytest.approx(2.12)


def test_label_out_of_range_makes_the_loss_of_fit_nan():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile("sgd", MarginLoss())
    history = model.fit(LENGTHS, np.array([0, 3]), verbose=0)
    assert np.isnan(history.history["loss"][0])


# Shapes.


@pytest.mark.parametrize("loss", [margin_loss, MarginLoss()])
@pytest.mark.parametrize(
    "true_shape, shape",
    [
        ((5, 3), (5, 7)),
        ((4,), (5, 7)),
        ((4, 1), (5, 7)),
        ((4, 7), (5, 7)),
        ((1, 7), (5, 7)),
        ((5, 7, 1), (5, 7)),
        ((), (5, 7)),
        ((5,), (5, 2, 7)),
        ((5, 1), (5, 2, 7)),
        ((7,), (5, 7)),
        ((5, 1, 7), (5, 7)),
        ((5, 2), (5, 1)),
    ],
    ids=str,
)
def test_shape_mismatch_raises(loss, true_shape, shape):
    def escaped(shape):
        return str(shape).replace("(", r"\(").replace(")", r"\)")

    message = (
        r"Expected `y_true` to hold integer labels .*"
        rf"{escaped(shape)}.*y_true.shape={escaped(true_shape)}"
    )
    with pytest.raises(ValueError, match=message):
        loss(np.zeros(true_shape), np.zeros(shape))
    with pytest.raises(ValueError, match=message):
        loss(tensor(np.zeros(true_shape)), tensor(np.zeros(shape)))


@pytest.mark.parametrize("loss", [margin_loss, SpreadLoss()])
@pytest.mark.parametrize(
    "true_shape, shape",
    [
        ((5,), (5, 3, 2)),
        ((5, 1), (5, 3, 2)),
        ((5,), (5, 3, 2, 7)),
        ((5, 3), (5, 3, 2, 7)),
    ],
    ids=str,
)
def test_capsules_instead_of_scores_are_recognized(loss, true_shape, shape):
    message = (
        "These scores have the shape of capsules: CapsuleLength, the layer "
        "that turns class capsules into class scores, was probably forgotten"
    )
    with pytest.raises(ValueError, match=message):
        loss(np.ones(true_shape), np.zeros(shape))


def test_other_shapes_do_not_look_like_capsules():
    for true_shape, shape in [((4,), (5, 7)), ((4,), (5, 3, 2)), ((), (5, 7))]:
        with pytest.raises(ValueError, match="to hold integer") as error:
            margin_loss(np.ones(true_shape), np.zeros(shape))
        assert "CapsuleLength" not in str(error.value)


def test_a_network_without_capsule_length_is_told_so():
    model = keras.Sequential(
        [keras.Input((3, 2)), CapsuleLayer(5, 7, routing="self_attention")]
    )
    model.compile("sgd", MarginLoss())
    with pytest.raises(ValueError, match="CapsuleLength"):
        model.fit(np.ones((4, 3, 2)), np.zeros(4, "int32"), verbose=0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "loss", [margin_loss, MarginLoss(), SpreadLoss(), ExactMatchAccuracy()]
)
def test_float_labels_do_not_pass_for_those_of_sequences(loss, dtype):
    """One-hot labels of classes, and capsules (batch, 3, 16) for scores."""
    labels = np.eye(3)[[0, 2]].astype(dtype)
    capsules = np.full((2, 3, 16), 0.1, "float32")
    message = "CapsuleLength, .* Integer labels of sequences need an integer"
    for y_true in (labels, ops.convert_to_tensor(labels)):
        with pytest.raises(ValueError, match=message):
            loss(y_true, capsules)
    # Integers, and labels with an axis of their own, are unmistakable.
    for y_true in (
        labels.astype("int64"),
        ops.convert_to_tensor(labels.astype("uint8")),
        labels[..., None],
    ):
        assert np.isfinite(numpy(loss(y_true, capsules))).all()


def test_one_hot_labels_without_capsule_length_do_not_train():
    model = keras.Sequential(
        [keras.Input((3, 2)), CapsuleLayer(5, 7, routing="self_attention")]
    )
    model.compile("sgd", MarginLoss())
    with pytest.raises(ValueError, match="CapsuleLength"):
        model.fit(np.ones((4, 3, 2)), np.eye(5)[[0, 1, 2, 3]], verbose=0)


def test_unknown_batch_fits_any_other():
    for true_shape in [(None,), (None, 1), (None, 7), (5, 7)]:
        y_true = keras.Input(batch_shape=true_shape)
        y_pred = keras.Input(batch_shape=(None, 7))
        assert margin_loss(y_true, y_pred).shape[1:] == ()


def test_unknown_number_of_classes_raises():
    y_true = keras.Input(batch_shape=(5,))
    with pytest.raises(ValueError, match="known num_classes"):
        margin_loss(y_true, keras.Input(batch_shape=(5, None)))
    with pytest.raises(ValueError, match="known num_classes"):
        margin_loss(np.zeros(()), np.zeros(()))
    # Whether these are integer or multi-hot labels cannot be told.
    with pytest.raises(ValueError, match="Expected `y_true` to hold"):
        margin_loss(
            keras.Input(batch_shape=(5, None)), keras.Input(batch_shape=(5, 7))
        )
