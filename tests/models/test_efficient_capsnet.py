import functools
import inspect
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import MarginLoss
from keras_capsules.models.efficient_capsnet import EfficientCapsNet
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsnet import bright_quarters
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])


def small(**options):
    return EfficientCapsNet(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": (4,),
            "num_primary_capsules": 3,
            "primary_dim": 2,
            "capsule_dim": 5,
            "decoder_units": (6,),
            "reconstruction_weight": 0.03,
            **options,
        }
    )


def compiled(model, **options):
    model.compile(keras.optimizers.Adam(0.01), MarginLoss(), **options)
    return model


def trainable(network):
    return sum(math.prod(w.shape) for w in network.trainable_weights)


# The paper's networks.


@pytest.mark.parametrize(
    "make, image_shape, num_classes, parameters, in_decoder",
    [
        (EfficientCapsNet, (28, 28, 1), 10, 161_824, 1_411_344),
        (EfficientCapsNet.multi_mnist, (36, 36, 1), 10, 154_656, 1_936_144),
        (
            functools.partial(
                EfficientCapsNet, (48, 48, 2), 5, decoder_units=None
            ),
            (48, 48, 2),
            5,
            151_664,
            None,
        ),
        (EfficientCapsNet.small_norb, (48, 48, 2), 5, 151_664, 229_570),
    ],
    ids=["mnist", "multi-mnist", "small-norb", "small-norb-instance"],
)
def test_the_papers_networks(
    make, image_shape, num_classes, parameters, in_decoder
):
    model = make()
    assert trainable(model.encoder) == parameters
    assert tuple(model.encoder.output_shape) == (None, num_classes, 16)
    primary = model.encoder.get_layer("primary_capsules").output.shape
    assert tuple(primary) == (None, 1, 1, 16, 8)
    if in_decoder is None:
        assert model.decoder is None
    else:
        assert trainable(model.decoder) == in_decoder
        assert tuple(model.decoder.output_shape) == (None, *image_shape)


# Sizes that are chosen by the images'.


@pytest.mark.parametrize(
    "size, kernel, strides, padding",
    [
        ((1, 1), 5, (1, 1, 1, 2), "same"),
        ((8, 8), 5, (1, 1, 1, 2), "same"),
        ((7, 40), 5, (1, 2, 2, 2), "same"),
        ((20, 20), 5, (1, 1, 1, 2), "valid"),
        ((28, 28), 5, (1, 1, 1, 2), "valid"),
        ((32, 32), 5, (1, 1, 2, 2), "valid"),
        ((36, 36), 5, (1, 1, 2, 2), "valid"),
        ((48, 48), 7, (2, 1, 1, 2), "valid"),
        ((96, 96), 7, (2, 2, 2, 2), "valid"),
    ],
    ids=str,
)
def test_default_sizes(size, kernel, strides, padding):
    model = EfficientCapsNet(
        (*size, 1),
        2,
        filters=(1, 1, 1),
        num_primary_capsules=1,
        primary_dim=1,
        decoder_units=None,
    )
    assert model.kernel_sizes == (kernel, 3, 3, 3)
    assert model.conv_strides == strides
    assert model.padding == padding
    primary = model.encoder.get_layer("primary_capsules")
    assert tuple(primary.output.shape) == (None, 1, 1, 1, 1)
    # The whole map, whatever the images.
    assert primary.kernel.shape[:2] == primary.input.shape[1:3]
    assert model.primary_strides == 1


# Options.


def convolutions(model):
    """The convolutions, as (filters, window, strides)."""
    return [
        (layer.filters, layer.kernel_size[0], layer.strides[0])
        for layer in model.encoder.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]


def normalizations(model):
    layers = map(type, model.encoder.layers)
    normalizations = ("BatchNormalization", "GroupNormalization")
    return [cls.__name__ for cls in layers if cls.__name__ in normalizations]


def activation(model):
    return model.layers[1].activation.__name__


def primary(model):
    return tuple(model.encoder.get_layer("primary_capsules").output.shape[1:])


def routing(model):
    return repr(model.encoder.get_layer("class_capsules").routing)


def in_decoder(model):
    return model.decoder and [
        getattr(layer, "units", None) or layer.filters
        for layer in model.decoder.layers
        if hasattr(layer, "kernel")
    ]


TWO = [(4, 5, 1), (6, 3, 2)]


