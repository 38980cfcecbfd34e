"""The network of matrix capsules: its options, and what it learns."""

import inspect
import json
import math

import keras
import numpy as np
import pytest

from keras_capsules import SpreadLoss
from keras_capsules import routing as routings
from keras_capsules.models.matrix_capsnet import MatrixCapsNet
from keras_capsules.models.matrix_capsnet import PoseNormalization
from keras_capsules.routing import EMRouting
from keras_capsules.routing import SelfRouting
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers.testing import QUICK
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])


def small(**options):
    return MatrixCapsNet(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": 4,
            "num_primary_capsules": 2,
            "num_conv_capsules": (3,),
            "capsule_strides": (2,),
            "capsule_dim": (2, 3),
            "reconstruction_weight": 0.03,
            **options,
        }
    )


def compiled(model, **options):
    model.compile(keras.optimizers.Adam(0.01), SpreadLoss(0.5), **options)
    return model


def trainable(network):
    return sum(math.prod(w.shape) for w in network.trainable_weights)


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_the_papers_network(normalization):
    model = MatrixCapsNet.paper(
        image_shape=(32, 32, 1), num_classes=5, normalization=normalization
    )
    assert repr(model.routing) == repr(EMRouting())
    assert trainable(model) == 67_154
    assert (len(model.non_trainable_weights) == 0) == (normalization is None)
    shapes = [tuple(x.shape[1:]) for x in model.encoder.outputs]
    assert shapes == [(5, 4, 4), (5,)]
    grids = [
        tuple(model.encoder.get_layer(name).output[0].shape[1:3])
        for name in ("primary_capsules", "conv_capsules_1", "conv_capsules_2")
    ]
    assert grids == [(14, 14), (6, 6), (4, 4)]


@pytest.mark.parametrize(
    "size, strides, padding",
    [
        ((8, 8), (1, 1), "same"),
        ((19, 40), (1, 1), "same"),
        ((20, 20), (2, 2), "valid"),
    ],
    ids=str,
)
def test_default_sizes(size, strides, padding):
    model = small(image_shape=(*size, 1))
    assert (model.conv_strides, model.padding) == (strides, padding)


# Options.


def convolution(model):
    layer = model.encoder.get_layer("convolution")
    return layer.filters, layer.kernel_size, layer.strides, layer.padding


def grid(model):
    return tuple(model.encoder.get_layer("primary_capsules").output[0].shape)


def capsules(model):
    """Types and strides of the convolutional capsule layers."""
    return [
        (layer.num_capsules, layer.strides[0])
        for layer in model.encoder.layers
        if layer.name.startswith("conv_capsules") and hasattr(layer, "routing")
    ]


def poses(model):
    return tuple(model.encoder.outputs[0].shape)


def routing(model):
    names = ("conv_capsules_1", "class_capsules")
    used = {repr(model.encoder.get_layer(name).routing) for name in names}
    assert len(used) == 1
    return type(model.routing).__name__


def normalizations(model):
    return [
        layer.name
        for layer in model.encoder.layers
        if isinstance(layer, PoseNormalization)
    ]


def coordinates(model):
    return model.encoder.get_layer("class_capsules").coordinate_addition


def in_decoder(model):
    return model.decoder and [
        layer.units for layer in model.decoder.layers if hasattr(layer, "units")
    ]


CONVOLUTION = (4, (5, 5), (1, 1), "same")


