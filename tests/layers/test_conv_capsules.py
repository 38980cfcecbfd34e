"""Convolutional capsules against dense ones, window by window."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules.routing import ROUTINGS
from keras_capsules.routing import DynamicRouting
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import values

pytestmark = on_one_backend

BATCH, HEIGHT, WIDTH, TYPES, ROWS, DIM = 2, 5, 7, 3, 2, 4
NUMBER, COLUMNS = 5, 3
# Routings whose windows do not compete.
# Routings that know which input capsules several windows share, and others.
COMPETING = [name for name, cls in ROUTINGS.items() if cls().takes("windows")]
APART = [name for name in ROUTINGS if name not in COMPETING]


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def capsules(height=HEIGHT, width=WIDTH, matrix=True, pair=True):
    rows = (ROWS,) if matrix else ()
    poses = random(BATCH, height, width, TYPES, *rows, DIM)
    if not pair:
        return poses
    rng = np.random.default_rng(1)
    activations = rng.uniform(size=(BATCH, height, width, TYPES))
    return poses, activations.astype("float32")


def flatten(outputs):
    return [numpy(each) for each in keras.tree.flatten(outputs)]


def set_random(layer):
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))


def copy_weights(conv, dense, inputs):
    """Gives a dense layer the weights of a window."""
    dense(inputs)
    for one, other in zip(dense.weights, conv.weights, strict=True):
        one.assign(ops.reshape(ops.convert_to_tensor(other), one.shape))


@pytest.mark.parametrize("routing", APART + COMPETING)
@pytest.mark.parametrize("matrix", [False, True], ids=["vectors", "matrices"])
def test_one_window_over_all_is_the_dense_layer(routing, matrix):
    inputs = capsules(matrix=matrix)
    dim = (ROWS, COLUMNS) if matrix else COLUMNS
    conv = ConvCapsules2D(NUMBER, dim, (HEIGHT, WIDTH), routing=routing)
    dense = CapsuleLayer(NUMBER, dim, routing=routing)
    conv(inputs)
    set_random(conv)
    copy_weights(conv, dense, inputs)

    ours = conv(inputs, return_coupling=True)
    exact = dense(inputs, return_coupling=True)

    for one, other in zip(flatten(ours), flatten(exact), strict=True):
        np.testing.assert_allclose(
            one.reshape(other.shape), other, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("routing", APART)
def test_each_window_is_a_dense_layer(routing):
    inputs = capsules()
    conv = ConvCapsules2D(
        NUMBER, (ROWS, COLUMNS), (3, 2), strides=(2, 3), routing=routing
    )
    dense = CapsuleLayer(NUMBER, (ROWS, COLUMNS), routing=routing)
    outputs = conv(inputs)
    set_random(conv)
    outputs = flatten(conv(inputs))

    def window(row, column):
        rows, columns = slice(2 * row, 2 * row + 3), slice(3 * column, None)
        return tuple(x[:, rows, columns][:, :, :2] for x in inputs)

    copy_weights(conv, dense, window(0, 0))
    for row in range(2):
        for column in range(2):
            exact = flatten(dense(window(row, column)))
            for one, other in zip(outputs, exact, strict=True):
                np.testing.assert_allclose(
                    one[:, row, column], other, rtol=1e-4, atol=1e-5
                )


def test_identity_kernels_are_the_identity():
    """Kernel 1 and stride 1: nothing is moved to another place."""
    inputs = capsules(pair=False)
    layer = ConvCapsules2D(
        TYPES,
        (ROWS, DIM),
        1,
        routing="inverted_attention",
    )
    layer(inputs)
    kernel = np.zeros(layer.kernel.shape)  # [1, 1, types, d, types, d]
    for kind in range(TYPES):
        kernel[0, 0, kind, :, kind, :] = np.eye(DIM)
    layer.kernel.assign(kernel)

    poses, coupling = layer(inputs, return_coupling=True)

    # An output capsule gets votes from its own type alone, so it is this pose,
    # as layer normalization leaves it.
    mean = inputs.mean(axis=(-2, -1), keepdims=True)
    deviation = inputs.std(axis=(-2, -1), keepdims=True)
    share = numpy(coupling)
    share = share[..., range(TYPES), range(TYPES)][..., None, None]
    expected = (inputs - mean) / np.sqrt(deviation**2 + 1e-5 / share**2)
    np.testing.assert_allclose(numpy(poses), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("routing", APART + COMPETING)
def test_padding_is_inactive(routing):
    """Whatever it would vote, it counts for nothing."""
    inputs = capsules(3, 3, matrix=False)
    layer = ConvCapsules2D(NUMBER, COLUMNS, 3, padding="same", routing=routing)
    poses = flatten(layer(inputs))[0]
    assert poses.shape == (BATCH, 3, 3, NUMBER, COLUMNS)
    assert np.isfinite(poses).all()
    # The corner window's first row and column are padding: their matrices do
    # not matter there.
    kernel = numpy(layer.kernel)
    kernel[0] = kernel[:, 0] = 100.0
    layer.kernel.assign(kernel)
    changed = flatten(layer(inputs))[0]
    if routing in COMPETING:
        # Other windows changed, and compete for the same input capsules.
        assert np.isfinite(changed).all()
        return
    np.testing.assert_allclose(
        changed[:, 0, 0], poses[:, 0, 0], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(changed[:, 1, 1], poses[:, 1, 1], atol=0.01)


@pytest.mark.parametrize("matrix", [False, True], ids=["vectors", "matrices"])
def test_coordinates_are_added_to_votes(matrix):
    """Without kernels, votes are the coordinates; one iteration sums them."""
    inputs = np.zeros_like(capsules(matrix=matrix, pair=False))
    dim = (ROWS, COLUMNS) if matrix else COLUMNS
    layer = ConvCapsules2D(
        NUMBER,
        dim,
        (HEIGHT, WIDTH),
        routing=DynamicRouting(1),
        coordinate_addition=True,
        use_bias=False,
    )
    poses = numpy(layer(inputs))[:, 0, 0]
    number = HEIGHT * WIDTH * TYPES
    total = np.zeros((ROWS, COLUMNS)) if matrix else np.zeros((1, COLUMNS))
    place = ([0, 1], [-1, -1]) if matrix else ([0, 0], [0, 1])
    total[place] = number * 0.5 / NUMBER  # the mean place is the middle
    length = np.sqrt((total**2).sum())
    expected = total * length / (1 + length**2)
    expected = np.broadcast_to(expected.reshape(poses.shape[2:]), poses.shape)
    np.testing.assert_allclose(poses, expected, rtol=1e-4, atol=1e-6)


def test_x_is_along_the_width():
    inputs = np.zeros_like(capsules(pair=False, matrix=False))
    layer = ConvCapsules2D(
        1,
        2,
        1,
        routing=DynamicRouting(1),
        coordinate_addition=True,
        use_bias=False,
    )
    poses = numpy(layer(inputs))[0, :, :, 0]
    x = 3 * (np.arange(WIDTH) + 0.5) / WIDTH
    y = 3 * (np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT
    expected = np.stack([x + 0 * y, y + 0 * x], axis=-1)
    squared = (expected**2).sum(axis=-1, keepdims=True)
    expected *= np.sqrt(squared) / (1 + squared)
    np.testing.assert_allclose(poses, expected, rtol=1e-4, atol=1e-6)


def test_unknown_height_and_width():
    inputs = keras.Input((None, None, TYPES, DIM))
    layer = ConvCapsules2D(
        NUMBER, 3, 3, strides=2, padding="same", routing="em"
    )
    poses, activations = layer(inputs)
    assert poses.shape == (None, None, None, NUMBER, 3)
    assert activations.shape == (None, None, None, NUMBER)
    model = keras.Model(inputs, [poses, activations])
    for size in ((5, 7), (3, 4)):
        images = random(BATCH, *size, TYPES, DIM)
        grid = [-(-length // 2) for length in size]
        found = model.predict(images, verbose=0)
        assert found[0].shape == (BATCH, *grid, NUMBER, 3)
        assert found[1].shape == (BATCH, *grid, NUMBER)


def test_shapes_without_data():
    layer = ConvCapsules2D(NUMBER, (ROWS, COLUMNS), 3, routing="em")
    shapes = ((None, 5, 7, TYPES, ROWS, DIM), (None, 5, 7, TYPES))
    assert layer.compute_output_shape(shapes) == (
        (None, 3, 5, NUMBER, ROWS, COLUMNS),
        (None, 3, 5, NUMBER),
    )
    (poses, activations), coupling = layer(
        tuple(keras.Input(shape[1:]) for shape in shapes), return_coupling=True
    )
    assert poses.shape == (None, 3, 5, NUMBER, ROWS, COLUMNS)
    assert activations.shape == (None, 3, 5, NUMBER)
    assert coupling.shape == (None, 3, 5, 9 * TYPES, NUMBER)


# Errors.


@values(NOT_POSITIVE_INTEGERS)
def test_invalid_kernel_size_raises(value):
    with pytest.raises(ValueError, match=invalid("kernel_size", "a positive")):
        ConvCapsules2D(3, 2, value)


@values({"zero": 0, "pair": (1, 0), "three": (1, 1, 1)})
def test_invalid_strides_raise(value):
    with pytest.raises(ValueError, match=invalid("strides", "a positive")):
        ConvCapsules2D(3, 2, 3, strides=value)


def test_invalid_padding_raises():
    with pytest.raises(ValueError, match=invalid("padding", "one of 'valid'")):
        ConvCapsules2D(3, 2, 3, padding="full")


@pytest.mark.parametrize(
    "shape",
    [(2, 5, 7, 3), (2, 5, 7, 3, 4, 4), (2, 5, 7, None, 4)],
    ids=str,
)
def test_another_rank_raises(shape):
    with pytest.raises(ValueError, match="takes capsules on a grid"):
        ConvCapsules2D(3, 2, 3).compute_output_shape(shape)


def test_a_grid_smaller_than_the_window_raises():
    with pytest.raises(ValueError, match="smaller than the window"):
        ConvCapsules2D(3, 2, 3).compute_output_shape((None, 5, 2, 3, 4))