@pytest.mark.parametrize(
    "options, effect, default, expected",
    [
        (
            {"filters": (5, 7)},
            convolutions,
            TWO,
            [(5, 5, 1), (7, 3, 1), (6, 3, 2)],
        ),
        ({"kernel_sizes": [2, 4]}, convolutions, TWO, [(4, 2, 1), (6, 4, 2)]),
        ({"kernel_sizes": 3}, convolutions, TWO, [(4, 3, 1), (6, 3, 2)]),
        ({"conv_strides": 2}, convolutions, TWO, [(4, 5, 2), (6, 3, 2)]),
        ({"conv_strides": (3, 1)}, convolutions, TWO, [(4, 5, 3), (6, 3, 1)]),
        (
            {"padding": "valid", "primary_kernel_size": 1},
            primary,
            (1, 1, 3, 2),
            (1, 1, 3, 2),
        ),
        (
            {"normalization": "instance"},
            normalizations,
            ["BatchNormalization"] * 2,
            ["GroupNormalization"] * 2,
        ),
        (
            {"normalization": None},
            normalizations,
            ["BatchNormalization"] * 2,
            [],
        ),
        ({"activation": "leaky_relu"}, activation, "relu", "leaky_relu"),
        ({"num_primary_capsules": 4}, primary, (1, 1, 3, 2), (1, 1, 4, 2)),
        ({"primary_dim": 4}, primary, (1, 1, 3, 2), (1, 1, 3, 4)),
        (
            {"primary_kernel_size": 2, "primary_strides": 2},
            primary,
            (1, 1, 3, 2),
            (2, 2, 3, 2),
        ),
        (
            {"capsule_dim": 7},
            lambda model: tuple(model.encoder.output_shape),
            (None, 3, 5),
            (None, 3, 7),
        ),
        (
            {"routing": DynamicRouting(2)},
            routing,
            "SelfAttentionRouting(use_coupling_bias=True)",
            repr(DynamicRouting(2)),
        ),
        ({"decoder_units": [9, 8]}, in_decoder, [6, 64], [9, 8, 64]),
        ({"decoder_units": None}, in_decoder, [6, 64], None),
        (
            {"decoder_units": None, "decoder_filters": [3, 2]},
            in_decoder,
            [6, 64],
            [16, 3, 2, 1],
        ),
    ],
)
def test_options(options, effect, default, expected):
    assert effect(small()) == default
    model = small(**options)
    assert effect(model) == expected
    config = json.dumps(keras.saving.serialize_keras_object(model))
    restored = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(restored) is EfficientCapsNet
    assert effect(restored) == expected
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    assert json.loads(again) == json.loads(config)


def test_the_configuration_names_every_argument():
    arguments = set(inspect.signature(EfficientCapsNet).parameters) - {
        "kwargs",
        "weights",
    }
    config = small().get_config()
    assert arguments | {"name", "trainable", "dtype"} == set(config)


@pytest.mark.parametrize(
    "image_shape", [(1, 1, 1), (7, 9, 2), (8, 8, 1)], ids=str
)
def test_convolutional_decoder_decodes_images_of_any_size(image_shape):
    model = small(
        image_shape=image_shape, decoder_units=None, decoder_filters=(3, 2)
    )
    images = np.zeros((2, *image_shape), "float32")
    decoded = numpy(model.reconstruct(ops.convert_to_tensor(images)))
    assert decoded.shape == images.shape
    assert (decoded > 0).all() and (decoded < 1).all()


def test_instances_are_normalized_by_themselves():
    model = small(normalization="instance")
    alone = numpy(model(IMAGES[:1], training=True))
    together = numpy(model(IMAGES, training=True))
    np.testing.assert_allclose(alone, together[:1], atol=1e-5)
    # And contrast does not matter then.
    model = small(normalization="instance", activation=None)
    model.layers[1].bias.assign(np.zeros(4))
    np.testing.assert_allclose(
        numpy(model(100 * IMAGES)), numpy(model(1000 * IMAGES)), atol=1e-3
    )


# Training.


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_learns():
    images, labels = bright_quarters()
    model = compiled(
        small(num_classes=4, primary_dim=4, reconstruction_weight=0.0005),
        metrics=["accuracy"],
    )
    history = model.fit(
        images, labels, batch_size=16, epochs=6, verbose=0
    ).history
    assert history["accuracy"][-1] >= 0.95


DECODERS = {
    "dense": {},
    "convolutional": {
        "decoder_units": None,
        "decoder_filters": (2,),
        "normalization": "instance",
    },
}


