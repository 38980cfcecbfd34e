import inspect
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import MarginLoss
from keras_capsules.models.deep_caps import DeepCaps
from keras_capsules.routing import DynamicRouting
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])


def small(**options):
    return DeepCaps(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": 4,
            "num_cell_capsules": (3, 2),
            "cell_dims": (4, 4),
            "capsule_dim": 5,
            "decoder_filters": (4, 3),
            **options,
        }
    )


def compiled(model, **options):
    model.compile(keras.optimizers.Adam(0.01), MarginLoss(), **options)
    return model


def trainable(network):
    return sum(math.prod(w.shape) for w in network.trainable_weights)


@pytest.mark.parametrize(
    "image_shape, filters, grids, in_encoder, in_decoder",
    [
        # 32 * 25 numbers less, for its first map has 7 by 7 pixels.
        ((28, 28, 1), (64, 32, 16), (14, 7, 4, 2), 8_441_920, 58_417),
        ((64, 64, 3), (64, 32, 16, 8), (32, 16, 8, 4), 13_359_424, 67_571),
    ],
    ids=["28", "64"],
)
def test_the_authors_networks(
    image_shape, filters, grids, in_encoder, in_decoder
):
    model = DeepCaps(image_shape, decoder_filters=filters)
    assert trainable(model.encoder) == in_encoder
    assert trainable(model.decoder) == in_decoder
    assert tuple(model.encoder.output_shape) == (None, 10, 32)
    assert tuple(model.decoder.output_shape) == (None, *image_shape)
    for number, size in enumerate(grids, start=1):
        shape = model.encoder.get_layer(f"cell_{number}_third").output.shape
        dim = 4 if number == 1 else 8
        assert tuple(shape) == (None, size, size, 32, dim)
    # 0.4 times the mean squared error.
    pixels = math.prod(image_shape)
    assert model.reconstruction_weight * pixels == pytest.approx(0.4)


def test_default_arguments_are_those_of_28_pixels():
    defaults = inspect.signature(DeepCaps).parameters
    assert defaults["image_shape"].default == (28, 28, 1)
    assert defaults["decoder_filters"].default == (64, 32, 16)


def test_last_two_cells_vote():
    model = small(num_cell_capsules=(3, 2, 6), cell_dims=(2, 4, 4))
    votes = model.encoder.get_layer("class_capsules").input.shape
    # 2 x 2 positions of 2 types, and 1 of 6.
    assert tuple(votes) == (None, 4 * 2 + 6, 4)
    model = small(num_cell_capsules=(3,), cell_dims=(2,))
    votes = model.encoder.get_layer("class_capsules").input.shape
    assert tuple(votes) == (None, 16 * 3, 2)


def test_the_decoder_does_not_know_the_class():
    model = small()
    capsule = np.random.default_rng(2).normal(size=5)
    capsules = np.zeros((3, 3, 5), "float32")
    capsules[[0, 1, 2], [0, 1, 2]] = capsule
    decoded = model.decode(capsules, np.array([0, 1, 2]))
    np.testing.assert_allclose(decoded[1:], decoded[:2], atol=1e-6)
    # The longest, without labels; the others have no say.
    capsules[0, 1:] = 0.01
    np.testing.assert_allclose(model.decode(capsules), decoded, atol=1e-6)
    other = model.decode(2 * capsules)
    assert np.abs(other - decoded).max() > 1e-3


def test_lengths_neither_vanish_nor_saturate():
    """Through any number of layers, also on grids of a single capsule."""
    model = small(
        filters=32,
        num_cell_capsules=(8,) * 5,
        cell_dims=(8,) * 5,
        decoder_filters=None,
    )
    outputs = [
        model.encoder.get_layer(f"cell_{number}_{place}").output
        for number in range(1, 6)
        for place in ("first", "second", "third")
    ]
    for capsules in keras.Model(model.encoder.input, outputs)(IMAGES):
        lengths = np.linalg.norm(numpy(capsules), axis=-1)
        assert 0.2 < lengths.mean() < 0.9


@pytest.mark.parametrize(
    "image_shape", [(1, 1, 1), (3, 7, 2), (9, 13, 1)], ids=str
)
def test_images_of_any_size(image_shape):
    model = small(image_shape=image_shape)
    images = np.random.default_rng(4).uniform(size=(2, *image_shape))
    images = ops.convert_to_tensor(images.astype("float32"))
    scores = numpy(model(images))
    assert scores.shape == (2, 3)
    assert (scores > 0).all() and (scores < 1).all()
    decoded = numpy(model.reconstruct(images))
    assert decoded.shape == (2, *image_shape)
    assert (decoded >= 0).all()


# Options.


def shape_of(name):
    return lambda model: tuple(model.encoder.get_layer(name).output.shape[1:])


def in_decoder(model):
    return model.decoder and [
        layer.filters
        for layer in model.decoder.layers
        if isinstance(layer, keras.layers.Conv2DTranspose)
    ]


