"""Dense capsules with poses and activations, vectors and matrices."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules2D
from keras_capsules import ConvCapsules3D
from keras_capsules import MatrixPrimaryCapsules
from keras_capsules.routing import DynamicRouting
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

BATCH, HEIGHT, WIDTH, TYPES, ROWS, DIM = 2, 3, 5, 7, 2, 4
NUMBER, COLUMNS = 5, 3


def window_layer(*arguments, **options):
    return ConvCapsules2D(*arguments, kernel_size=2, **options)


def capsules(matrix=True):
    random = np.random.default_rng(0)
    rows = (ROWS,) if matrix else ()
    poses = random.normal(size=(BATCH, HEIGHT, WIDTH, TYPES, *rows, DIM))
    activations = random.uniform(size=poses.shape[:4])
    return poses.astype("float32"), activations.astype("float32")


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("matrix", [False, True], ids=["vectors", "matrices"])
def test_poses_and_activations(matrix, share):
    """Self-routing with its initial weights: plain weighted means."""
    poses, activations = capsules(matrix)
    dim = (ROWS, COLUMNS) if matrix else COLUMNS
    layer = CapsuleLayer(
        NUMBER, dim, routing="self_routing", share_over_positions=share
    )
    found, active = layer((poses, activations))

    kernel = numpy(layer.kernel)
    number = HEIGHT * WIDTH * TYPES
    assert kernel.shape[0] == (TYPES if share else number)
    if share:
        kernel = np.tile(kernel, (HEIGHT * WIDTH, 1, 1, 1))
    poses = poses.reshape(BATCH, number, -1, DIM)
    votes = np.einsum("bipd,idje->bijpe", poses, kernel)
    weights = activations.reshape(BATCH, number)
    expected = np.einsum("bi,bijpe->bjpe", weights, votes)
    expected /= weights.sum(axis=1)[:, None, None, None]
    np.testing.assert_allclose(
        numpy(found).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(numpy(active), 1 / NUMBER, rtol=1e-5)


def test_a_vectors_length_is_its_activation():
    poses, _ = capsules(matrix=False)
    poses *= 0.3
    lengths = np.sqrt((poses**2).sum(axis=-1) + 1e-7)
    layer, copy = (
        CapsuleLayer(NUMBER, COLUMNS, routing="em") for _ in range(2)
    )
    layer(poses)
    copy((poses, lengths))
    copy.set_weights(layer.get_weights())
    for one, other in zip(layer(poses), copy((poses, lengths)), strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-5)


def test_vector_routings_take_pairs_too():
    poses, activations = capsules()
    layer = CapsuleLayer(NUMBER, (ROWS, COLUMNS))
    found = layer((poses, activations))
    assert found.shape == (BATCH, NUMBER, ROWS, COLUMNS)
    assert layer.bias.shape == (NUMBER, ROWS, COLUMNS)
    norms = np.sqrt((numpy(found) ** 2).sum(axis=(2, 3)))
    assert (norms < 1).all()


# Self-routing alone does not look at the poses of the last layer.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_network_of_pairs_trains_and_is_saved(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((HEIGHT, WIDTH, 3)),
            MatrixPrimaryCapsules(TYPES, (ROWS, DIM)),
            CapsuleLayer(
                NUMBER,
                (ROWS, COLUMNS),
                routing="self_routing",
                share_over_positions=True,
                coordinate_addition=True,
            ),
            CapsuleLength(),
        ]
    )
    model.compile("sgd", "mse")
    random = np.random.default_rng(0)
    images = random.normal(size=(BATCH, HEIGHT, WIDTH, 3)).astype("float32")
    before = model.predict(images, verbose=0)
    assert before.shape == (BATCH, NUMBER)
    model.fit(images, np.eye(NUMBER)[:BATCH], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    after = model.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), after)
    assert np.abs(after - before).max() > 0


def test_length_of_a_pair_is_its_activations():
    poses, activations = capsules()
    layer = CapsuleLength()
    np.testing.assert_array_equal(
        numpy(layer((poses, activations))), activations
    )
    inputs = keras.Input(poses.shape[1:]), keras.Input(activations.shape[1:])
    assert layer(inputs).shape == (None, HEIGHT, WIDTH, TYPES)
    with pytest.raises(ValueError, match="or a pair of poses and activations"):
        CapsuleLength().compute_output_shape([(None, 2), (None, 2)])


def test_length_of_matrices():
    poses, _ = capsules()
    found = CapsuleLength(axis=(-2, -1))(poses)
    expected = np.sqrt((poses**2).sum(axis=(-2, -1)) + 1e-7)
    np.testing.assert_allclose(numpy(found), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"`axis`. Expected -1 or \(-2, -1\)"):
        CapsuleLength(axis=1)


def test_matrices_without_activations_all_count_but_padding():
    inputs = np.ones((1, 3, 3, 1, 2, 2), "float32")
    layer = ConvCapsules2D(1, (2, 2), 3, padding="same", routing="em")
    pair = layer((inputs, inputs[..., 0, 0]))
    alone = ConvCapsules2D(1, (2, 2), 3, padding="same", routing="em")
    alone(inputs)
    alone.set_weights(layer.get_weights())
    for one, other in zip(alone(inputs), pair, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-5)
    corner = numpy(alone(inputs)[0])[0, 0, 0]
    middle = numpy(alone(inputs)[0])[0, 1, 1]
    assert np.abs(corner).sum() > 0.1 * np.abs(middle).sum()


# Errors.


def test_a_bias_that_no_routing_adds_raises():
    with pytest.raises(ValueError, match=r"adds no bias.* Received: use_bias"):
        CapsuleLayer(3, 2, routing="em", use_bias=True)
    assert not CapsuleLayer(3, 2, routing="em").use_bias
    assert not CapsuleLayer(3, 2, routing="em", use_bias=False).use_bias
    assert CapsuleLayer(3, 2).use_bias


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 7, 3, 4), (2, 5)],
        [(2, 7, 4), (2, 7)],  # vectors
        [(2, 7, 3, 4), (2, 7, 1)],
    ],
    ids=str,
)
def test_activations_of_another_shape_raise(shapes):
    layer = CapsuleLayer(5, (3, 2), routing="em")
    with pytest.raises(ValueError, match="one activation for each pose"):
        layer.compute_output_shape(shapes)


def test_another_number_of_rows_raises():
    layer = CapsuleLayer(5, (3, 2))
    with pytest.raises(ValueError, match="same number of rows"):
        layer.compute_output_shape((2, 7, 2, 4))


@pytest.mark.parametrize("dim", [(0, 2), (2, 2, 2), (2.0, 1), (2,)], ids=str)
def test_invalid_capsule_dim_raises(dim):
    with pytest.raises(ValueError, match="argument `capsule_dim`"):
        CapsuleLayer(5, dim)


@pytest.mark.parametrize(
    "dim, grid",
    [
        (1, (3, 2)),
        ((1, 4), (3, 2)),
        (2, (3, 2, 2)),
        ((2, 4), (3, 2, 2)),
    ],
    ids=str,
)
def test_poses_too_small_for_coordinates_raise(dim, grid):
    layer = CapsuleLayer(5, dim, coordinate_addition=True)
    pose = (dim[0], 3) if isinstance(dim, tuple) else (3,)
    message = f"added to {len(grid)} numbers of a pose.* Received: capsule_dim"
    with pytest.raises(ValueError, match=message):
        layer.compute_output_shape((2, *grid, 7, *pose))
    conv = {2: ConvCapsules2D, 3: ConvCapsules3D}[len(grid)]
    with pytest.raises(ValueError, match=message):
        conv(5, dim, 2, coordinate_addition=True)


@pytest.mark.parametrize("grid", [(), (2, 2, 2, 2)], ids=str)
def test_coordinates_without_a_grid_raise(grid):
    layer = CapsuleLayer(5, 2, coordinate_addition=True)
    message = f"on a grid.* Received: {len(grid)} such axes"
    with pytest.raises(ValueError, match=message):
        layer.compute_output_shape((2, *grid, 7, 3))


@pytest.mark.parametrize(
    "name", ["share_over_positions", "coordinate_addition"]
)
def test_booleans(name):
    assert getattr(CapsuleLayer(5, 2, **{name: 1}), name) is True
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        CapsuleLayer(5, 2, **{name: "True"})


def test_outputs_are_for_routings_that_take_them():
    poses, _ = capsules(matrix=False)
    layer = CapsuleLayer(NUMBER, COLUMNS, routing=DynamicRouting())
    outputs = layer(poses)
    with pytest.raises(ValueError, match="cannot start from earlier outputs"):
        layer(poses, outputs=outputs)


@pytest.mark.parametrize(
    "make, shape",
    [
        (CapsuleLayer, (BATCH, COLUMNS, NUMBER)),
        (CapsuleLayer, (1, NUMBER, COLUMNS)),
        (CapsuleLayer, (NUMBER, COLUMNS)),
        (window_layer, (BATCH, WIDTH - 1, HEIGHT - 1, NUMBER, COLUMNS)),
        (window_layer, (BATCH * 8, NUMBER, COLUMNS)),
    ],
    ids=["axes", "batch", "rank", "grid", "no grid"],
)
def test_outputs_of_another_shape_raise(make, shape):
    poses, _ = capsules(matrix=False)
    layer = make(NUMBER, COLUMNS, routing="inverted_attention")
    outputs = np.ones(shape, "float32")
    message = r"Expected outputs as the layer.*Received: outputs.shape=\("
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            layer(poses, outputs=outputs)
        layer(poses)
    symbolic = [
        keras.Input(each.shape[1:], batch_size=len(each))
        for each in (poses, outputs)
    ]
    with pytest.raises(ValueError, match=message):
        layer(symbolic[0], outputs=symbolic[1])


@pytest.mark.parametrize("routing", ["em", "self_routing", "dynamic"])
def test_later_pairs_that_do_not_fit_raise(routing):
    poses, activations = capsules(matrix=False)
    layer = CapsuleLayer(NUMBER, COLUMNS, routing=routing)
    layer((poses, activations))
    with pytest.raises(ValueError, match=r"one activation for each pose.*=\("):
        layer((poses, activations[:1]))
    layer = window_layer(NUMBER, COLUMNS, routing=routing)
    layer((poses, activations))
    with pytest.raises(ValueError, match=r"one activation for each pose.*=\("):
        layer((poses[:, :, :4], activations))


def test_lengths_of_activations_that_do_not_fit_raise():
    shapes = [(2, 10, 4, 4), (2, 7)]
    with pytest.raises(ValueError, match="or a pair of poses"):
        CapsuleLength().compute_output_shape(shapes)
