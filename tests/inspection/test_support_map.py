"""Maps of support, held against networks made by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import MatrixPrimaryCapsules
from keras_capsules import inspection
from keras_capsules.inspection import supports
from keras_capsules.inspection.painter import Painter
from keras_capsules.models import CapsuleNetwork
from tests.helpers import networks
from tests.helpers.by_hand import classes_of
from tests.helpers.by_hand import primary
from tests.helpers.by_hand import with_kernel
from tests.helpers.testing import on_one_backend


def whole(kernel=1.0, size=(9, 11), layer=None):
    """One capsule of the whole image, or of the features of a layer."""
    images = keras.Input((*size, 1))
    x = images if layer is None else layer(images)
    window = tuple(x.shape[1:3])
    x = primary(x.shape[1:], kernel, kernel_size=window, depthwise=True)(x)
    return CapsuleNetwork(images, classes_of(x, [[[[1.0], [-1.0]]]]))


def patch(size=(9, 11)):
    image = np.zeros((*size, 1), "float32")
    image[3:5, 6:8] = [[[1], [2]], [[3], [4]]]
    return image


def test_the_map_of_a_patch_is_the_patch():
    image = patch()
    (found,) = inspection.support_map(whole(), image[None])
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, image[..., 0] / 10, rtol=1e-5)
    # What counts against the class is left out.
    kernel = np.ones((9, 11, 1, 1))
    kernel[4, 7] = -0.1
    (found,) = inspection.support_map(whole(kernel), image[None])
    image[4, 7] = 0
    np.testing.assert_allclose(found, image[..., 0] / 6, rtol=1e-5, atol=1e-8)


@on_one_backend
def test_votes_may_be_made_for_one_class_after_the_other(monkeypatch):
    model = networks.make("CapsNet")
    shape = (3, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    expected = inspection.support_map(model, images)
    for bound in (1, 3000):
        monkeypatch.setattr(supports, "_MOST_VOTES", bound)
        found = inspection.support_map(model, images)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["CapsNet", "MatrixCapsNet", "nested"])
def test_a_compiled_painter_paints_the_same(name):
    model = networks.make("CapsNet" if name == "nested" else name)
    if name == "nested":  # and with the same input as the model in it
        images = keras.Input(model.input_shape[1:])
        model = keras.Model(images, keras.Model(images, model(images))(images))
    shape = (3, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    expected = inspection.support_map(model, images)
    painter = Painter(model, compiled=True)
    for part in (slice(2), slice(2, 3)):
        found = painter.paint(images[part])
        np.testing.assert_allclose(found, expected[part], rtol=1e-3, atol=1e-5)


def test_spots_reach_as_far_as_the_next_ones():
    conv = layers.Conv2D(1, 3, strides=2, use_bias=False)
    image = np.zeros((9, 11, 1))
    image[3, 5] = 1  # the middle of one window, and in no other
    model = whole(layer=with_kernel(conv, (9, 11, 1), 1.0))
    (found,) = inspection.support_map(model, image[None])
    exact = np.zeros((9, 11))
    spot = np.array([0.25, 0.5, 0.25])
    exact[2:5, 4:7] = spot[:, None] * spot
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-8)


def halves():
    """The left half is class 0, the right one class 1, three times as much."""
    images = keras.Input((3, 6, 1))
    x = primary((3, 6, 1), kernel_size=3, strides=3)(images)
    kernel = np.zeros((2, 1, 2, 1))
    kernel[0, 0, 0] = kernel[1, 0, 1] = 1
    return keras.Model(images, CapsuleLength()(classes_of(x, kernel)))


@on_one_backend
def test_maps_of_chosen_classes():
    image = np.ones((3, 6, 1))
    image[:, 3:] = 3
    images = np.stack([image, image[:, ::-1]])
    left, right = np.zeros((2, 3, 6))
    left[:, :3] = right[:, 3:] = 1 / 9
    winning = inspection.support_map(halves(), images)
    np.testing.assert_allclose(winning, [right, left], rtol=1e-5)
    zeros = inspection.support_map(halves(), images, classes=0, batch_size=1)
    np.testing.assert_allclose(zeros, [left, left], rtol=1e-5)
    both = inspection.support_map(halves(), images, [0, 1], batch_size=1)
    np.testing.assert_allclose(both, [left, right], rtol=1e-5)


@on_one_backend
def test_nothing_supports_nothing():
    images = np.zeros((3, 9, 11, 1), "float32")
    images[1] = patch()
    found = inspection.support_map(whole(), images)
    np.testing.assert_array_equal(found[[0, 2]], 0)
    np.testing.assert_allclose(found[1].sum(), 1, rtol=1e-5)
    assert inspection.support_map(whole(), images[:0]).shape == (0, 9, 11)


@on_one_backend
def test_a_network_of_nan():
    network, images = whole(kernel=np.nan), np.ones((2, 9, 11, 1), "float32")
    with pytest.raises(ValueError, match="a model whose training has not fail"):
        inspection.support_map(network, images)
    with pytest.raises(ValueError, match="a model whose training has not fail"):
        inspection.parse_tree(network, images[0])


@on_one_backend
def test_capsules_on_a_grid_of_ones_own():
    images = keras.Input((4, 6, 1))
    x = layers.AveragePooling2D(2)(images)
    x = layers.Reshape((2, 3, 1, 1))(x)
    kernel = np.arange(6).reshape(6, 1, 1, 1)
    model = keras.Model(images, classes_of(x, kernel))
    (found,) = inspection.support_map(model, np.ones((1, 4, 6, 1)))
    # Middles are at 0.5 and 2.5, in pixels; spots reach 2 pixels far.
    near = np.array([1.5, 1.5, 0.5, 0])[:4]
    rows = np.stack([near, near[::-1]])
    columns = np.zeros((3, 6))
    columns[0, :3] = columns[2, :2:-1] = near[:3]
    columns[1, 1:5] = [0.5, 1.5, 1.5, 0.5]
    rows = rows / rows.sum(axis=1, keepdims=True)
    columns = columns / columns.sum(axis=1, keepdims=True)
    exact = np.einsum("hw,hy,wx->yx", np.arange(6).reshape(2, 3), rows, columns)
    np.testing.assert_allclose(found, exact / 15, rtol=1e-5, atol=1e-8)


@on_one_backend
def test_the_window_of_matrix_capsules():
    images = keras.Input((3, 3, 1))
    layer = MatrixPrimaryCapsules(1, (1, 1), 3)
    poses, activations = layer(images)
    capsules = CapsuleLayer(2, (1, 1), "em")((poses, activations))
    model = CapsuleNetwork(images, capsules)
    kernel = np.array([[0, 1, 0], [2, -5, 0], [0, 3, 0]], "float32")
    layer.activation_kernel.assign(kernel[:, :, None, None])
    (found,) = inspection.support_map(model, np.ones((1, 3, 3, 1)))
    # What makes the capsule active.
    np.testing.assert_allclose(
        found, np.maximum(kernel, 0) / 6, rtol=1e-5, atol=1e-8
    )


@on_one_backend
def test_another_number_of_classes():
    with pytest.raises(ValueError, match="2 classes for 5 images"):
        inspection.support_map(
            networks.make("CapsNet"), networks.images(), [0, 1]
        )


@on_one_backend
def test_progress(capsys):
    model, images = networks.make("CapsNet"), networks.images()
    inspection.support_map(model, images, batch_size=2)
    assert capsys.readouterr().out == ""
    inspection.support_map(model, images, batch_size=2, verbose=1)
    assert "5/5" in capsys.readouterr().out
