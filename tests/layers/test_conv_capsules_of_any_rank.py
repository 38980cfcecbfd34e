"""Convolutional capsules on signals, images and volumes."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules1D
from keras_capsules import ConvCapsules2D
from keras_capsules import ConvCapsules3D
from keras_capsules.routing import ROUTINGS
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsules import assert_all_close
from tests.helpers.capsules import conv_capsules
from tests.helpers.capsules import flatten
from tests.helpers.capsules import pair
from tests.helpers.capsules import random
from tests.helpers.capsules import set_random_weights
from tests.helpers.capsules import squash
from tests.helpers.capsules import weights_of
from tests.helpers.capsules import with_random_weights
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import BACKEND
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

CLASSES = {1: ConvCapsules1D, 2: ConvCapsules2D, 3: ConvCapsules3D}
TYPES, INPUT_DIM, NUMBER, DIM = 2, 3, 5, 7

CASES = {
    # Grid, kernel size, strides, padding.
    "signal": ((11,), (3,), (2,), "valid"),
    "signal-same": ((7,), (5,), (3,), "same"),
    "image": ((5, 4), (3, 2), (1, 2), "valid"),
    "image-same": ((3, 5), (2, 3), (2, 1), "same"),
    "volume": ((3, 5, 4), (2, 3, 1), (1, 2, 3), "valid"),
    "volume-same": ((3, 2, 4), (3, 2, 2), (2, 1, 3), "same"),
}
cases = pytest.mark.parametrize(
    "grid, kernel_size, strides, padding", CASES.values(), ids=CASES
)
ranks = pytest.mark.parametrize("rank", CLASSES)


@cases
def test_equals_the_oracle(grid, kernel_size, strides, padding):
    capsules = random(2, *grid, TYPES, INPUT_DIM)
    layer = CLASSES[len(grid)](NUMBER, DIM, kernel_size, strides, padding)
    with_random_weights(layer, capsules.shape)
    kernel, bias = weights_of(layer)
    assert kernel.shape == (*kernel_size, TYPES, INPUT_DIM, NUMBER, DIM)
    expected = conv_capsules(capsules, kernel, bias, strides, padding)
    assert_all_close(layer(capsules), expected, 1e-3, 1e-4)
    assert layer.compute_output_shape(capsules.shape) == expected.shape
    unknown = (None, *[None] * len(grid), TYPES, INPUT_DIM)
    assert layer.compute_output_shape(unknown) == (
        *unknown[:-2],
        NUMBER,
        DIM,
    )


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("grid", [(5,), (2, 3, 4)], ids=str)
def test_one_window_over_all_is_the_dense_layer(routing, grid):
    inputs = pair(2, *grid, TYPES, INPUT_DIM)
    conv = CLASSES[len(grid)](NUMBER, DIM, grid, routing=routing)
    dense = CapsuleLayer(NUMBER, DIM, routing=routing)
    conv(inputs)
    set_random_weights(conv, 0.5)
    dense(inputs)
    for one, other in zip(dense.weights, conv.weights, strict=True):
        one.assign(ops.reshape(ops.convert_to_tensor(other), one.shape))
    ours = flatten(conv(inputs, return_coupling=True))
    exact = flatten(dense(inputs, return_coupling=True))
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_allclose(
            one.reshape(other.shape), other, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("routing", ["dynamic", "em", "variational_bayes"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("rank", [1, 3])
def test_equals_an_image_with_another_axis(routing, strides, padding, rank):
    """A signal is an image of one row, an image a volume of one slice.

    With all routings, so also the competition between windows is the same.
    """
    image = {1: (7,), 3: (5, 4)}[rank]
    poses, activations = pair(2, *image, TYPES, INPUT_DIM)
    flat = CLASSES[len(image)](
        NUMBER, DIM, 3, strides, padding, routing, coordinate_addition=False
    )
    deep = CLASSES[len(image) + 1](
        NUMBER,
        DIM,
        (1, *[3] * len(image)),
        (1, *[strides] * len(image)),
        padding,
        routing,
    )
    flat((poses, activations))
    set_random_weights(flat, 0.5)
    inputs = poses[:, None], activations[:, None]
    deep(inputs)
    for one, other in zip(deep.weights, flat.weights, strict=True):
        one.assign(ops.reshape(ops.convert_to_tensor(other), one.shape))
    ours = flatten(deep(inputs, return_coupling=True))
    exact = flatten(flat((poses, activations), return_coupling=True))
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_allclose(one[:, 0], other, rtol=1e-4, atol=1e-5)


@ranks
@pytest.mark.parametrize("matrix", [False, True], ids=["vectors", "matrices"])
@pytest.mark.parametrize("dense", [False, True], ids=["window", "dense"])
def test_coordinates(rank, matrix, dense):
    """x runs along the last axis, y along the one before, z before that."""
    grid = (2, 5, 3)[-rank:]
    pose = (3, 2) if matrix else (INPUT_DIM,)
    inputs = np.zeros((1, *grid, 1, *pose), "float32")
    options = {
        "routing": DynamicRouting(1),
        "coordinate_addition": True,
        "use_bias": False,
    }
    dim = (3, 4) if matrix else 4
    centers = [(np.arange(n) + 0.5) / n for n in grid]
    places = np.stack(np.meshgrid(*centers, indexing="ij")[::-1], axis=-1)
    sums = np.zeros((*grid, *((3, 4) if matrix else (4,))))
    if matrix:
        sums[..., :rank, -1] = places
    else:
        sums[..., :rank] = places
    if dense:
        layer = CapsuleLayer(1, dim, share_over_positions=True, **options)
        total = sums.sum(axis=tuple(range(rank)))
        np.testing.assert_allclose(
            numpy(layer(inputs))[0, 0], squash(total), rtol=1e-4, atol=1e-6
        )
        return
    layer = CLASSES[rank](1, dim, 1, **options)
    result = numpy(layer(inputs))[0, ..., 0, :]
    if matrix:
        result = numpy(layer(inputs)).reshape(*grid, 3, 4)
    for at in np.ndindex(grid):
        np.testing.assert_allclose(
            result[at], squash(sums[at]), rtol=1e-4, atol=1e-6
        )


@needs_float64
@pytest.mark.parametrize("name", ["signal-same", "volume-same"])
@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_gradient(name, routing):
    grid, kernel_size, strides, padding = CASES[name]
    capsules = random(2, *grid, TYPES, INPUT_DIM)
    layer = CLASSES[len(grid)](
        NUMBER,
        DIM,
        kernel_size,
        strides,
        padding,
        routing,
        coordinate_addition=True,
        dtype="float64",
    )
    layer.build(capsules.shape)
    set_random_weights(layer, 0.5)

    def loss(capsules):
        return sum(
            ops.sum(ops.sin(each))
            for each in keras.tree.flatten(layer(capsules))
        )

    slopes = gradient(loss, capsules)
    check_slopes(loss, [slopes], capsules, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "rank",
    [
        1,
        pytest.param(
            3,
            marks=pytest.mark.skipif(
                BACKEND == "torch",
                reason="Keras tries unknown sizes on a grid of 83 x 83 x 83",
            ),
        ),
    ],
)
@pytest.mark.parametrize(
    "routing", ["dynamic", pytest.param("em", marks=pytest.mark.slow)]
)
def test_unknown_sizes_matrices_and_saving(rank, routing, tmp_path):
    inputs = keras.Input((*[None] * rank, TYPES, 3, INPUT_DIM))
    layer = CLASSES[rank](
        NUMBER,
        (3, 2),
        2,
        2,
        "same",
        routing,
        coordinate_addition=True,
    )
    outputs, coupling = layer(inputs, return_coupling=True)
    assert coupling.shape == (
        *[None] * (rank + 1),
        2**rank * TYPES,
        NUMBER,
    )
    model = keras.Model(inputs, [*keras.tree.flatten(outputs), coupling])
    check_saving(model, random(2, *[3] * rank, TYPES, 3, INPUT_DIM), tmp_path)
    for grid in ((3, 4, 2), (2, 5, 3)):
        capsules = random(2, *grid[:rank], TYPES, 3, INPUT_DIM)
        capsules = capsules.astype("float32")
        known = CLASSES[rank].from_config(layer.get_config())
        known.build(capsules.shape)
        known.set_weights(layer.get_weights())
        assert_all_close(
            model.predict(capsules, verbose=0),
            known(capsules, return_coupling=True),
        )


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits(rank, dtype):
    capsules = random(2, *[4] * rank, TYPES, INPUT_DIM)
    exact = CLASSES[rank](NUMBER, DIM, 3, routing="em")
    rounded = CLASSES[rank](NUMBER, DIM, 3, routing="em", dtype=dtype)
    for layer in (exact, rounded):
        layer.build(capsules.shape)
    rounded.set_weights(exact.get_weights())
    for one, other in zip(rounded(capsules), exact(capsules), strict=True):
        assert keras.backend.standardize_dtype(one.dtype) in dtype
        np.testing.assert_allclose(
            numpy(one), numpy(other), rtol=0.05, atol=0.1
        )


# Errors.


@pytest.mark.parametrize(
    "rank, shape, expected",
    [
        (1, (2, 5, 7, 3, 4), "length, types, dim"),
        (3, (2, 5, 7, 3, 4), "depth, height, width, types, dim"),
    ],
)
def test_another_rank_raises(rank, shape, expected):
    message = f"ConvCapsules{rank}D takes capsules on a grid.*{expected}.*Recei"
    with pytest.raises(ValueError, match=message):
        CLASSES[rank](3, 2, 2).compute_output_shape(shape)


@pytest.mark.parametrize("name", ["kernel_size", "strides"])
@pytest.mark.parametrize(
    "rank, value", [(1, (2, 2)), (3, (2, 2)), (3, (2, 2, 0)), (1, "3")]
)
def test_sizes_for_another_rank_raise(name, rank, value):
    sizes = {"kernel_size": 2, name: value}
    message = f"`{name}`. Expected .* tuple of {rank} of them. Received: {name}"
    with pytest.raises(ValueError, match=message):
        CLASSES[rank](3, 2, **sizes)
