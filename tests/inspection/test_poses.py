"""Images of changed poses, held against decoders that are known."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import inspection
from keras_capsules.models import CapsNet
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models import ConvNet
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import small
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend
VALUES = [-0.3, 0.0, 0.2]


def linear(pose=(3,), is_pair=False, num_classes=2):
    """A network whose pixels are capsules, and capsules its pixels."""
    shape = (num_classes, *pose)
    size = int(np.prod(shape))
    images = keras.Input((1, size, 1))
    capsules = keras.layers.Reshape(shape)(images)
    if is_pair:
        x = keras.layers.Flatten()(capsules)
        dense = keras.layers.Dense(num_classes, use_bias=False)
        capsules = capsules, dense(x)
        # The class with the larger sum is the active one.
        dense.set_weights([np.repeat(np.eye(num_classes), size // 2, axis=0)])
    decoder = keras.Sequential([keras.layers.Reshape((1, size, 1))])
    return CapsuleNetwork(images, capsules, decoder)


def pixels(*rows):
    return np.array(rows, "float32")[:, None, :, None]


# Known decoders.


@pytest.mark.parametrize("is_pair", [False, True])
def test_a_number_of_the_winning_pose_is_changed(is_pair):
    model = linear(is_pair=is_pair)
    images = pixels([1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 1, 2])
    drawn = inspection.perturb(model, images, values=VALUES)
    assert drawn.shape == (2, 3, 3, 1, 6, 1) and drawn.dtype == "float32"
    for dimension in range(3):
        for index, value in enumerate(VALUES):
            expected = np.array([[0, 0, 0, 4, 5, 6], [7, 8, 9, 0, 0, 0]], float)
            expected[0, 3 + dimension] += value
            expected[1, dimension] += value
            np.testing.assert_allclose(
                drawn[:, dimension, index, 0, :, 0], expected, atol=1e-6
            )
    labelled = inspection.perturb(model, images, [2], [0.5], labels=[0, 1])
    np.testing.assert_allclose(
        labelled.reshape(2, 6), [[1, 2, 3.5, 0, 0, 0], [0, 0, 0, 0, 1, 2.5]]
    )


def test_numbers_of_a_matrix_are_counted_row_by_row():
    model = linear((2, 3), is_pair=True)
    images = pixels(np.arange(12), np.arange(12)[::-1])
    drawn = inspection.perturb(model, images, [4, 1], [0.5])
    assert drawn.shape == (2, 2, 1, 1, 12, 1)
    for row, dimension in enumerate((4, 1)):
        expected = np.array([[0] * 6 + [6, 7, 8, 9, 10, 11]] * 2, "float32")
        expected[1] = [11, 10, 9, 8, 7, 6] + [0] * 6
        expected[0, 6 + dimension] += 0.5
        expected[1, dimension] += 0.5
        np.testing.assert_allclose(drawn[:, row, 0, 0, :, 0], expected)


@pytest.mark.parametrize("is_pair", [False, True])
def test_the_way_from_one_pose_to_another(is_pair):
    model = linear(is_pair=is_pair)
    a = pixels([9, 8, 7, 1, 2, 3], [1, 2, 3, 9, 8, 7])
    b = pixels([4, 5, 6, 1, 1, 1], [6, 6, 6, 0, 0, 0])
    drawn = inspection.interpolate(model, a, b, steps=3)
    assert drawn.shape == (2, 3, 1, 6, 1) and drawn.dtype == "float32"
    np.testing.assert_allclose(
        drawn.reshape(2, 3, 6),
        [
            [[9, 8, 7, 0, 0, 0], [6.5, 6.5, 6.5, 0, 0, 0], [4, 5, 6, 0, 0, 0]],
            # From one class to the other.
            [[0, 0, 0, 9, 8, 7], [3, 3, 3, 4.5, 4, 3.5], [6, 6, 6, 0, 0, 0]],
        ],
        atol=1e-6,
    )
    labelled = inspection.interpolate(
        model, a, b, steps=2, labels=([1, 0], np.eye(2)[[0, 1]])
    )
    np.testing.assert_allclose(
        labelled.reshape(2, 2, 6),
        [
            [[0, 0, 0, 1, 2, 3], [4, 5, 6, 0, 0, 0]],
            [[1, 2, 3, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
        ],
    )


# Networks.


@functools.cache
def network():
    """One for all tests: tracing it takes most of their time."""
    return small()


def test_zero_is_the_reconstruction():
    model = network()
    reconstructed = model.reconstruct(IMAGES)
    drawn = inspection.perturb(model, IMAGES)
    assert drawn.shape == (7, 5, 11, 8, 8, 1)
    for dimension in range(5):
        np.testing.assert_allclose(
            drawn[:, dimension, 5], reconstructed, atol=1e-6
        )
        # Other values draw something else, the same as by hand.
        capsules = model.encode(IMAGES)
        capsules[..., dimension] += 0.15
        classes = model.predict(IMAGES, verbose=0).argmax(axis=1)
        expected = model.decode(capsules, classes)
        np.testing.assert_allclose(drawn[:, dimension, 8], expected, atol=1e-6)
        assert np.abs(drawn[:, dimension, 8] - reconstructed).max() > 1e-4
    labelled = inspection.perturb(model, IMAGES, [3], [0.0], labels=LABELS)
    np.testing.assert_allclose(
        labelled[:, 0, 0], model.reconstruct(IMAGES, LABELS), atol=1e-6
    )


def test_ends_are_reconstructions():
    model = network()
    others = IMAGES[::-1]
    drawn = inspection.interpolate(model, IMAGES, others)
    assert drawn.shape == (7, 10, 8, 8, 1)
    for end, images in ((0, IMAGES), (-1, others)):
        expected = model.reconstruct(images)
        np.testing.assert_allclose(drawn[:, end], expected, atol=1e-6)


def test_batches_lists_and_tensors():
    model, others = network(), IMAGES[::-1].copy()
    options = {"dimensions": [4, 1], "values": VALUES, "labels": LABELS}
    drawn = inspection.perturb(model, IMAGES, **options)
    way = inspection.interpolate(model, IMAGES, others, 3)
    same = inspection.perturb(model, IMAGES, **options, batch_size=17)
    np.testing.assert_allclose(same, drawn, atol=1e-6)
    same = inspection.interpolate(model, IMAGES, others, 3, batch_size=5)
    np.testing.assert_allclose(same, way, atol=1e-6)
    for form in (np.ndarray.tolist, ops.convert_to_tensor):
        same = inspection.perturb(model, form(IMAGES), **options)
        np.testing.assert_allclose(same, drawn, atol=1e-6)
        same = inspection.interpolate(model, form(IMAGES), form(others), 3)
        np.testing.assert_allclose(same, way, atol=1e-6)


def test_no_batch_is_larger_than_asked(monkeypatch):
    model = network()
    sizes = []
    for name in ("encode", "decode"):
        method = getattr(model, name)

        def counted(images, *arguments, method=method):
            sizes.append(len(images))
            return method(images, *arguments)

        monkeypatch.setattr(model, name, counted)
    inspection.perturb(model, IMAGES, [0, 2], VALUES, batch_size=4)
    inspection.interpolate(model, IMAGES, IMAGES, 3, batch_size=4)
    assert max(sizes) == 4


def test_no_images():
    model = network()
    none = IMAGES[:0]
    assert inspection.perturb(model, none).shape == (0, 5, 11, 8, 8, 1)
    assert inspection.interpolate(model, none, none).shape == (0, 10, 8, 8, 1)


def test_progress(capsys):
    model = network()
    inspection.perturb(model, IMAGES, [0], [0.1])
    assert capsys.readouterr().out == ""
    inspection.perturb(model, IMAGES, [0], VALUES, batch_size=5, verbose=1)
    assert "21/21" in capsys.readouterr().out
    inspection.interpolate(model, IMAGES, IMAGES, 2, verbose=1)
    assert "14/14" in capsys.readouterr().out


# Errors.


def refuse(match, function="perturb", **changed):
    arguments = {"model": network(), "images": IMAGES}
    if function == "interpolate":
        arguments = {"model": arguments["model"], "a": IMAGES, "b": IMAGES}
    with pytest.raises(ValueError, match=match):
        getattr(inspection, function)(**{**arguments, **changed})


@pytest.mark.parametrize("function", ["perturb", "interpolate"])
def test_other_models(function):
    other = ConvNet((8, 8, 1), 3, filters=(3,))
    refuse(
        "Expected a CapsuleNetwork.*ers of your own. Rec", function, model=other
    )
    model = CapsNet((8, 8, 1), 3, filters=4, decoder_units=None)
    refuse("without a decoder. Received: decoder", function, model=model)
    inputs = [keras.Input((3, 4)), keras.Input((3, 4))]
    model = CapsuleNetwork(inputs, keras.layers.Add()(inputs))
    refuse("`model`. Expected one input", function, model=model)


def test_invalid_images():
    refuse(r"`images` of shape \(batch, 8, 8, 1\)", images=IMAGES[:, 1:])
    refuse(r"`b` of shape", "interpolate", b=IMAGES[:, 1:])
    refuse("7 images in a, 6 in b", "interpolate", b=IMAGES[1:])


def test_invalid_labels():
    refuse("`labels` has labels out of range", labels=np.full(7, 3))
    one_class = "name one class for each image.*Received: {}="
    for labels in (np.ones((7, 3)), np.full((7, 3), 0.5), np.zeros((7, 3))):
        refuse(one_class.format("labels"), labels=labels)
    for labels in (LABELS, (LABELS,), 3):
        refuse("`labels`. Expected a pair", "interpolate", labels=labels)
    refuse(
        one_class.format(r"labels\[1\]"),
        "interpolate",
        labels=(LABELS, np.ones((7, 3))),
    )


@pytest.mark.parametrize("value", [[], [5], [-1], [0.5], ["a"], 3, "all"])
def test_invalid_dimensions(value):
    refuse("`dimensions`. Expected integers from 0 to 4", dimensions=value)


@pytest.mark.parametrize("value", [[], [np.nan], ["a"], [[0.1]], 0.5])
def test_invalid_values(value):
    refuse("`values`. Expected a sequence of finite numbers", values=value)


@pytest.mark.parametrize("function", ["perturb", "interpolate"])
def test_invalid_numbers(function):
    refuse("`batch_size`. Expected a positive", function, batch_size=0)
    refuse("`verbose`. Expected True or False", function, verbose=2)
    if function == "interpolate":
        refuse("`steps`. Expected an integer of at least 2", function, steps=1)
