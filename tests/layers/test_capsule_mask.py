import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.layers import CapsuleMask
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import check_saving
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy

LABELS = np.array([3, 0], "int32")
ONE_HOT = np.eye(5, dtype="float32")[LABELS]


def random(*shape):
    capsules = np.random.default_rng(3).normal(0, 1, shape)
    return capsules.astype("float32")


def masked(capsules, kept):
    """Zero but for the capsules of each example's list of classes."""
    result = np.zeros_like(capsules)
    for example, classes in enumerate(kept):
        for one in classes:
            result[example, one] = capsules[example, one]
    return result


# Labels in every form, and the classes that they keep.
FORMS = {
    "integers": (LABELS, [[3], [0]]),
    "int8": (LABELS.astype("int8"), [[3], [0]]),
    "floats": (LABELS.astype("float32"), [[3], [0]]),
    "column": (LABELS[:, None], [[3], [0]]),
    "one-hot": (ONE_HOT, [[3], [0]]),
    "one-hot-integers": (ONE_HOT.astype("uint8"), [[3], [0]]),
    "booleans": (ONE_HOT > 0, [[3], [0]]),
    "multi-hot": (
        np.array([[0, 1, 1, 0, 1], [0] * 5], "int32"),
        [[1, 2, 4], []],
    ),
}
forms = pytest.mark.parametrize("labels, kept", FORMS.values(), ids=FORMS)


# Values.


@forms
@pytest.mark.parametrize("kind", ["array", "list", "tensor"])
def test_labels(labels, kept, kind):
    given = labels
    if kind == "list":
        given = labels.tolist()
    if kind == "tensor":
        given = ops.convert_to_tensor(labels)
    capsules = random(2, 5, 7)
    result = numpy(CapsuleMask()(capsules, labels=given))
    np.testing.assert_array_equal(result, masked(capsules, kept))


def test_soft_labels():
    capsules = random(1, 3, 2)
    labels = np.array([[0.25, 0.0, 0.75]], "float32")
    result = numpy(CapsuleMask()(capsules, labels=labels))
    np.testing.assert_allclose(result, capsules * labels[:, :, None])


def test_longest():
    capsules = random(11, 5, 7)
    kept = []
    for example in capsules:
        lengths = [sum(number**2 for number in one) for one in example]
        kept.append([lengths.index(max(lengths))])
    assert len({one for (one,) in kept}) > 2
    result = numpy(CapsuleMask()(capsules))
    np.testing.assert_array_equal(result, masked(capsules, kept))


def test_first_of_equally_long_ones():
    capsules = np.zeros((3, 5, 2), "float32")
    capsules[0, [1, 3, 4]] = [[0.6, 0.8], [0.8, 0.6], [-0.8, 0.6]]
    capsules[1, [0, 4]] = 1.0
    # All of the third example's are zero, and nothing can be seen of them.
    result = numpy(CapsuleMask()(capsules))
    np.testing.assert_array_equal(result, masked(capsules, [[1], [0], []]))


def test_one_capsule_of_one_number():
    capsules = np.array([[[0.5]], [[-0.25]]], "float32")
    np.testing.assert_array_equal(numpy(CapsuleMask()(capsules)), capsules)
    # With one class, labels say whether it is present.
    for labels in ([0, 1], [[0], [1]]):
        result = numpy(CapsuleMask()(capsules, labels=np.array(labels)))
        np.testing.assert_array_equal(result, masked(capsules, [[], [0]]))


@needs_float64
def test_float64():
    capsules = np.random.default_rng(3).normal(0, 1, (2, 5, 7))
    # Longer by less than float32 can tell from nothing.
    capsules[:, 2] = 10.0
    capsules[:, 4] = 10.0 + 1e-12
    result = evaluate(
        lambda capsules: CapsuleMask(dtype="float64")(capsules), capsules
    )
    assert result.dtype == "float64"
    np.testing.assert_array_equal(result, masked(capsules, [[4], [4]]))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_longest_in_16_bits(dtype):
    # Both capsules are exact, but their lengths round to the same number.
    capsules = np.full((1, 2, 8), 0.5, "float32")
    capsules[0, 1, 0] += 2.0**-8 if dtype == "mixed_bfloat16" else 2.0**-11
    result = numpy(CapsuleMask(dtype=dtype)(capsules))
    np.testing.assert_array_equal(result, masked(capsules, [[1]]))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", ["int32", "float32"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_large_labels_survive_16_bits(dtype, kind, as_tensor):
    # 2049 is 2048 in both 16-bit dtypes.
    capsules = np.ones((1, 2053, 1), "float32")
    labels = np.array([2049], kind)
    if as_tensor:
        labels = ops.convert_to_tensor(labels)
    result = numpy(CapsuleMask(dtype=dtype)(capsules, labels=labels))
    assert np.flatnonzero(result).tolist() == [2049]


