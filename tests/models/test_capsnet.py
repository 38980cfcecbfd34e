"""Sizes, options and parameters of `CapsNet`."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.models import CapsNet
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import compiled
from tests.helpers.capsnet import numbers
from tests.helpers.capsnet import small
from tests.helpers.capsnet import weights_of
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def test_the_default_is_the_papers_network():
    model = CapsNet()
    assert model.encoder.count_params() == 6_804_384
    assert model.decoder.count_params() == 1_411_344
    assert model.count_params() == 6_804_384 + 1_411_344
    grid = model.encoder.get_layer("primary_capsules").output.shape
    assert tuple(grid) == (None, 6, 6, 32, 8)
    assert tuple(model.encoder.output_shape) == (None, 10, 16)
    assert model.compute_output_shape((5, 28, 28, 1)) == (5, 10)


def test_summary():
    lines = []
    small().summary(print_fn=lambda line, **_: lines.append(line))
    for name in ("images", "convolution", "primary_capsules", "scores"):
        assert name in "".join(lines)


def test_whatever_the_global_image_data_format():
    expected = small()
    keras.config.set_image_data_format("channels_first")
    try:
        model = small()
        model.set_weights(expected.get_weights())
        scores = numpy(model(IMAGES))
        decoded = numpy(model.reconstruct(ops.convert_to_tensor(IMAGES)))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(scores, numpy(expected(IMAGES)), atol=1e-6)
    images = ops.convert_to_tensor(IMAGES)
    np.testing.assert_allclose(
        decoded, numpy(expected.reconstruct(images)), atol=1e-6
    )


# Sizes.


@pytest.mark.parametrize(
    "image_shape, num_classes, options",
    [
        ((8, 8, 1), 1, {}),
        ((8, 8, 2), 2, {}),
        ((8, 8, 1), 37, {}),
        ((5, 5, 1), 2, {}),
        ((1, 1, 1), 2, {}),
        ((7, 11, 3), 3, {}),
        ((13, 6, 2), 3, {"kernel_size": (4, 2)}),
        ((3, 4, 1), 2, {"kernel_size": 5, "padding": "same"}),
        (
            (9, 9, 1),
            2,
            {"padding": "same", "conv_strides": 2, "primary_strides": 3},
        ),
        (
            (96, 96, 2),
            5,
            {"filters": 2, "conv_strides": 4, "primary_strides": 4},
        ),
    ],
    ids=str,
)
def test_images_and_classes_of_any_number(image_shape, num_classes, options):
    model = compiled(
        small(
            **{
                "image_shape": image_shape,
                "num_classes": num_classes,
                **options,
            }
        ),
        **QUICK,
    )
    generator = np.random.default_rng(4)
    images = generator.uniform(size=(3, *image_shape)).astype("float32")
    # With one class, `(batch, 1)` tells whether it is there.
    labels = np.array([[1], [0], [1]])
    if num_classes > 1:
        labels = np.array([0, num_classes - 1, 1])
    before = weights_of(model)
    logs = numbers(model.train_on_batch(images, labels, return_dict=True))
    assert np.isfinite(list(logs.values())).all()
    assert not np.array_equal(before[0], weights_of(model)[0])
    assert model.predict_on_batch(images).shape == (3, num_classes)
    assert tuple(model.decoder.output_shape) == (None, *image_shape)
    restored = CapsNet.from_config(model.get_config())
    assert [tuple(w.shape) for w in restored.weights] == [
        tuple(w.shape) for w in model.weights
    ]


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (1, 1, 1),
        (5, 5, 1),
        (7, 7, 1),
        (8, 8, 3),
        (8, 40, (3, 9)),
        (40, 8, (9, 3)),
        (128, 1, (9, 1)),
        (13, 13, 3),
        (14, 14, 5),
        (20, 20, 7),
        (25, 25, 7),
        (26, 26, 9),
        (28, 28, 9),
        (96, 96, 9),
    ],
)
def test_default_kernel_size(height, width, expected):
    model = small(
        image_shape=(height, width, 1),
        filters=1,
        num_primary_capsules=1,
        decoder_units=None,
    )
    expected = expected if isinstance(expected, tuple) else (expected,) * 2
    assert model.kernel_size == expected
    for name in ("convolution", "primary_capsules"):
        kernel = model.encoder.get_layer(name).kernel
        assert tuple(kernel.shape[:2]) == expected


# Options.


def primary(model):
    """`(height, width, num_capsules, capsule_dim)` of the primary capsules."""
    return tuple(model.encoder.get_layer("primary_capsules").output.shape[1:])


def windows(model):
    return tuple(
        tuple(model.encoder.get_layer(name).kernel.shape[:2])
        for name in ("convolution", "primary_capsules")
    )


def dense_sizes(model):
    return model.decoder and [
        layer.units
        for layer in model.decoder.layers
        if isinstance(layer, keras.layers.Dense)
    ]


def filters(model):
    return model.encoder.get_layer("convolution").filters


def routing(model):
    return repr(model.encoder.get_layer("class_capsules").routing)


def dtypes(model):
    return {str(layer.compute_dtype) for layer in model.layers[1:4]}


@pytest.mark.parametrize(
    "option, value, effect, default, expected",
    [
        (
            "image_shape",
            (8, 9, 2),
            lambda model: tuple(model.decoder.output_shape),
            (None, 8, 8, 1),
            (None, 8, 9, 2),
        ),
        (
            "num_classes",
            4,
            lambda model: model.compute_output_shape((2, 8, 8, 1)),
            (2, 3),
            (2, 4),
        ),
        ("filters", 6, filters, 4, 6),
        ("kernel_size", 2, windows, ((3, 3),) * 2, ((2, 2),) * 2),
        ("kernel_size", (2, 4), windows, ((3, 3),) * 2, ((2, 4),) * 2),
        ("conv_strides", 2, primary, (2, 2, 2, 4), (1, 1, 2, 4)),
        ("conv_strides", (2, 1), primary, (2, 2, 2, 4), (1, 2, 2, 4)),
        ("primary_strides", (1, 3), primary, (2, 2, 2, 4), (4, 2, 2, 4)),
        ("primary_strides", 1, primary, (2, 2, 2, 4), (4, 4, 2, 4)),
        ("padding", "same", primary, (2, 2, 2, 4), (4, 4, 2, 4)),
        ("num_primary_capsules", 3, primary, (2, 2, 2, 4), (2, 2, 3, 4)),
        ("primary_dim", 6, primary, (2, 2, 2, 4), (2, 2, 2, 6)),
        (
            "capsule_dim",
            7,
            lambda model: tuple(model.encoder.output_shape),
            (None, 3, 5),
            (None, 3, 7),
        ),
        (
            "routing",
            DynamicRouting(2, leaky=True, stop_gradient=True),
            routing,
            repr(DynamicRouting()),
            repr(DynamicRouting(2, leaky=True, stop_gradient=True)),
        ),
        ("decoder_units", [9, 8], dense_sizes, [6, 64], [9, 8, 64]),
        ("decoder_units", (), dense_sizes, [6, 64], [64]),
        ("decoder_units", None, dense_sizes, [6, 64], None),
        # What it does to the loss has a test of its own.
        (
            "reconstruction_weight",
            2,
            lambda model: model.reconstruction_weight,
            0.03,
            2.0,
        ),
        ("name", "mine", lambda model: model.name, None, "mine"),
        ("dtype", "mixed_bfloat16", dtypes, {"float32"}, {"bfloat16"}),
        (
            "trainable",
            False,
            lambda model: len(model.trainable_variables),
            10,
            0,
        ),
    ],
)
def test_options(option, value, effect, default, expected):
    if default is not None:
        assert effect(small()) == default
    model = small(**{option: value})
    assert effect(model) == expected
    # As JSON, for that is what a file holds.
    config = json.dumps(keras.saving.serialize_keras_object(model))
    restored = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(restored) is CapsNet
    assert effect(restored) == expected
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    assert json.loads(again) == json.loads(config)


def test_routing_is_used():
    model = small(routing="dynamic")
    uniform = small(routing=DynamicRouting(1))
    uniform.set_weights(model.get_weights())
    restored = CapsNet.from_config(uniform.get_config())
    restored.set_weights(model.get_weights())
    scores = numpy(uniform(IMAGES))
    assert np.abs(numpy(model(IMAGES)) - scores).max() > 1e-3
    np.testing.assert_array_equal(numpy(restored(IMAGES)), scores)


def test_the_configuration_names_every_argument():
    arguments = set(inspect.signature(CapsNet).parameters) - {
        "kwargs",
        "weights",
    }
    config = CapsNet.from_config(small().get_config()).get_config()
    assert arguments | {"name", "trainable", "dtype"} == set(config)
