import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.layers import PrimaryCapsules
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import numeric_gradient
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import values

# Image size, kernel_size, strides, padding.
CASES = {
    "plain": ((7, 11), 3, 1, "valid"),
    "strides": ((7, 11), (3, 2), (2, 3), "valid"),
    "same-strides": ((7, 11), (3, 2), (2, 3), "same"),
    "same-even": ((8, 5), 2, (1, 2), "same"),
    "same-odd": ((7, 8), 5, 1, "same"),
    "whole-image": ((5, 7), (5, 7), 1, "valid"),
    "window-larger-than-image": ((2, 3), (5, 4), 2, "same"),
    "strides-larger-than-window": ((8, 7), 1, (3, 2), "same"),
    "pixel": ((1, 1), 1, 2, "valid"),
}
cases = pytest.mark.parametrize(
    "size, kernel_size, strides, padding", CASES.values(), ids=CASES
)
depthwises = pytest.mark.parametrize("depthwise", [False, True])


def random(*shape):
    return np.random.default_rng(3).normal(0, 1, shape)


def convolve(images, kernel, strides=(1, 1), padding="valid"):
    """A window at a time. A kernel of one filter is a depthwise one."""
    starts, margins = [], []
    for size, window, stride in zip(
        images.shape[1:3], kernel.shape[:2], strides, strict=True
    ):
        number = math.ceil((size - window + 1) / stride)
        margin = (0, 0)
        if padding == "same":
            # As TensorFlow documents it: the odd pixel goes to the end.
            number = math.ceil(size / stride)
            total = max((number - 1) * stride + window - size, 0)
            margin = (total // 2, total - total // 2)
        starts.append([stride * index for index in range(number)])
        margins.append(margin)
    images = np.pad(images, [(0, 0), *margins, (0, 0)])
    height, width, channels, filters = kernel.shape
    rows = []
    for top in starts[0]:
        row = []
        for left in starts[1]:
            window = images[:, top : top + height, left : left + width]
            if filters == 1:
                row.append(np.einsum("bhwc,hwc->bc", window, kernel[..., 0]))
            else:
                row.append(np.einsum("bhwc,hwcf->bf", window, kernel))
        rows.append(np.stack(row, axis=1))
    return np.stack(rows, axis=1)


def squash(poses, exponential=False):
    result = np.empty_like(poses)
    for index in np.ndindex(poses.shape[:-1]):
        length = math.sqrt(np.sum(poses[index] ** 2) + 1e-7)
        squashed = length**2 / (1 + length**2)
        if exponential:
            squashed = 1 - math.exp(-length)
        result[index] = poses[index] / length * squashed
    return result


def with_random_weights(layer, shape):
    layer.build(shape)
    layer.set_weights([random(*weight.shape) for weight in layer.weights])
    return layer


def weights_of(layer):
    return [numpy(weight).astype("float64") for weight in layer.weights]


# Values.


@cases
@depthwises
def test_equals_the_oracle(size, kernel_size, strides, padding, depthwise):
    if depthwise and not isinstance(strides, int):
        strides = strides[0]  # others are rejected
    shape = (2, *size, 6 if depthwise else 5)
    layer = PrimaryCapsules(
        2, 3, kernel_size, strides, padding, depthwise, activation=None
    )
    with_random_weights(layer, shape)
    kernel, bias = weights_of(layer)
    images = random(*shape)
    pair = (strides, strides) if isinstance(strides, int) else strides
    expected = convolve(images, kernel, pair, padding)
    expected = expected.reshape(*expected.shape[:3], 2, 3) + bias
    result = layer(images)
    assert tuple(result.shape) == expected.shape
    np.testing.assert_allclose(numpy(result), expected, rtol=1e-4, atol=1e-4)

    assert layer.compute_output_shape(shape) == expected.shape
    unknown = layer.compute_output_shape((None, None, size[1], shape[-1]))
    assert unknown == (None, None, *expected.shape[2:])
    unknown = layer.compute_output_shape((2, size[0], None, shape[-1]))
    assert unknown == (2, expected.shape[1], None, 2, 3)


@pytest.mark.parametrize("activation", ["squash", "exponential_squash", "tanh"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("use_bias", [True, False])
def test_options_equal_the_oracle(activation, scale, use_bias):
    layer = PrimaryCapsules(
        3,
        2,
        2,
        pre_squash_scale=scale,
        activation=activation,
        use_bias=use_bias,
    )
    with_random_weights(layer, (2, 3, 5, 1))
    kernel, *bias = weights_of(layer)
    images = random(2, 3, 5, 1)
    poses = scale * convolve(images, kernel).reshape(2, 2, 4, 3, 2)
    poses = poses + (bias[0] if use_bias else 0)
    expected = {
        "squash": squash(poses),
        "exponential_squash": squash(poses, exponential=True),
        "tanh": np.tanh(poses),
    }[activation]
    result = numpy(layer(images))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    if activation != "tanh":
        assert (np.linalg.norm(result, axis=-1) < 1).all()


def test_activation_may_be_a_function():
    layer = PrimaryCapsules(3, 2, 2, activation=lambda poses: 0 * poses)
    assert not numpy(layer(random(2, 3, 5, 1))).any()


@depthwises
def test_float64(depthwise):
    images, kernel = random(2, 3, 5, 6), random(2, 3, 6, 1 if depthwise else 6)
    bias = random(3, 2)

    def capsules(images):
        layer = PrimaryCapsules(
            3, 2, (2, 3), depthwise=depthwise, dtype="float64"
        )
        layer.build(images.shape)
        layer.set_weights([kernel, bias])
        return layer(images)

    result = evaluate(capsules, images)
    assert result.dtype == "float64"
    expected = squash(convolve(images, kernel).reshape(2, 2, 3, 3, 2) + bias)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


@depthwises
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_gradient(depthwise, padding):
    strides = 2 if depthwise else (1, 2)
    images = random(1, 3, 4, 2)
    kernel = random(2, 2, 2, 1 if depthwise else 2)

    def total(images):
        layer = PrimaryCapsules(
            1,
            2,
            2,
            strides,
            padding,
            depthwise,
            use_bias=False,
            dtype="float64",
        )
        layer.build(images.shape)
        layer.set_weights([kernel])
        capsules = layer(images)
        return ops.sum(
            capsules * ops.convert_to_tensor(random(*capsules.shape))
        )

    np.testing.assert_allclose(
        gradient(total, images), numeric_gradient(total, images), atol=1e-7
    )


def test_channels_are_last_whatever_the_global_setting():
    layer = with_random_weights(PrimaryCapsules(3, 2, 2), (2, 3, 5, 7))
    images = random(2, 3, 5, 7)
    expected = numpy(layer(images))
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(numpy(layer(images)), expected)
        assert layer.compute_output_shape((2, 3, 5, 7)) == (2, 2, 4, 3, 2)
    finally:
        keras.config.set_image_data_format("channels_last")


# Shapes.


def test_unknown_image_size():
    inputs = keras.Input((None, None, 2))
    outputs = PrimaryCapsules(3, 5, 3, strides=2)(inputs)
    assert outputs.shape == (None, None, None, 3, 5)
    model = keras.Model(inputs, outputs)
    images = random(3, 7, 9, 2)
    result = model.predict(images, verbose=0)
    assert result.shape == (3, 3, 4, 3, 5)
    # A part of the image has a part of the capsules.
    part = model.predict(images[:, :5, 2:], verbose=0)
    assert part.shape == (3, 2, 3, 3, 5)
    np.testing.assert_allclose(part, result[:, :2, 1:], rtol=1e-5, atol=1e-6)


def test_one_capsule_of_one_number():
    layer = with_random_weights(PrimaryCapsules(1, 1, 1), (1, 1, 1, 1))
    kernel, bias = weights_of(layer)
    result = numpy(layer(np.ones((1, 1, 1, 1), "float32")))
    assert result.shape == (1, 1, 1, 1, 1)
    expected = squash(np.reshape(kernel.item() + bias.item(), (1, 1)))
    np.testing.assert_allclose(result.reshape(1, 1), expected, rtol=1e-5)


# Weights.


def test_weights():
    layer = PrimaryCapsules(3, 5, (2, 7))
    layer.build((None, 11, 13, 4))
    assert layer.kernel.shape == (2, 7, 4, 15)
    assert layer.bias.shape == (3, 5)
    assert [weight.name for weight in layer.weights] == ["kernel", "bias"]
    assert not numpy(layer.bias).any()

    layer = PrimaryCapsules(3, 5, (2, 7), depthwise=True, use_bias=False)
    layer.build((None, 11, 13, 15))
    assert layer.kernel.shape == (2, 7, 15, 1)
    assert layer.bias is None
    assert [weight.name for weight in layer.weights] == ["kernel"]


def test_default_standard_deviation():
    keras.utils.set_random_seed(1)
    layer = PrimaryCapsules(64, 8, (5, 3))
    layer.build((None, 9, 9, 7))
    expected = math.sqrt(2 / (5 * 3 * 7))
    assert numpy(layer.kernel).std() == pytest.approx(expected, rel=0.03)

    layer = PrimaryCapsules(64, 8, (5, 3), depthwise=True)
    layer.build((None, 9, 9, 64 * 8))
    expected = math.sqrt(2 / (5 * 3))
    assert numpy(layer.kernel).std() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    "initializer", ["ones", keras.initializers.Constant(1.0)], ids=type
)
def test_initializers(initializer):
    layer = PrimaryCapsules(
        3, 2, 2, kernel_initializer=initializer, bias_initializer=initializer
    )
    layer.build((None, 3, 5, 1))
    np.testing.assert_array_equal(numpy(layer.kernel), np.ones((2, 2, 1, 6)))
    np.testing.assert_array_equal(numpy(layer.bias), np.ones((3, 2)))


def test_regularizers():
    layer = PrimaryCapsules(
        3,
        2,
        2,
        bias_initializer=keras.initializers.Constant(0.5),
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer="l1",
    )
    layer(random(2, 3, 5, 1))
    kernel_loss, bias_loss = layer.losses
    expected = 0.1 * np.sum(numpy(layer.kernel) ** 2)
    assert numpy(kernel_loss) == pytest.approx(expected, rel=1e-5)
    assert numpy(bias_loss) == pytest.approx(0.01 * 6 * 0.5)


def test_constraints():
    layer = PrimaryCapsules(
        3,
        2,
        2,
        bias_initializer=keras.initializers.Constant(-1.0),
        kernel_constraint="non_neg",
        bias_constraint=keras.constraints.NonNeg(),
    )
    model = keras.Sequential([keras.Input((3, 5, 1)), layer])
    assert (numpy(layer.kernel) < 0).any()
    model.compile("sgd", "mse")
    model.fit(random(2, 3, 5, 1), random(2, 2, 4, 3, 2), verbose=0)
    assert (numpy(layer.kernel) >= 0).all()
    assert (numpy(layer.bias) >= 0).all()


# Configuration.


def test_config():
    layer = PrimaryCapsules(3, 2, 5, strides=(1, 2), name="primary")
    config = layer.get_config()
    expected = {
        "name": "primary",
        "num_capsules": 3,
        "capsule_dim": 2,
        "kernel_size": 5,
        "strides": (1, 2),
        "padding": "valid",
        "depthwise": False,
        "pre_squash_scale": 1.0,
        "activation": "squash",
        "use_bias": True,
        "kernel_initializer": None,
        "kernel_regularizer": None,
        "bias_regularizer": None,
        "kernel_constraint": None,
        "bias_constraint": None,
    }
    assert {name: config[name] for name in expected} == expected
    assert config["bias_initializer"]["class_name"] == "Zeros"


def test_numpy_numbers_are_arguments_too():
    layer = PrimaryCapsules(
        np.int64(3),
        np.int32(2),
        (np.int8(2), 3),
        pre_squash_scale=np.float32(0.5),
    )
    json.dumps(layer.get_config())
    assert layer(random(2, 3, 5, 1)).shape == (2, 2, 3, 3, 2)


# Errors.


def make(**kwargs):
    return PrimaryCapsules(
        **{"num_capsules": 3, "capsule_dim": 2, "kernel_size": 3, **kwargs}
    )


@pytest.mark.parametrize("name", ["num_capsules", "capsule_dim"])
@values(NOT_POSITIVE_INTEGERS)
def test_invalid_integer_raises(name, value):
    with pytest.raises(ValueError, match=invalid(name, "a positive integer")):
        make(**{name: value})


@pytest.mark.parametrize("name", ["kernel_size", "strides"])
@values(
    {
        **NOT_POSITIVE_INTEGERS,
        "two-digits": "23",
        "none-at-all": (),
        "four": (1, 2, 3, 4),
        "zero-in-pair": (0, 2),
        "negative-in-pair": (2, -1),
        "float-in-pair": (2, 1.5),
        "none-in-pair": (None, 2),
        "bool-in-pair": (True, 2),
    }
)
def test_invalid_pair_raises(name, value):
    message = invalid(name, "a positive integer or a tuple of them")
    with pytest.raises(ValueError, match=message):
        make(**{name: value})


@values({"name": "causal", "none": None, "number": 1})
def test_invalid_padding_raises(value):
    message = invalid("padding", "one of 'valid', 'same'")
    with pytest.raises(ValueError, match=message):
        make(padding=value)


@pytest.mark.parametrize("name", ["depthwise", "use_bias"])
@values(NOT_BOOLEANS)
def test_invalid_boolean_raises(name, value):
    with pytest.raises(ValueError, match=invalid(name, "True or False")):
        make(**{name: value})


@values(
    {
        "zero": 0,
        "negative": -0.5,
        "none": None,
        "string": "1",
        "bool": True,
        "nan": math.nan,
        "infinite": math.inf,
    }
)
def test_invalid_scale_raises(value):
    message = invalid("pre_squash_scale", "a finite number greater than 0")
    with pytest.raises(ValueError, match=message):
        make(pre_squash_scale=value)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("activation", "activation function"),
        ("kernel_initializer", "initializer"),
        ("bias_initializer", "initializer"),
        ("kernel_regularizer", "regularizer"),
        ("bias_regularizer", "regularizer"),
        ("kernel_constraint", "constraint"),
        ("bias_constraint", "constraint"),
    ],
)
def test_unknown_name_raises(name, kind):
    message = f"Could not interpret {kind} identifier: unknown"
    with pytest.raises(ValueError, match=message):
        make(**{name: "unknown"})