# Pairs of poses and activations.

pairs = pytest.mark.parametrize("pose", [(7,), (2, 3)], ids=str)


@forms
@pairs
def test_labels_of_pairs(labels, kept, pose):
    poses, activations = random(2, 5, *pose), random(2, 5)
    result = numpy(CapsuleMask()((poses, activations), labels=labels))
    np.testing.assert_array_equal(result, masked(poses, kept))


@pairs
def test_most_active(pose):
    poses = random(3, 5, *pose)
    activations = np.full((3, 5), 0.1, "float32")
    activations[0, 4] = activations[1, 0] = 0.3
    poses[:, 2] *= 9  # the longest, which does not count
    expected = masked(poses, [[4], [0], [0]])
    result = numpy(CapsuleMask()([poses, activations]))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_activations_are_not_rounded_to_16_bits(dtype):
    poses = np.ones((1, 3, 2), "float32")
    activations = np.array([[0.9, 0.900001, 0.9]], "float32")
    result = CapsuleMask(dtype=dtype)((poses, activations))
    assert keras.backend.standardize_dtype(result.dtype) in dtype
    np.testing.assert_array_equal(numpy(result), masked(poses, [[1]]))


def test_pairs_in_a_functional_model(tmp_path):
    inputs = keras.Input((5, 2, 3)), keras.Input((5,))
    labels = keras.Input((), dtype="int32")
    outputs = CapsuleMask()(inputs, labels=labels)
    assert outputs.shape == (None, 5, 2, 3)
    model = keras.Model([*inputs, labels], outputs)
    poses, activations = random(2, 5, 2, 3), random(2, 5)
    arrays = [poses, activations, LABELS]
    result = model.predict(arrays, verbose=0)
    np.testing.assert_array_equal(result, masked(poses, [[3], [0]]))
    check_saving(model, arrays, tmp_path)


@pytest.mark.parametrize(
    "poses, activations",
    [
        ((2, 5), (2, 5)),
        ((2, 5, 7), (2, 4)),
        ((2, 5, 7), (2, 5, 1)),
        ((2, 5, 7), (1, 5)),
        ((2, 5, 2, 3, 1), (2, 5)),
    ],
    ids=str,
)
def test_another_pair_raises(poses, activations):
    layer = CapsuleMask()
    for _ in range(2):
        with pytest.raises(ValueError, match="or a pair of poses.*Received"):
            layer((random(*poses), random(*activations)))
        layer((random(2, 5, 7), random(2, 5)))
    with pytest.raises(ValueError, match="or a pair of poses.*Received"):
        CapsuleMask().compute_output_shape((poses, activations))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("labels", [None, LABELS], ids=["active", "labels"])
def test_what_is_no_pair_raises(number, labels):
    inputs = [random(2, 5, 7), random(2, 5), random(2, 5)]
    message = r"or a pair of poses.*Received: inputs_shape=\(\(2, 5, 7\)"
    layer = CapsuleMask()
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            layer(inputs[:number], labels=labels)
        layer(inputs[:2])
    with pytest.raises(ValueError, match=message):
        layer.compute_output_shape([each.shape for each in inputs[:number]])


# Gradients.


@pytest.mark.parametrize(
    "labels, kept",
    [(None, [[4], [1]]), (LABELS, [[3], [0]]), (ONE_HOT[::-1], [[0], [3]])],
    ids=["longest", "integers", "one-hot"],
)
def test_gradient_is_that_of_the_kept_capsules(labels, kept):
    capsules, weights = random(2, 5, 7), random(3, 5, 7)[1:]
    capsules[0, 4] *= 10
    capsules[1, 1] *= 10

    def total(capsules):
        result = CapsuleMask()(capsules, labels=labels)
        return ops.sum(result * ops.convert_to_tensor(weights))

    slopes = gradient(total, capsules)
    np.testing.assert_array_equal(slopes, masked(weights, kept))


# Shapes, and as a part of models.


def test_output_shape():
    layer = CapsuleMask()
    layer(random(2, 5, 7))
    assert layer.weights == []
    assert layer.compute_output_shape((None, 5, 7)) == (None, 5, 7)


