import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.activations import squash
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D,
)
from keras_capsules.routing.tracing import tracing
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import check_saving
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import values

pytestmark = on_one_backend

SHAPE = (2, 5, 4, 3, 2)  # batch, height, width, types, dim
NUMBER, DIM = 2, 3


def random(*shape):
    return np.random.default_rng(3).normal(0, 1, shape)


def make(**options):
    return SharedKernelConvCapsules2D(
        **{"num_capsules": NUMBER, "capsule_dim": DIM, **options}
    )


def build(kernel, bias, **options):
    layer = make(
        kernel_size=kernel.shape[:2], use_bias=bias is not None, **options
    )
    layer.build((None, *SHAPE[1:3], SHAPE[3], kernel.shape[2]))
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return layer


def oracle(
    capsules,
    kernel,
    bias,
    strides=(1, 1),
    padding="same",
    num_iterations=3,
    joint_squash=True,
):
    """The documented formulas, one number after another.

    Returns:
        Output capsules, and the coupling of the last iteration.
    """
    results, couplings = [], []
    height, width, dim, _ = kernel.shape
    kernel = kernel.reshape(height, width, dim, NUMBER, DIM)
    starts = []
    for size, window, stride in zip(
        capsules.shape[1:3], (height, width), strides, strict=True
    ):
        number, margin = (size - window) // stride + 1, 0
        if padding == "same":
            # As TensorFlow documents it: the odd pixel goes to the end.
            number = math.ceil(size / stride)
            margin = max((number - 1) * stride + window - size, 0) // 2
        starts.append([stride * index - margin for index in range(number)])
    for example in capsules:
        rows, columns, types, _ = example.shape
        votes = np.zeros((types, len(starts[0]), len(starts[1]), NUMBER, DIM))
        for i, y, x in np.ndindex(votes.shape[:3]):
            for down, right in np.ndindex(height, width):
                row, column = starts[0][y] + down, starts[1][x] + right
                if 0 <= row < rows and 0 <= column < columns:
                    for d in range(dim):
                        votes[i, y, x] += (
                            example[row, column, i, d] * kernel[down, right, d]
                        )
        logits = np.zeros(votes.shape[:4])
        for _ in range(num_iterations):
            shares = np.zeros(logits.shape)
            outputs = np.zeros(votes.shape[1:])
            for i in range(types):
                shares[i] = np.exp(logits[i]) / np.exp(logits[i]).sum()
                outputs += shares[i][..., None] * votes[i]
            if bias is not None:
                outputs += bias
            for j in range(NUMBER):
                if joint_squash:
                    outputs[:, :, j] = squashed(outputs[:, :, j])
                else:
                    for y, x in np.ndindex(outputs.shape[:2]):
                        outputs[y, x, j] = squashed(outputs[y, x, j])
            logits = logits + np.sum(votes * outputs, axis=-1)
        results.append(outputs)
        couplings.append(shares)
    return np.stack(results), np.stack(couplings)


def squashed(x):
    squared = np.sum(x**2) + 1e-7
    return np.sqrt(squared) / (1 + squared) * x


CASES = {
    "default": ((3, 3), {}),
    "strides": ((3, 2), {"strides": (2, 3)}),
    "valid": ((2, 3), {"padding": "valid", "strides": (1, 2)}),
    "larger-than-grid": ((7, 5), {"strides": (2, 2)}),
    "one-iteration": ((3, 3), {"num_iterations": 1}),
    "four-iterations": ((3, 3), {"num_iterations": 4}),
    "single-squash": ((3, 3), {"joint_squash": False}),
}
cases = pytest.mark.parametrize("window, options", CASES.values(), ids=CASES)


@cases
def test_equals_the_oracle(window, options):
    capsules = random(*SHAPE)
    # Large ones, with which routing has something to decide.
    kernel = 3.0 * random(*window, SHAPE[4], NUMBER * DIM)
    bias = 0.3 * random(NUMBER, DIM)

    def layer(capsules):
        return build(kernel, bias, dtype="float64", **options)(capsules)

    expected, _ = oracle(capsules, kernel, bias, **options)
    result = evaluate(layer, capsules)
    assert result.dtype == "float64"
    assert_close(result, expected)
    layer = make(kernel_size=window, **options)
    assert layer.compute_output_shape(SHAPE) == expected.shape
    assert layer.compute_output_shape((None, None, *SHAPE[2:])) == (
        None,
        None,
        *expected.shape[2:],
    )