def test_unknown_argument_raises():
    with pytest.raises(ValueError, match="Unrecognized keyword.*kernel_sizes"):
        make(kernel_sizes=3)


@pytest.mark.parametrize(
    "kwargs, shape, message",
    [
        ({}, (2, 5), r"feature maps of shape .*, 5\)"),
        ({}, (2, 5, 7, 1, 1, 3), r"feature maps of .*, 5, 7, 1, 1, 3\)"),
        ({"kernel_size": (3, 1)}, (2, 7, 1), r"`kernel_size` does not fit"),
        ({"strides": (1, 2, 1)}, (2, 5, 7, 1), r"`strides` does not fit"),
        ({"depthwise": True}, (2, 5, 7, 3, 6), "signal or an image.*Receiv"),
        ({"kernel_size": (3, 1)}, (2, 2, 7, 1), "smaller than the window"),
        ({"kernel_size": (1, 3)}, (2, 7, 2, 1), "smaller than the window"),
        ({"depthwise": True}, (2, 5, 7, 3), "= 6 channels. Received.* 3"),
        (
            {"depthwise": True, "padding": "same"},
            (2, 5, 7, 12),
            "= 6 channels. Received.* 12",
        ),
    ],
    ids=[
        "rank-2",
        "rank-6",
        "kernel-size",
        "strides",
        "depthwise-volume",
        "height",
        "width",
        "depthwise",
        "depthwise-same",
    ],
)
def test_invalid_input_raises(kwargs, shape, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)(np.zeros(shape, "float32"))
    with pytest.raises(ValueError, match=message):
        make(**kwargs)(keras.Input(shape[1:]))
    with pytest.raises(ValueError, match=message):
        make(**kwargs).build(shape)
    with pytest.raises(ValueError, match=message):
        make(**kwargs).compute_output_shape(shape)


def test_unknown_channels_raise():
    with pytest.raises(ValueError, match="known number of channels"):
        make()(keras.Input((5, 7, None)))


def test_other_channels_than_before_raise():
    layer = make()
    layer(random(2, 5, 7, 1))
    with pytest.raises(ValueError, match="expected axis -1 .* value 1"):
        layer(random(2, 5, 7, 2))


def test_depthwise_with_unequal_strides_raises():
    with pytest.raises(ValueError, match=r"must be equal.*strides=\(1, 2\)"):
        PrimaryCapsules(2, 3, 3, strides=(1, 2), depthwise=True)