@pytest.mark.parametrize("options", DECODERS.values(), ids=DECODERS)
def test_every_weight_learns_and_is_saved(options, tmp_path):
    model = compiled(small(**options), **QUICK)
    before = model.get_weights()
    model.fit(IMAGES, LABELS, batch_size=7, epochs=2, verbose=0)
    # Moving statistics included.
    for old, weight in zip(before, model.weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert not np.allclose(old, numpy(weight), atol=1e-7), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    np.testing.assert_allclose(
        numpy(loaded(IMAGES)), numpy(model(IMAGES)), atol=1e-6
    )


def test_batches_of_any_size():
    model = small()
    scores = model.predict(IMAGES, verbose=0)
    assert scores.shape == (7, 3)
    assert (scores > 0).all() and (scores < 1).all()
    np.testing.assert_allclose(
        model.predict(IMAGES, batch_size=3, verbose=0), scores, atol=1e-6
    )
    np.testing.assert_allclose(numpy(model(IMAGES[:1])), scores[:1], atol=1e-6)


@pytest.mark.parametrize("options", DECODERS.values(), ids=DECODERS)
def test_mixed_bfloat16(options):
    model = small(dtype="mixed_bfloat16", **options)
    compiled(model, **QUICK)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert np.isfinite([float(value) for value in logs.values()]).all()
    exact = small(**options)
    exact.set_weights(model.get_weights())
    for method in ("__call__", "reconstruct"):
        images = ops.convert_to_tensor(IMAGES)
        result = getattr(model, method)(images)
        assert keras.backend.standardize_dtype(result.dtype) == "float32"
        expected = numpy(getattr(exact, method)(images))
        np.testing.assert_allclose(numpy(result), expected, atol=0.03)


# Errors.


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("image_shape", (8, 8), "3 positive integers"),
        ("num_classes", 0, "a positive integer"),
        ("filters", 4, "positive integers"),
        ("filters", (4, 0), "positive integers"),
        ("kernel_sizes", (3,), "2 positive integers"),
        ("kernel_sizes", (3, 3, 3), "2 positive integers"),
        ("conv_strides", (1,), "2 positive integers"),
        ("conv_strides", (0, 1), "2 positive integers"),
        ("padding", "causal", "one of 'valid', 'same'"),
        ("normalization", "layer", "one of 'batch', 'instance'"),
        ("num_primary_capsules", 0, "a positive integer"),
        ("primary_dim", 2.0, "a positive integer"),
        ("primary_kernel_size", (2, 2), "a positive integer"),
        ("primary_strides", 0, "a positive integer"),
        ("capsule_dim", "5", "a positive integer"),
        ("routing", "dynamc", "'dynamic'"),
        ("decoder_units", (6, 0), "positive integers"),
        ("decoder_filters", 3, "positive integers"),
        ("reconstruction_weight", -0.1, "of at least 0"),
    ],
)
def test_rejects_options(option, value, message):
    with pytest.raises(ValueError, match=message) as raised:
        small(**{option: value})
    assert f"`{option}`" in str(raised.value)


def test_rejects_unknown_activation():
    with pytest.raises(ValueError, match="interpret activation.*unknown"):
        small(activation="unknown")


def test_rejects_two_decoders():
    message = r"either dense or conv.*units=\(6,\), decoder_filters=\(3,\)"
    with pytest.raises(ValueError, match=message):
        small(decoder_filters=(3,))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "valid", "kernel_sizes": (9, 1)},
        {"padding": "valid", "kernel_sizes": (7, 3)},
        {"primary_kernel_size": 5},
    ],
    ids=str,
)
def test_rejects_images_smaller_than_the_windows(options):
    with pytest.raises(ValueError, match="images are too small for") as raised:
        small(**options)
    for name, value in options.items():
        if name != "padding":
            assert f"{name}={value}" in str(raised.value)


def test_rejects_strides_of_the_whole_map():
    message = "Received: primary_strides=3, primary_kernel_size=None"
    with pytest.raises(ValueError, match=message):
        small(primary_strides=3)
    # The only ones that it has, which a configuration names.
    assert small(primary_strides=1).built


def test_rejects_to_normalize_a_single_pixel():
    message = r"map of one pixel.*Received: normalization=.*strides=\(4, 2\)"
    with pytest.raises(ValueError, match=message):
        small(normalization="instance", conv_strides=(4, 2))


def test_decode_without_decoder():
    model = small(decoder_units=None)
    message = "Received: decoder_units=None, decoder_filters=None"
    with pytest.raises(ValueError, match=message):
        model.reconstruct(IMAGES)


def test_rejects_images_of_another_shape():
    with pytest.raises(ValueError, match="shape"):
        small()(np.zeros((7, 8, 7, 1), "float32"))
