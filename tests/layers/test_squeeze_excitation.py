import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.layers.squeeze_excitation import SqueezeExcitation
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import check_saving
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import values

pytestmark = on_one_backend

SHAPES = {
    "maps": (2, 5, 3, 7),
    "grid": (2, 5, 3, 7, 4),
    "capsules": (2, 7, 4),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def random(*shape):
    return np.random.default_rng(3).normal(0, 1, shape)


def made(shape, **options):
    layer = SqueezeExcitation(**{"ratio": 2, **options})
    layer.build(shape)
    layer.set_weights([random(*weight.shape) for weight in layer.weights])
    return layer


def oracle(x, weights):
    """An example and a channel at a time."""
    result = np.zeros_like(x)
    squeeze_kernel, squeeze_bias, excite_kernel, excite_bias = weights
    for b, example in enumerate(x):
        capsules = example.ndim != 3
        positions = example
        if example.ndim == 2:
            positions = example[None]
        elif capsules:
            positions = example.reshape(-1, *example.shape[2:])
        else:
            positions = example.reshape(-1, example.shape[-1])
        found = np.zeros(7)
        for c in range(7):
            for position in positions:
                value = position[c]
                found[c] += np.linalg.norm(value) if capsules else value
        found /= len(positions)
        hidden = np.maximum(found @ squeeze_kernel + squeeze_bias, 0)
        factors = 1 / (1 + np.exp(-(hidden @ excite_kernel + excite_bias)))
        for c in range(7):
            if capsules:
                result[b, ..., c, :] = factors[c] * example[..., c, :]
            else:
                result[b, ..., c] = factors[c] * example[..., c]
    return result


@shapes
def test_equals_the_oracle(shape):
    layer = made(shape)
    assert [tuple(weight.shape) for weight in layer.weights] == [
        (7, 3),
        (3,),
        (3, 7),
        (7,),
    ]
    weights = [numpy(weight) for weight in layer.weights]
    inputs = random(*shape)
    result = layer(inputs)
    assert tuple(result.shape) == shape == layer.compute_output_shape(shape)
    np.testing.assert_allclose(
        numpy(result), oracle(inputs, weights), rtol=1e-5, atol=1e-6
    )


@needs_float64
@shapes
def test_float64_and_gradient(shape):
    layer = made(shape, activation="tanh", dtype="float64")
    inputs = random(*shape)

    def loss(x):
        return ops.sum(ops.sin(3.0 * layer(x)))

    assert evaluate(layer, inputs).dtype == "float64"
    check_slopes(loss, [gradient(loss, inputs)], inputs, rtol=1e-5)


def test_poses_get_shorter_and_do_not_turn():
    inputs = random(*SHAPES["grid"])
    outputs = numpy(made(SHAPES["grid"])(inputs))
    ratio = outputs / inputs
    # One factor for all positions and numbers of a type, in each example.
    np.testing.assert_allclose(
        ratio,
        np.broadcast_to(ratio[:, :1, :1, :, :1], ratio.shape),
        rtol=1e-4,
    )
    assert (ratio > 0).all() and (ratio < 1 + 1e-6).all()
    assert ratio.std() > 0.01
    # A pose may turn: only its length counts.
    turned = numpy(made(SHAPES["grid"])(inputs[..., ::-1]))
    np.testing.assert_allclose(turned[..., ::-1], outputs, rtol=1e-5)


@pytest.mark.parametrize(
    "ratio, units", [(1, 7), (3, 2), (16, 1)], ids=["all", "third", "one"]
)
def test_ratio(ratio, units):
    layer = SqueezeExcitation(ratio)
    layer.build((None, None, None, 7))
    assert tuple(layer.squeeze_kernel.shape) == (7, units)
    assert not numpy(layer.squeeze_bias).any()


def test_options():
    layer = SqueezeExcitation(
        activation=None,
        gate_activation="relu",
        kernel_initializer="ones",
        bias_initializer=keras.initializers.Constant(0.5),
    )
    inputs = np.ones((1, 2, 2, 2), "float32")
    # 2 + 0.5, then 2.5 + 0.5
    np.testing.assert_allclose(numpy(layer(inputs)), 3.0 * inputs)
    config = json.loads(json.dumps(layer.get_config()))
    copy = SqueezeExcitation.from_config(config)
    assert copy.get_config() == layer.get_config()
    np.testing.assert_allclose(numpy(copy(inputs)), 3.0 * inputs)


@pytest.mark.parametrize(
    "shape", [(None, None, 7), (None, None, 7, 4)], ids=["maps", "grid"]
)
def test_unknown_sizes_and_saving(shape, tmp_path):
    inputs = keras.Input(shape)
    outputs = SqueezeExcitation(2)(inputs)
    assert outputs.shape == (None, *shape)
    model = keras.Model(inputs, outputs)
    check_saving(model, random(2, 5, 3, *shape[2:]), tmp_path)
    other = random(3, 2, 4, *shape[2:]).astype("float32")
    weights = [numpy(weight) for weight in model.weights]
    np.testing.assert_allclose(
        numpy(model(other)), oracle(other, weights), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits(dtype):
    shape = SHAPES["grid"]
    layer = made(shape, dtype=dtype)
    inputs = 300.0 * random(*shape)  # whose squares float16 cannot hold
    result = layer(inputs.astype("float32"))
    compute_dtype = dtype.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(result.dtype) == compute_dtype
    expected = numpy(made(shape)(inputs))
    np.testing.assert_allclose(numpy(result), expected, rtol=0.1, atol=0.1)


def test_zeros_have_a_gradient():
    layer = made(SHAPES["capsules"])
    slopes = gradient(
        lambda x: ops.sum(layer(x)), np.zeros(SHAPES["capsules"], "float32")
    )
    assert np.isfinite(slopes).all() and slopes.any()


# Pairs of poses and activations.


@pytest.mark.parametrize("grid", [(), (5, 3)], ids=["capsules", "grid"])
@pytest.mark.parametrize("pose", [(4,), (4, 2)], ids=["vectors", "matrices"])
def test_pairs_weigh_activations(grid, pose, tmp_path):
    unknown = (None,) * len(grid)
    inputs = keras.Input((*unknown, 7, *pose)), keras.Input((*unknown, 7))
    outputs = SqueezeExcitation(2, kernel_initializer="he_normal")(inputs)
    assert [each.shape for each in outputs] == [each.shape for each in inputs]
    model = keras.Model(inputs, outputs)
    poses = random(2, *grid, 7, *pose).astype("float32")
    activations = np.random.default_rng(5).uniform(0, 1, (2, *grid, 7))
    activations = activations.astype("float32")
    check_saving(model, [poses, activations], tmp_path)
    same, weighed = map(numpy, model([poses, activations]))
    np.testing.assert_array_equal(same, poses)
    # As if they were the channels of an image.
    maps = activations if grid else activations[:, None, None]
    weights = [numpy(weight) for weight in model.weights]
    expected = oracle(maps, weights).reshape(activations.shape)
    np.testing.assert_allclose(weighed, expected, rtol=1e-5, atol=1e-6)


# Errors.


@values(NOT_POSITIVE_INTEGERS)
def test_invalid_ratio_raises(value):
    with pytest.raises(ValueError, match=invalid("ratio", "a positive")):
        SqueezeExcitation(value)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("activation", "activation function"),
        ("gate_activation", "activation function"),
        ("kernel_initializer", "initializer"),
        ("bias_initializer", "initializer"),
    ],
)
def test_unknown_name_raises(name, kind):
    with pytest.raises(ValueError, match=f"interpret {kind} identifier: no"):
        SqueezeExcitation(**{name: "no"})