@cases
def test_coupling_of_each_iteration_equals_the_oracle(window, options):
    capsules = random(*SHAPE)
    kernel = 3.0 * random(*window, SHAPE[4], NUMBER * DIM)
    layer = build(kernel, None, **options)
    with tracing() as traces:
        outputs, coupling = layer(capsules, return_coupling=True)
    np.testing.assert_array_equal(numpy(outputs), numpy(layer(capsules)))
    (trace,) = traces
    last = options.get("num_iterations", 3)
    assert len(trace.coupling) == last
    for number, each in enumerate(trace.coupling, 1):
        options = {**options, "num_iterations": number}
        _, exact = oracle(capsules, kernel, None, **options)
        each = numpy(each).transpose(0, 2, 1).reshape(exact.shape)
        np.testing.assert_allclose(each, exact, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(numpy(coupling), each)
    np.testing.assert_allclose(numpy(coupling).sum(axis=(2, 3, 4)), 1, 1e-5)
    inputs = keras.Input((None, None, *SHAPE[3:]))
    _, symbolic = layer(inputs, return_coupling=True)
    assert symbolic.shape == (None, SHAPE[3], None, None, NUMBER)


def test_routing_matters():
    capsules, kernel = random(*SHAPE), 3.0 * random(3, 3, 2, NUMBER * DIM)
    results = [
        numpy(build(kernel, None, num_iterations=number)(capsules))
        for number in (1, 2, 3)
    ]
    assert np.abs(results[1] - results[0]).max() > 1e-2
    assert np.abs(results[2] - results[1]).max() > 1e-2


def test_layout():
    """Through a window of 1 x 1, one type goes to itself, number by number."""
    capsules = random(2, 5, 4, 1, 7)
    layer = SharedKernelConvCapsules2D(
        1, 7, 1, num_iterations=1, use_bias=False
    )
    layer.build(capsules.shape)
    layer.set_weights([np.eye(7).reshape(1, 1, 7, 7)])
    expected = squash(capsules / 20, axis=(1, 2, 4))
    np.testing.assert_allclose(
        numpy(layer(capsules)), numpy(expected), rtol=1e-5
    )


def test_types_share_the_kernel_and_have_no_order():
    capsules, kernel = random(*SHAPE), random(3, 3, 2, NUMBER * DIM)
    layer = build(kernel, None)
    result = numpy(layer(capsules))
    np.testing.assert_allclose(
        numpy(layer(capsules[:, :, :, [2, 0, 1]])), result, atol=1e-6
    )


@needs_float64
@pytest.mark.parametrize("joint_squash", [True, False])
def test_gradient_equals_numeric_one(joint_squash):
    capsules, kernel = random(*SHAPE), random(3, 3, 2, NUMBER * DIM)
    layer = build(
        kernel, random(NUMBER, DIM), joint_squash=joint_squash, dtype="float64"
    )

    def loss(capsules):
        return ops.sum(ops.sin(3.0 * layer(capsules)))

    slopes = gradient(loss, capsules)
    check_slopes(loss, [slopes], capsules, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e10], ids=["0", "tiny", "huge"])
def test_extreme_capsules_stay_finite(size):
    capsules = (size * random(*SHAPE)).astype("float32")
    layer = build(random(3, 3, 2, NUMBER * DIM), None)
    result = numpy(layer(capsules))
    assert np.isfinite(result).all()
    assert np.sum(result**2, axis=(1, 2, 4)).max() <= 1 + 1e-6
    if size < 1:
        slopes = gradient(lambda x: ops.sum(layer(x)), capsules)
        assert np.isfinite(slopes).all()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits(dtype):
    capsules = random(*SHAPE).astype("float32")
    kernel, bias = random(3, 3, 2, NUMBER * DIM), random(NUMBER, DIM)
    result = build(kernel, bias, dtype=dtype)(capsules)
    compute_dtype = dtype.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(result.dtype) == compute_dtype
    expected = numpy(build(kernel, bias)(capsules))
    np.testing.assert_allclose(numpy(result), expected, atol=0.02)


