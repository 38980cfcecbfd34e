"""Transposed convolutional capsules against loops in NumPy."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2DTranspose
from keras_capsules.routing import ROUTINGS
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsules import assert_all_close
from tests.helpers.capsules import flatten
from tests.helpers.capsules import pair
from tests.helpers.capsules import random
from tests.helpers.capsules import route_votes
from tests.helpers.capsules import set_random_weights
from tests.helpers.capsules import weights_of
from tests.helpers.capsules import with_random_weights
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import BACKEND
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import SLOW_ON_JAX
from tests.helpers.testing import check_saving
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import slow_on_jax
from tests.helpers.testing import values

SHAPE = (2, 3, 5, 7, 2)  # batch, height, width, types, dim
NUMBER, DIM = 3, 11

CASES = {
    # Kernel size, strides, padding.
    "segcaps": ((4, 4), (2, 2), "same"),
    "valid": ((3, 2), (2, 3), "valid"),
    "same": ((3, 5), (2, 1), "same"),
    "gaps": ((1, 2), (3, 2), "same"),
    "stride-1": ((3, 3), (1, 1), "same"),
    "stride-1-valid": ((2, 3), (1, 1), "valid"),
}
cases = pytest.mark.parametrize(
    "kernel_size, strides, padding", CASES.values(), ids=CASES
)


def votes_of(example, kernel, strides, padding):
    """The votes of an example, `[h, w, types, j, e]`."""
    size, windows = example.shape[:2], kernel.shape[:2]
    full = [
        (n - 1) * step + window
        for n, step, window in zip(size, strides, windows, strict=True)
    ]
    grid = [
        n * step + (max(window - step, 0) if padding == "valid" else 0)
        for n, step, window in zip(size, strides, windows, strict=True)
    ]
    # Room for all, to be cropped.
    room = [max(pair) for pair in zip(full, grid, strict=True)]
    votes = np.zeros((*room, example.shape[2], *kernel.shape[-2:]))
    for y, x, i in np.ndindex(example.shape[:3]):
        for down, right in np.ndindex(windows):
            matrices = kernel[down, right, i % kernel.shape[2]]
            at = y * strides[0] + down, x * strides[1] + right
            votes[*at, i] += np.einsum("d,dje->je", example[y, x, i], matrices)
    if padding == "same":
        top, left = (
            max(window - step, 0) // 2
            for window, step in zip(windows, strides, strict=True)
        )
        votes = votes[top:, left:]
    return votes[: grid[0], : grid[1]]


def oracle(capsules, kernel, bias, strides, padding, num_iterations=3):
    results = []
    for example in capsules:
        votes = votes_of(example, kernel, strides, padding)
        results.append(
            [
                [route_votes(each, bias, num_iterations)[0] for each in row]
                for row in votes
            ]
        )
    return np.array(results)


@cases
@pytest.mark.parametrize(
    "share",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["shared", "own"],
)
def test_equals_the_oracle(kernel_size, strides, padding, share):
    capsules = random(*SHAPE)
    layer = ConvCapsules2DTranspose(
        NUMBER,
        DIM,
        kernel_size,
        strides,
        padding,
        share_over_types=share,
    )
    with_random_weights(layer, SHAPE)
    kernel, bias = weights_of(layer)
    types = 1 if share else SHAPE[3]
    assert kernel.shape == (*kernel_size, types, SHAPE[4], NUMBER, DIM)
    expected = oracle(capsules, kernel, bias, strides, padding)
    assert layer.compute_output_shape(SHAPE) == expected.shape
    outputs, coupling = layer(capsules, return_coupling=True)
    assert_all_close(outputs, expected, 1e-3, 1e-4)
    assert coupling.shape == (*expected.shape[:3], SHAPE[3], NUMBER)
    np.testing.assert_allclose(numpy(coupling).sum(axis=-1), 1, rtol=1e-5)


@slow_on_jax
@cases
def test_votes_are_a_transposed_convolution(kernel_size, strides, padding):
    """With one output and one iteration, votes are added up over types."""
    capsules = random(*SHAPE).astype("float32")
    layer = ConvCapsules2DTranspose(
        1,
        DIM,
        kernel_size,
        strides,
        padding,
        routing=DynamicRouting(1),
        use_bias=False,
    )
    with_random_weights(layer, SHAPE)
    kernel = numpy(layer.kernel)[:, :, 0, :, 0]  # [h, w, d, e]
    sums = numpy(
        ops.conv_transpose(
            capsules.sum(axis=3),
            np.swapaxes(kernel, 2, 3),
            strides,
            padding,
            data_format="channels_last",
        )
    )
    length = np.sqrt((sums**2).sum(axis=-1, keepdims=True) + 1e-7)
    expected = sums * length / (1 + length**2)
    result = numpy(layer(capsules))[..., 0, :]
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(
    "matrix",
    [False, pytest.param(True, marks=SLOW_ON_JAX)],
    ids=["vectors", "matrices"],
)
def test_windows_of_one_are_a_dense_layer(routing, matrix):
    """With kernel size 1, each position is routed by itself."""
    poses, activations = pair(2, 3, 2, 7, 5)
    if matrix:
        poses = random(2, 3, 2, 7, 3, 5).astype("float32")
    dim = (3, DIM) if matrix else DIM
    layer = ConvCapsules2DTranspose(
        NUMBER, dim, 1, routing=routing, share_over_types=False
    )
    layer((poses, activations))
    set_random_weights(layer, 0.5)
    dense = CapsuleLayer(NUMBER, dim, routing=routing)
    rows = poses.reshape(-1, *poses.shape[3:]), activations.reshape(-1, 7)
    dense(rows)
    for one, other in zip(dense.weights, layer.weights, strict=True):
        one.assign(ops.reshape(ops.convert_to_tensor(other), one.shape))
    ours = flatten(layer((poses, activations)))
    exact = flatten(dense(rows))
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_allclose(
            one.reshape(other.shape), other, rtol=1e-4, atol=1e-5
        )


def test_the_most_active_capsule_in_a_window_counts():
    poses, activations = pair(1, 2, 2, 1, 3)
    layer = ConvCapsules2DTranspose(1, 2, 2, 1, "same", routing="self_routing")
    layer((poses, activations))
    # Output (1, 1) sees all four, output (0, 0) the first alone. Its activation
    # does not show in the output, but 0 would.
    active = activations.copy()
    active[0, 0, 0] = 0.0
    ours = numpy(layer((poses, active))[1])
    assert ours.shape == (1, 2, 2, 1)
    assert ours[0, 0, 0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(ours[0, 1, 1], 1, rtol=1e-5)


@needs_float64
@pytest.mark.parametrize("share", [True, False])
def test_gradient(share):
    capsules = random(*SHAPE)
    layer = ConvCapsules2DTranspose(
        NUMBER, DIM, 3, 2, "same", share_over_types=share, dtype="float64"
    )
    with_random_weights(layer, SHAPE)

    def loss(capsules):
        return ops.sum(ops.sin(3.0 * layer(capsules)))

    slopes = gradient(loss, capsules)
    check_slopes(loss, [slopes], capsules, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits(dtype):
    capsules = random(*SHAPE)
    exact = ConvCapsules2DTranspose(NUMBER, DIM, 4, 2, "same")
    exact.build(SHAPE)
    rounded = ConvCapsules2DTranspose(NUMBER, DIM, 4, 2, "same", dtype=dtype)
    rounded.build(SHAPE)
    rounded.set_weights(exact.get_weights())
    result = rounded(capsules)
    compute_dtype = dtype.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(result.dtype) == compute_dtype
    np.testing.assert_allclose(numpy(result), numpy(exact(capsules)), atol=0.02)


@on_one_backend
@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_unknown_sizes_and_saving(routing, tmp_path):
    inputs = keras.Input((None, None, *SHAPE[3:]))
    layer = ConvCapsules2DTranspose(
        NUMBER, DIM, 4, 2, "same", routing=routing, share_over_types=False
    )
    outputs = keras.tree.flatten(layer(inputs))
    assert outputs[0].shape == (None, None, None, NUMBER, DIM)
    model = keras.Model(inputs, outputs)
    check_saving(model, random(*SHAPE), tmp_path)
    for size in ((3, 5), (4, 2)):
        capsules = random(1, *size, *SHAPE[3:]).astype("float32")
        known = ConvCapsules2DTranspose.from_config(layer.get_config())
        known.build(capsules.shape)
        known.set_weights(layer.get_weights())
        found = model.predict(capsules, verbose=0)
        assert_all_close(found, known(capsules))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its graphs")
def test_an_empty_batch():
    layer = ConvCapsules2DTranspose(NUMBER, DIM, 4, 2, "same")
    outputs = layer(np.zeros((0, *SHAPE[1:]), "float32"))
    assert tuple(outputs.shape) == (0, 6, 10, NUMBER, DIM)


def test_uniform_sums_are_as_long_as_an_input():
    keras.utils.set_random_seed(1)
    layer = ConvCapsules2DTranspose(3, 16, 4, 2, "same", share_over_types=False)
    capsules = random(8, 9, 9, 16, 8)
    capsules *= 0.5 / np.linalg.norm(capsules, axis=-1, keepdims=True)
    layer.build(capsules.shape)
    votes = votes_of(capsules[0], numpy(layer.kernel), (2, 2), "same")
    sums = votes.sum(axis=2)[2:-2, 2:-2] / 3
    length = np.sqrt(np.mean(np.sum(sums**2, axis=-1)))
    assert length == pytest.approx(0.5, rel=0.1)


def test_config():
    layer = ConvCapsules2DTranspose(
        NUMBER, (2, 3), (4, 3), 2, "SAME", "em", share_over_types=False
    )
    config = json.loads(json.dumps(layer.get_config()))
    copy = ConvCapsules2DTranspose.from_config(config)
    assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())
    assert copy.kernel_size == (4, 3) and copy.padding == "same"
    assert copy.share_over_types is False


def test_earlier_outputs():
    layer = ConvCapsules2DTranspose(
        NUMBER, DIM, 4, 2, "same", routing="inverted_attention"
    )
    capsules = random(*SHAPE).astype("float32")
    outputs = layer(capsules)
    assert layer(capsules, outputs=outputs).shape == outputs.shape
    with pytest.raises(ValueError, match="Expected outputs as the layer"):
        layer(capsules, outputs=outputs[:, 1:])


# Errors.


@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 3), (2, 5, 7, 3, 4, 4), (2, 5, 7, None, 4)], ids=str
)
def test_another_rank_raises(shape):
    with pytest.raises(ValueError, match="takes capsules on a grid.* Received"):
        ConvCapsules2DTranspose(3, 2, 3).compute_output_shape(shape)


@values(NOT_BOOLEANS)
def test_share_over_types_is_a_boolean(value):
    message = invalid("share_over_types", "True or False")
    with pytest.raises(ValueError, match=message):
        ConvCapsules2DTranspose(3, 2, 3, share_over_types=value)


def test_coordinates_are_no_option():
    with pytest.raises(ValueError, match="Unrecognized.*coordinate_addition"):
        ConvCapsules2DTranspose(3, 2, 3, coordinate_addition=True)