@pytest.mark.parametrize(
    "options, effect, default, expected",
    [
        ({"filters": 6}, shape_of("convolution"), (8, 8, 4), (8, 8, 6)),
        (
            {"num_cell_capsules": [5, 7]},
            shape_of("cell_2_third"),
            (2, 2, 2, 4),
            (2, 2, 7, 4),
        ),
        (
            {"num_cell_capsules": (5, 7, 2), "cell_dims": (1, 3, 3)},
            shape_of("cell_2_third"),
            (2, 2, 2, 4),
            (2, 2, 7, 3),
        ),
        (
            {"num_iterations": 2},
            lambda m: m.encoder.get_layer("cell_2_shortcut").num_iterations,
            3,
            2,
        ),
        ({"capsule_dim": 7}, shape_of("class_capsules"), (3, 5), (3, 7)),
        (
            {"routing": DynamicRouting(2)},
            lambda m: repr(m.encoder.get_layer("class_capsules").routing),
            repr(DynamicRouting()),
            repr(DynamicRouting(2)),
        ),
        ({"decoder_filters": [5, 4, 3]}, in_decoder, [4, 3, 1], [5, 4, 3, 1]),
        ({"decoder_filters": ()}, in_decoder, [4, 3, 1], [1]),
        ({"decoder_filters": None}, in_decoder, [4, 3, 1], None),
        (
            {"reconstruction_weight": 2},
            lambda model: model.reconstruction_weight,
            0.4 / 64,
            2.0,
        ),
    ],
)
def test_options(options, effect, default, expected):
    assert effect(small()) == default
    model = small(**options)
    assert effect(model) == expected
    config = json.dumps(keras.saving.serialize_keras_object(model))
    restored = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(restored) is DeepCaps
    assert effect(restored) == expected
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    assert json.loads(again) == json.loads(config)


def test_the_configuration_names_every_argument():
    arguments = set(inspect.signature(DeepCaps).parameters) - {
        "kwargs",
        "weights",
    }
    assert arguments | {"name", "trainable", "dtype"} == set(
        small().get_config()
    )


# Training.


@pytest.mark.slow
def test_every_weight_learns_and_is_saved(tmp_path):
    # Which quarter is bright?
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 4, 64)
    images = generator.uniform(0, 0.4, (64, 8, 8, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 0.5
    model = compiled(small(num_classes=4), metrics=["accuracy"])
    before = model.get_weights()
    history = model.fit(
        images, labels, batch_size=16, epochs=8, verbose=0
    ).history
    assert history["accuracy"][-1] >= 0.95
    errors = [float(each) for each in history["reconstruction_error"]]
    assert errors[-1] < errors[0]
    # Moving statistics included.
    for old, weight in zip(before, model.weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert not np.allclose(old, numpy(weight), atol=1e-7), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    expected = model.predict(images, batch_size=48, verbose=0)
    scores = loaded.predict(images[:48], batch_size=48, verbose=0)
    np.testing.assert_allclose(scores, expected[:48], atol=1e-6)


@pytest.mark.slow
def test_mixed_bfloat16():
    options = {"num_cell_capsules": (3,), "cell_dims": (4,)}
    model = compiled(small(dtype="mixed_bfloat16", **options), **QUICK)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert np.isfinite([float(value) for value in logs.values()]).all()
    exact = small(**options)
    exact.set_weights(model.get_weights())
    for method in ("predict_on_batch", "reconstruct"):
        result = getattr(model, method)(IMAGES)
        assert result.dtype == "float32"
        expected = getattr(exact, method)(IMAGES)
        np.testing.assert_allclose(result, expected, atol=0.05)


# Errors.


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("image_shape", (8, 8), "3 positive integers"),
        ("num_classes", 0, "a positive integer"),
        ("filters", (4,), "a positive integer"),
        ("num_cell_capsules", 4, "positive integers"),
        ("num_cell_capsules", (4, 0), "positive integers"),
        ("cell_dims", (4, 2.0), "positive integers"),
        ("num_iterations", 0, "a positive integer"),
        ("capsule_dim", (2, 2), "a positive integer"),
        ("routing", 3, "'dynamic'"),
        ("decoder_filters", 3, "positive integers"),
        ("reconstruction_weight", -0.1, "of at least 0"),
    ],
)
def test_rejects_options(option, value, message):
    with pytest.raises(ValueError, match=message) as raised:
        small(**{option: value})
    assert f"`{option}`" in str(raised.value)


@pytest.mark.parametrize(
    "capsules, dims, message",
    [
        ((2, 2, 2), (4, 4), "of the same length, at least 1.*2, 2.*4, 4"),
        ((), (), "of the same length, at least 1"),
        ((2, 2, 2), (4, 4, 8), r"last two cells.*cell_dims=\(4, 4, 8\)"),
    ],
    ids=["lengths", "none", "dims"],
)
def test_rejects_cells_that_do_not_fit(capsules, dims, message):
    with pytest.raises(ValueError, match=message):
        small(num_cell_capsules=capsules, cell_dims=dims)


def test_decode_without_decoder():
    model = small(decoder_filters=None)
    with pytest.raises(ValueError, match="Received: decoder_filters=None"):
        model.reconstruct(IMAGES)
