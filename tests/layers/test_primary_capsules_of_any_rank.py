"""Primary capsules, vectors and pairs, on signals, images and volumes."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import MatrixPrimaryCapsules
from keras_capsules import PrimaryCapsules
from tests.helpers.capsules import assert_all_close
from tests.helpers.capsules import places_of_windows
from tests.helpers.capsules import random
from tests.helpers.capsules import weights_of
from tests.helpers.capsules import with_random_weights
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy

CASES = {
    # Grid, kernel size, strides, padding.
    "signal": ((11,), (3,), (2,), "valid"),
    "signal-same": ((7,), (5,), (3,), "same"),
    "image": ((5, 4), (3, 2), (1, 2), "valid"),
    "volume": ((3, 5, 4), (2, 3, 1), (1, 2, 3), "valid"),
    "volume-same": ((3, 2, 4), (3, 2, 2), (2, 2, 2), "same"),
}
cases = pytest.mark.parametrize(
    "grid, kernel_size, strides, padding", CASES.values(), ids=CASES
)


def convolve(features, kernel, strides, padding):
    """A window at a time. A kernel with one filter is depthwise."""
    rank = len(strides)
    windows, grid = places_of_windows(
        features.shape[1:-1], kernel.shape[:rank], strides, padding
    )
    flat = kernel.reshape(-1, *kernel.shape[rank:])
    depthwise = flat.shape[-1] == 1
    results = [
        sum(
            features[(slice(None), *at)] * flat[place, :, 0]
            if depthwise
            else features[(slice(None), *at)] @ flat[place]
            for place, at in enumerate(window)
            if at is not None
        )
        for window in windows
    ]
    return np.stack(results, axis=1).reshape(len(features), *grid, -1)


@cases
@pytest.mark.parametrize("depthwise", [False, True])
def test_vectors(grid, kernel_size, strides, padding, depthwise):
    if depthwise:
        if len(grid) == 3:
            pytest.skip("not of volumes")
        strides = (strides[0],) * len(grid)
    features = random(2, *grid, 10 if depthwise else 7)
    layer = PrimaryCapsules(
        2, 5, kernel_size, strides, padding, depthwise, activation=None
    )
    with_random_weights(layer, features.shape)
    kernel, bias = weights_of(layer)
    expected = convolve(features, kernel, strides, padding)
    expected = expected.reshape(*expected.shape[:-1], 2, 5) + bias
    assert_all_close(layer(features), expected, 1e-4, 1e-4)
    assert layer.compute_output_shape(features.shape) == expected.shape


@cases
@pytest.mark.parametrize("capsule_dim", [5, (5, 3)], ids=str)
def test_pairs(grid, kernel_size, strides, padding, capsule_dim):
    features = random(2, *grid, 7)
    layer = MatrixPrimaryCapsules(
        2, capsule_dim, kernel_size, strides, padding, "tanh"
    )
    with_random_weights(layer, features.shape)
    names = [weight.name for weight in layer.weights]
    assert names == [
        "pose_kernel",
        "pose_bias",
        "activation_kernel",
        "activation_bias",
    ]
    pose_kernel, pose_bias, kernel, bias = weights_of(layer)
    poses = convolve(features, pose_kernel, strides, padding)
    grid = poses.shape[:-1]
    poses = poses.reshape(*grid, *pose_bias.shape) + pose_bias
    logits = convolve(features, kernel, strides, padding) + bias
    ours = layer(features)
    assert_all_close(ours, (np.tanh(poses), 1 / (1 + np.exp(-logits))))
    shapes = layer.compute_output_shape(features.shape)
    assert shapes == tuple(tuple(each.shape) for each in ours)


def test_pairs_without_a_bias():
    features = random(2, 5, 4, 3)
    layer = MatrixPrimaryCapsules(2, use_bias=False)
    with_random_weights(layer, features.shape)
    names = [weight.name for weight in layer.weights]
    assert names == ["pose_kernel", "activation_kernel"]
    poses, activations = layer(features)
    kernel, _ = weights_of(layer)
    expected = (features @ kernel[0, 0]).reshape(2, 5, 4, 2, 4, 4)
    assert_all_close(poses, expected)
    assert activations.shape == (2, 5, 4, 2)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("layer", [PrimaryCapsules, MatrixPrimaryCapsules])
def test_an_integer_is_the_size_along_all_axes(rank, layer):
    made = layer(2, 5, kernel_size=2, strides=3, padding="same")
    made.build((None, *[7] * rank, 4))
    assert tuple(made.weights[0].shape) == (*[2] * rank, 4, 10)
    shape = made.compute_output_shape((None, None, *[7] * (rank - 1), 4))
    first = shape if layer is PrimaryCapsules else shape[0]
    assert first == (None, None, *[3] * (rank - 1), 2, 5)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("layer", [PrimaryCapsules, MatrixPrimaryCapsules])
def test_unknown_sizes_and_saving(rank, layer, tmp_path):
    inputs = keras.Input((*[None] * rank, 3))
    made = layer(2, 5, kernel_size=2, strides=2, padding="same")
    model = keras.Model(inputs, made(inputs))
    for grid in ((5, 4, 3), (3, 2, 4)):
        features = random(2, *grid[:rank], 3).astype("float32")
        assert_all_close(model.predict(features, verbose=0), made(features))
    check_saving(model, features, tmp_path)


@needs_float64
@pytest.mark.parametrize("name", ["signal-same", "volume-same"])
def test_gradient(name):
    grid, kernel_size, strides, padding = CASES[name]
    features = random(2, *grid, 3)
    layer = PrimaryCapsules(
        2, 5, kernel_size, strides, padding, dtype="float64"
    )
    with_random_weights(layer, features.shape)

    def loss(features):
        return ops.sum(ops.sin(layer(features)))

    slopes = gradient(loss, features)
    check_slopes(loss, [slopes], features, rtol=1e-5, atol=1e-7)


def test_config_of_pairs():
    layer = MatrixPrimaryCapsules(
        2,
        activation="squash",
        use_bias=False,
        bias_initializer="ones",
        activation_bias_initializer="ones",
    )
    config = json.loads(json.dumps(layer.get_config()))
    copy = MatrixPrimaryCapsules.from_config(config)
    assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())
    assert copy.capsule_dim == (4, 4) and copy.use_bias is False


def test_initial_weights_of_pairs():
    keras.utils.set_random_seed(1)
    layer = MatrixPrimaryCapsules(
        64, 8, (5, 3), activation_bias_initializer="ones"
    )
    layer.build((None, 9, 9, 7))
    expected = math.sqrt(1 / (5 * 3 * 7))
    assert numpy(layer.pose_kernel).std() == pytest.approx(expected, rel=0.03)
    assert not numpy(layer.pose_bias).any()
    assert (numpy(layer.activation_bias) == 1).all()


# Errors.


@pytest.mark.parametrize("shape", [(2, 7), (2, 5, 4, 3, 2, 7)], ids=str)
def test_another_rank_raises(shape):
    message = "MatrixPrimaryCapsules takes feature maps of shape.* Received"
    with pytest.raises(ValueError, match=message):
        MatrixPrimaryCapsules(2).compute_output_shape(shape)


def test_a_size_for_another_rank_raises():
    message = r"axes \(length\).*Received: kernel_size=\(3, 3\)"
    with pytest.raises(ValueError, match=message):
        MatrixPrimaryCapsules(2, kernel_size=(3, 3)).build((2, 7, 3))