@pytest.mark.parametrize(
    "shape", [(2, 7), (2, 5, 3, 7, 4, 1), (2, 5, 3, None)], ids=str
)
def test_invalid_input_raises(shape):
    with pytest.raises(ValueError, match="takes feature maps .*Received"):
        SqueezeExcitation()(keras.Input(shape[1:]))


@pytest.mark.parametrize(
    "shapes",
    [
        ((7, 4), (6,)),
        ((5, 7, 4), (5, 7)),
        ((None, 4), (None,)),
        ((7, 4), (7,), (7,)),
    ],
    ids=["types", "rank", "unknown", "three"],
)
def test_invalid_pair_raises(shapes):
    inputs = tuple(map(keras.Input, shapes))
    with pytest.raises(ValueError, match="or a pair of poses .*Received"):
        SqueezeExcitation()(inputs)


@pytest.mark.parametrize(
    "shapes",
    [((2, 5, 3, 7, 4), (2, 5, 2, 7)), ((2, 5, 3, 7, 4), (1, 5, 3, 7))],
    ids=["grid", "batch"],
)
def test_later_pairs_that_do_not_fit_raise(shapes):
    layer = SqueezeExcitation()
    layer((random(2, 5, 3, 7, 4), random(2, 5, 3, 7)))
    with pytest.raises(ValueError, match="or a pair of poses .*Received"):
        layer(tuple(random(*shape) for shape in shapes))


def test_other_types_than_before_raise():
    layer = SqueezeExcitation()
    layer((random(2, 7, 4), random(2, 7)))
    with pytest.raises(ValueError, match="expected axis 1 .* value 7"):
        layer((random(2, 6, 4), random(2, 6)))


def test_other_channels_than_before_raise():
    layer = made(SHAPES["maps"])
    with pytest.raises(ValueError, match="expected axis 3 .* value 7"):
        layer(random(2, 5, 3, 6))