@pytest.mark.parametrize(
    "options, effect, default, expected",
    [
        ({"filters": 5}, convolution, CONVOLUTION, (5, *CONVOLUTION[1:])),
        (
            {"kernel_size": (3, 2), "conv_strides": 2, "padding": "valid"},
            convolution,
            CONVOLUTION,
            (4, (3, 2), (2, 2), "valid"),
        ),
        (
            {"num_primary_capsules": 3},
            grid,
            (None, 8, 8, 2, 2, 3),
            (None, 8, 8, 3, 2, 3),
        ),
        (
            {"num_conv_capsules": [2, 5], "capsule_strides": [1, 2]},
            capsules,
            [(3, 2)],
            [(2, 1), (5, 2)],
        ),
        ({"capsule_dim": [3, 2]}, poses, (None, 3, 2, 3), (None, 3, 3, 2)),
        ({"routing": SelfRouting()}, routing, "EMRouting", "SelfRouting"),
        (
            {"normalization": None},
            normalizations,
            ["conv_capsules_1_normalization", "class_capsules_normalization"],
            [],
        ),
        ({"coordinate_addition": False}, coordinates, True, False),
        ({"decoder_units": [6, 5]}, in_decoder, None, [6, 5, 64]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_options(options, effect, default, expected):
    assert effect(small()) == default
    model = small(**options)
    assert effect(model) == expected
    config = json.dumps(keras.saving.serialize_keras_object(model))
    restored = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(restored) is MatrixCapsNet
    assert effect(restored) == expected
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    assert json.loads(again) == json.loads(config)


def test_the_configuration_names_every_argument():
    arguments = set(inspect.signature(MatrixCapsNet).parameters) - {
        "kwargs",
        "weights",
    }
    config = small().get_config()
    assert arguments | {"name", "trainable", "dtype"} == set(config)


def test_the_default_routing_has_options_that_suit_the_network():
    em = small(routing=None).routing
    assert (em.num_iterations, em.inverse_temperature) == (2, 1.0)
    assert (em.min_variance, em.cost_scale) == (4.0, "normalized")
    assert em.beta_u_initializer.get_config()["value"] == -0.75
    # Names mean what they mean everywhere.
    for name in ("em", "variational_bayes", "self_routing"):
        assert repr(small(routing=name).routing) == repr(routings.get(name))
    # An instance is taken as it is, also from the configuration.
    given = EMRouting(3)
    model = small(routing=given)
    assert model.routing is given
    restored = MatrixCapsNet.from_config(model.get_config())
    assert repr(restored.routing) == repr(given)


# The normalization of poses.


def test_poses_are_normalized_by_type():
    generator = np.random.default_rng(2)
    poses = generator.normal(3, 5, (7, 2, 3, 2, 2, 3)).astype("float32")
    poses[:, :, :, 1] *= 0.01
    activations = generator.uniform(size=(7, 2, 3, 2)).astype("float32")
    layer = PoseNormalization()
    normalized, unchanged = map(
        numpy, layer((poses, activations), training=True)
    )
    axes = (0, 1, 2, 4, 5)
    mean = poses.mean(axes, keepdims=True)
    deviation = np.sqrt(poses.var(axes, keepdims=True) + 1e-3)
    expected = (poses - mean) / deviation
    np.testing.assert_allclose(normalized, expected, atol=1e-4)
    np.testing.assert_array_equal(unchanged, activations)
    # What comes after training is normalized with the moving statistics.
    first, _ = layer((poses, activations))
    mean, variance = 0.1 * mean, 0.9 + 0.1 * poses.var(axes, keepdims=True)
    expected = (poses - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(numpy(first), expected, atol=1e-4)


@pytest.mark.parametrize(
    "routing",
    [None, VariationalBayesRouting(covariance_prior=100.0)],
    ids=["em", "variational_bayes"],
)
def test_capsules_begin_undecided(routing):
    """Or else activations and shares have no gradients."""
    model = MatrixCapsNet(
        (8, 8, 1), 10, filters=16, num_conv_capsules=(8, 8), routing=routing
    )
    capsules = IMAGES
    for layer in model.layers[1:-2]:
        if not hasattr(layer, "routing"):
            capsules = layer(capsules, training=True)
            continue
        capsules, coupling = layer(
            capsules, training=True, return_coupling=True
        )
        activations, shares = numpy(capsules[1]), numpy(coupling)
        assert 0.1 < activations.mean() < 0.9
        # As many parents as share a child of those at a position.
        shares = shares / shares.sum(-1, keepdims=True)
        entropies = -np.sum(shares * np.log(shares + 1e-30), axis=-1)
        assert np.exp(entropies.mean()) > 0.4 * layer.num_capsules


# Training.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["em", "variational_bayes"])
def test_every_weight_learns_and_is_saved(name, tmp_path):
    model = compiled(small(routing=name, decoder_units=(6,)), **QUICK)
    before = model.get_weights()
    model.fit(IMAGES, LABELS, batch_size=7, epochs=1, verbose=0)
    # Moving statistics included.
    for old, weight in zip(before, model.weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert not np.array_equal(old, numpy(weight)), weight.path
    check_saving(model, IMAGES, tmp_path)


@pytest.mark.slow
def test_batches_of_any_size():
    model = small()
    scores = numpy(model(IMAGES))
    assert scores.shape == (7, 3)
    assert (scores > 0).all() and (scores < 1).all()
    np.testing.assert_allclose(numpy(model(IMAGES[:1])), scores[:1], atol=1e-5)
    assert [x.shape for x in model.encode(IMAGES)] == [(7, 3, 2, 3), (7, 3)]


def test_mixed_bfloat16():
    model = compiled(small(dtype="mixed_bfloat16"), **QUICK)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert np.isfinite([float(value) for value in logs.values()]).all()
    exact = small()
    exact.set_weights(model.get_weights())
    scores = model(IMAGES)
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    np.testing.assert_allclose(numpy(scores), numpy(exact(IMAGES)), atol=0.05)


# Errors.


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("filters", 0, "a positive integer"),
        ("kernel_size", (3,), "a tuple of 2"),
        ("conv_strides", 0, "a tuple of 2"),
        ("padding", "causal", "one of 'valid', 'same'"),
        ("num_primary_capsules", 2.0, "a positive integer"),
        ("num_conv_capsules", 3, "positive integers"),
        ("capsule_strides", (1, 2), "1 positive integers"),
        ("capsule_dim", 4, "2 positive integers"),
        ("routing", "emm", "'em'"),
        ("normalization", "layer", "one of 'batch'"),
        ("coordinate_addition", 2, "True or False"),
        ("decoder_units", (6, 0), "positive integers"),
    ],
)
def test_rejects_options(option, value, message):
    with pytest.raises(ValueError, match=message) as raised:
        small(**{option: value})
    assert f"`{option}`" in str(raised.value)


def test_rejects_routings_without_activations():
    with pytest.raises(ValueError, match="Expected a routing that makes them"):
        small(routing="dynamic")


def test_rejects_images_smaller_than_the_windows():
    with pytest.raises(ValueError, match="images are too small for") as raised:
        small(capsule_strides=(4, 1), num_conv_capsules=(2, 2))
    assert "capsule_strides=(4, 1)" in str(raised.value)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_says_what_helps_images_too_small(padding):
    """Only convolutional capsules may be too large for padded images."""
    with pytest.raises(
        ValueError, match="smaller capsule_strides or"
    ) as raised:
        MatrixCapsNet((5, 5, 1), 3, padding=padding)
    message = str(raised.value)
    assert f"padding={padding!r}" in message
    assert ('padding="same"' in message) == (padding == "valid")


def test_class_capsules_may_be_all():
    model = small(num_conv_capsules=(), capsule_strides=())
    assert model(IMAGES).shape == (7, 3)