def test_unknown_sizes_and_saving(tmp_path):
    inputs = keras.Input((None, None, *SHAPE[3:]))
    outputs = make(strides=2, bias_initializer="zeros")(inputs)
    assert outputs.shape == (None, None, None, NUMBER, DIM)
    model = keras.Model(inputs, outputs)
    check_saving(model, random(*SHAPE), tmp_path)
    kernel, bias = map(numpy, model.weights)
    other = random(1, 4, 3, *SHAPE[3:]).astype("float32")
    np.testing.assert_allclose(
        numpy(model(other)),
        oracle(other, kernel, bias, strides=(2, 2))[0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_weights():
    layer = make(kernel_size=(2, 5))
    layer.build((None, None, None, 7, 4))
    assert tuple(layer.kernel.shape) == (2, 5, 4, 6)
    assert layer.bias.shape == (2, 3)
    np.testing.assert_allclose(numpy(layer.bias), np.full((2, 3), 0.1))
    layer = SharedKernelConvCapsules2D(64, 8, use_bias=False)
    layer.build((None, None, None, 7, 4))
    assert [weight.name for weight in layer.weights] == ["kernel"]
    expected = math.sqrt(2 / (9 * 4))
    assert numpy(layer.kernel).std() == pytest.approx(expected, rel=0.05)


def test_options_of_weights():
    layer = make(
        kernel_size=1,
        kernel_initializer="ones",
        bias_initializer=keras.initializers.Constant(-1.0),
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer="l1",
        kernel_constraint="non_neg",
        bias_constraint=keras.constraints.NonNeg(),
    )
    layer(random(*SHAPE))
    losses = [float(numpy(loss)) for loss in layer.losses]
    assert losses == pytest.approx([0.1 * 12, 0.01 * 6])
    assert isinstance(layer.kernel.constraint, keras.constraints.NonNeg)
    assert isinstance(layer.bias.constraint, keras.constraints.NonNeg)


def test_config():
    layer = make(
        kernel_size=(1, 2),
        strides=2,
        padding="valid",
        num_iterations=2,
        joint_squash=False,
        use_bias=False,
        kernel_regularizer="l2",
    )
    config = json.loads(json.dumps(layer.get_config()))
    copy = SharedKernelConvCapsules2D.from_config(config)
    assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())
    assert (copy.kernel_size, copy.strides) == ((1, 2), (2, 2))
    assert copy.num_iterations == 2 and copy.padding == "valid"
    assert copy.joint_squash is False and copy.use_bias is False


# Errors.


@pytest.mark.parametrize("name", ["num_capsules", "capsule_dim"])
@values(NOT_POSITIVE_INTEGERS)
def test_invalid_integer_raises(name, value):
    with pytest.raises(ValueError, match=invalid(name, "a positive integer")):
        make(**{name: value})


@pytest.mark.parametrize("name", ["kernel_size", "strides"])
@pytest.mark.parametrize("value", [0, (2, 0), (1, 2, 3), "3", None])
def test_invalid_pair_raises(name, value):
    with pytest.raises(ValueError, match=invalid(name, "a positive integer")):
        make(**{name: value})


def test_other_invalid_options_raise():
    with pytest.raises(ValueError, match=invalid("padding", "one of 'valid'")):
        make(padding="causal")
    with pytest.raises(ValueError, match=invalid("num_iterations", "a posi")):
        make(num_iterations=0)
    with pytest.raises(ValueError, match="initializer identifier: unknown"):
        make(kernel_initializer="unknown")


@pytest.mark.parametrize("name", ["joint_squash", "use_bias"])
@values(NOT_BOOLEANS)
def test_invalid_boolean_raises(name, value):
    with pytest.raises(ValueError, match=invalid(name, "True or False")):
        make(**{name: value})


@pytest.mark.parametrize(
    "shape, message",
    [
        ((5, 4, 3), "takes capsules of shape"),
        ((5, 4, 3, 2, 1), "takes capsules of shape"),
        ((5, 4, None, 2), "with known types and dim"),
        ((5, 4, 3, None), "with known types and dim"),
        ((2, 4, 3, 2), "smaller than the window"),
        ((None, 2, 3, 2), "smaller than the window"),
    ],
    ids=str,
)
def test_invalid_input_raises(shape, message):
    with pytest.raises(ValueError, match=f"{message}.* Received"):
        make(padding="valid")(keras.Input(shape))


def test_other_types_than_before_raise():
    layer = build(random(3, 3, 2, NUMBER * DIM), None)
    with pytest.raises(ValueError, match="expected axis 3 .* value 3"):
        layer(random(2, 5, 4, 4, 2))