def test_symbolic():
    capsules = keras.Input((5, 7))
    assert CapsuleMask()(capsules).shape == (None, 5, 7)
    outputs = CapsuleMask(dtype="mixed_bfloat16")(capsules)
    assert outputs.dtype == "bfloat16"


@forms
def test_functional_model(labels, kept, tmp_path):
    capsules = random(2, 5, 7)
    inputs = keras.Input((5, 7))
    label_inputs = keras.Input(labels.shape[1:], dtype=str(labels.dtype))
    outputs = CapsuleMask()(inputs, labels=label_inputs)
    assert outputs.shape == (None, 5, 7)
    model = keras.Model([inputs, label_inputs], outputs)
    result = model.predict([capsules, labels], verbose=0)
    np.testing.assert_array_equal(result, masked(capsules, kept))
    single = model.predict([capsules[:1], labels[:1]], verbose=0)
    np.testing.assert_array_equal(single, result[:1])
    check_saving(model, [capsules, labels], tmp_path)


def test_config():
    config = CapsuleMask(name="mask", dtype="mixed_bfloat16").get_config()
    assert config["name"] == "mask"
    copy = CapsuleMask.from_config(config)
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert copy.get_config() == config


# Errors.


@pytest.mark.parametrize("label", [-1, 5, 127, 0.5, np.nan], ids=str)
@pytest.mark.parametrize("column", [False, True])
def test_label_out_of_range(label, column):
    labels = np.array([3, label])
    if column:
        labels = labels[:, None]
    message = (
        "`labels` has labels out of range. Expected integers from 0 to 4. "
        rf"Received: labels=\[{label}"
    )
    capsules = random(2, 5, 7)
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(capsules, labels=labels)
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(capsules, labels=labels.tolist())
    # A tensor's values cannot be looked at, so they mark its example.
    tensor = ops.convert_to_tensor(labels)
    result = numpy(CapsuleMask()(capsules, labels=tensor))
    np.testing.assert_array_equal(result[:1], masked(capsules[:1], [[3]]))
    assert np.isnan(result[1]).all()


@pytest.mark.parametrize(
    "labels",
    [["3", "0"], np.array(["3", "0"]), [[3], [0, 1]], [3, None]],
    ids=["strings", "string-array", "ragged", "none"],
)
def test_labels_that_are_no_numbers_raise(labels):
    message = invalid("labels", "integers from 0 to 4, or multi-hot labels")
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(random(2, 5, 7), labels=labels)


@pytest.mark.parametrize("label", [-1, 2, 255, np.nan], ids=str)
def test_multi_hot_label_out_of_range(label):
    labels = np.array([[0, 1, 0, 0, 0], [0, 0, label, 0, 0]])
    message = "`labels` has multi-hot labels out of range. Expected numbers"
    capsules = random(2, 5, 7)
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(capsules, labels=labels)
    tensor = ops.convert_to_tensor(labels)
    result = numpy(CapsuleMask()(capsules, labels=tensor))
    np.testing.assert_array_equal(result[:1], masked(capsules[:1], [[1]]))
    assert np.isnan(result[1]).any()


@pytest.mark.parametrize(
    "shape",
    [(), (3,), (1,), (3, 1), (2, 4), (2, 7), (5, 2), (2, 5, 1)],
    ids=str,
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_labels_of_another_shape_raise(shape, as_tensor):
    labels = np.zeros(shape, "int32")
    if as_tensor:
        labels = ops.convert_to_tensor(labels)
    escaped = str(shape).replace("(", r"\(").replace(")", r"\)")
    message = rf"Expected `labels` to hold .*labels.shape={escaped}"
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(random(2, 5, 7), labels=labels)


@pytest.mark.parametrize("shape", [(2,), (2, 5), (2, 5, 7, 3)], ids=str)
@pytest.mark.parametrize("labels", [None, [1, 0]], ids=["longest", "labels"])
def test_another_rank_raises(shape, labels):
    # In Keras's words or ours.
    message = "takes class capsules of shape|expected ndim=3"
    with pytest.raises(ValueError, match=message):
        CapsuleMask().compute_output_shape(shape)
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(keras.Input(shape[1:]))
    with pytest.raises(ValueError, match=message):
        CapsuleMask()(np.ones(shape, "float32"), labels=labels)


def test_unknown_argument_raises():
    with pytest.raises(ValueError, match="Unrecognized keyword.*axis"):
        CapsuleMask(axis=1)
