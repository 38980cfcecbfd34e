import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.layers import CapsuleLength
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import numeric_gradient
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy


def random(*shape):
    return np.random.default_rng(3).normal(0, 1, shape)


@pytest.mark.parametrize(
    "shape",
    [(2, 3), (2, 3, 5), (1, 1, 1), (2, 3, 1), (2, 3, 5, 1, 7)],
    ids=str,
)
def test_equals_the_oracle(shape):
    capsules = random(*shape)
    expected = np.empty(shape[:-1])
    for index in np.ndindex(expected.shape):
        expected[index] = sum(number**2 for number in capsules[index]) ** 0.5
    layer = CapsuleLength()
    lengths = layer(capsules)
    assert tuple(lengths.shape) == expected.shape
    np.testing.assert_allclose(numpy(lengths), expected, rtol=1e-5)
    assert layer.compute_output_shape(shape) == expected.shape
    assert layer.weights == []


def test_float64():
    capsules = random(2, 3, 5)
    lengths = evaluate(
        lambda capsules: CapsuleLength(dtype="float64")(capsules), capsules
    )
    assert lengths.dtype == "float64"
    expected = np.sqrt(np.sum(capsules**2, axis=-1) + 1e-7)
    np.testing.assert_allclose(lengths, expected, rtol=1e-14)


def test_zeros():
    capsules = np.zeros((2, 3, 5), "float32")
    lengths = numpy(CapsuleLength()(capsules))
    np.testing.assert_allclose(lengths, 1e-7**0.5, rtol=1e-5)
    slopes = gradient(lambda x: ops.sum(CapsuleLength()(x)), capsules)
    np.testing.assert_array_equal(slopes, 0)


def test_gradient():
    def total(capsules):
        lengths = CapsuleLength(dtype="float64")(capsules)
        return ops.sum(lengths * ops.convert_to_tensor(random(*lengths.shape)))

    capsules = random(2, 3, 5)
    np.testing.assert_allclose(
        gradient(total, capsules), numeric_gradient(total, capsules), atol=1e-8
    )


def test_16_bits_do_not_overflow():
    # The square of 300 is no float16 number.
    lengths = CapsuleLength(dtype="float16")(np.full((1, 1, 4), 300.0))
    assert keras.backend.standardize_dtype(lengths.dtype) == "float16"
    assert numpy(lengths) == 600


def test_unknown_sizes():
    layer = CapsuleLength()
    assert layer.compute_output_shape((None, None, 5)) == (None, None)
    assert layer(keras.Input((None, 3, 5))).shape == (None, None, 3)


def test_config():
    layer = CapsuleLength(name="scores", dtype="mixed_bfloat16")
    config = layer.get_config()
    assert config["name"] == "scores"
    copy = CapsuleLength.from_config(config)
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert copy.get_config() == config


@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_too_low_a_rank_raises(shape):
    # In Keras's words or ours.
    message = "takes capsules of shape|expected min_ndim=2"
    with pytest.raises(ValueError, match=message):
        CapsuleLength().compute_output_shape(shape)
    with pytest.raises(ValueError, match=message):
        CapsuleLength()(keras.KerasTensor(shape))
    with pytest.raises(ValueError, match=message):
        CapsuleLength()(np.ones(shape, "float32"))


@pytest.mark.parametrize("built", [False, True], ids=["new", "built"])
@pytest.mark.parametrize(
    "shapes",
    [[(4, 3, 5), (1, 3)], [(4, 3, 5), (4, 2)], [(4, 3, 5), (4, 3), (4, 3)]],
    ids=str,
)
def test_another_pair_raises(shapes, built):
    layer = CapsuleLength()
    if built:
        layer((np.ones((4, 3, 5)), np.ones((4, 3))))
    with pytest.raises(ValueError, match="or a pair of poses and activations"):
        layer([np.ones(shape) for shape in shapes])


@pytest.mark.parametrize(
    "axis, expected",
    [
        (np.int64(-1), -1),
        ([-2, -1], (-2, -1)),
        (np.array([-2, -1]), (-2, -1)),
        ((np.int32(-2), -1), (-2, -1)),
    ],
    ids=str,
)
def test_axes_of_every_kind(axis, expected):
    layer = CapsuleLength(axis=axis)
    assert layer.axis == expected
    json.dumps(layer.get_config())


@pytest.mark.parametrize(
    "axis",
    [
        -1.0,
        [-2.0, -1],
        np.int64(2),
        np.array(-1),
        np.array([-2, 1]),
        (-1, -2),
        (-1,),
        (),
        True,
        None,
        "-1",
    ],
    ids=repr,
)
def test_bad_axis(axis):
    message = invalid("axis", r"-1 or \(-2, -1\)")
    with pytest.raises(ValueError, match=message):
        CapsuleLength(axis=axis)


def test_unknown_argument_raises():
    with pytest.raises(ValueError, match="Unrecognized keyword.*lengths"):
        CapsuleLength(lengths=1)
