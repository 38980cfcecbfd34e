import inspect
import json
import math

import keras
import numpy as np
import pytest

from keras_capsules import MarginLoss
from keras_capsules.layers.squeeze_excitation import SqueezeExcitation
from keras_capsules.models import ConvNet
from keras_capsules.models import SqueezeExcitationNet
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def convolutional(**options):
    return ConvNet(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": (4, 5),
            "units": (6,),
            **options,
        }
    )


def residual(**options):
    return SqueezeExcitationNet(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": (4, 5),
            "blocks": 1,
            "ratio": 2,
            **options,
        }
    )


both = pytest.mark.parametrize("make", [convolutional, residual])


def trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


# Sizes.


@pytest.mark.parametrize(
    "model_class, options, parameters",
    [
        (ConvNet, {}, 159_254),
        (ConvNet, {"normalization": "batch"}, 159_414),  # 2 for 1 a filter
        (ConvNet, {"filters": (64, 128, 256), "units": (1570,)}, 6_817_664),
        (SqueezeExcitationNet, {}, 162_780),
    ],
    ids=["conv", "conv-normalized", "conv-large", "residual"],
)
def test_parameters(model_class, options, parameters):
    assert trainable(model_class(**options)) == parameters


def test_the_baseline_of_sabour():
    model = ConvNet(
        filters=(256, 256, 128), kernel_size=5, pool_size=1, units=(328, 192)
    )
    assert model.count_params() == 35_445_522
    layers = [type(layer).__name__ for layer in model.layers[1:]]
    layers.remove("PropagateNaN")
    assert layers == ["Conv2D"] * 3 + ["Reshape"] + ["Dense"] * 2 + [
        "Dropout",
        "Dense",
    ]
    assert {layer.strides for layer in model.layers[1:4]} == {(1, 1)}


@both
@pytest.mark.parametrize("image_shape", [(1, 1, 1), (3, 7, 2)], ids=str)
def test_images_of_any_size(make, image_shape):
    model = make(image_shape=image_shape)
    assert model.compute_output_shape((5, *image_shape)) == (5, 3)
    scores = numpy(model(np.zeros((2, *image_shape), "float32")))
    assert scores.shape == (2, 3)


def test_convolutions_with_normalization():
    """They are others without, whose kernels are scaled and have biases."""
    normalized = convolutional(normalization="batch")
    plain = convolutional()
    generator = np.random.default_rng(3)
    for layer in normalized.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for each in layer.weights:
                each.assign(generator.uniform(0.5, 2.0, each.shape))
    for layer in plain.layers:
        if not layer.weights:
            continue
        twin = normalized.get_layer(layer.name)
        values = twin.get_weights()
        if layer.name.startswith("convolution"):
            name = layer.name.replace("convolution", "normalization")
            scale, offset, mean, variance = normalized.get_layer(
                name
            ).get_weights()
            factor = scale / np.sqrt(variance + 1e-3)
            values = [values[0] * factor, offset - mean * factor]
        layer.set_weights(values)
    np.testing.assert_allclose(
        numpy(normalized(IMAGES)), numpy(plain(IMAGES)), rtol=1e-4, atol=1e-5
    )
    before = [numpy(each) for each in normalized.non_trainable_weights]
    normalized(IMAGES, training=True)
    after = [numpy(each) for each in normalized.non_trainable_weights]
    assert any(np.any(x != y) for x, y in zip(before, after, strict=True))


# Scores and training.


@both
def test_softmax_and_crossentropy(make):
    model = make()
    scores = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(scores.sum(axis=1), np.ones(7), rtol=1e-5)
    np.testing.assert_allclose(
        model.predict(IMAGES, batch_size=3, verbose=0), scores, atol=1e-6
    )
    expected = -np.mean(np.log(scores[range(7), LABELS]))
    for loss, labels in (
        ("sparse_categorical_crossentropy", LABELS),
        ("categorical_crossentropy", ONE_HOT),
    ):
        model.compile("adam", loss, metrics=["accuracy"], **QUICK)
        logs = model.test_on_batch(IMAGES, labels, return_dict=True)
        assert float(logs["loss"]) == pytest.approx(expected, rel=1e-4)


@both
def test_sigmoid_and_margin_loss(make):
    model = make(activation="sigmoid")
    scores = model.predict(IMAGES, verbose=0)
    assert (scores > 0).all() and (scores < 1).all()
    assert np.abs(scores.sum(axis=1) - 1).max() > 1e-3
    expected = ONE_HOT * np.maximum(0, 0.9 - scores) ** 2
    expected += 0.5 * (1 - ONE_HOT) * np.maximum(0, scores - 0.1) ** 2
    for labels in (LABELS, ONE_HOT):
        model.compile("adam", MarginLoss(), metrics=["accuracy"], **QUICK)
        logs = model.test_on_batch(IMAGES, labels, return_dict=True)
        assert float(logs["loss"]) == pytest.approx(
            np.mean(np.sum(expected, axis=1)), rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@both
def test_learns_and_is_saved(make, tmp_path):
    # Which half is bright?
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 64)
    images = generator.uniform(0, 0.4, (64, 8, 8, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 0.5
    model = make(num_classes=2, filters=(8,))
    model.compile(
        keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy"
    )
    before = model.get_weights()
    model.fit(images, labels, batch_size=16, epochs=6, verbose=0)
    for old, weight in zip(before, model.weights, strict=True):
        if "seed_generator" not in weight.path:
            assert not np.array_equal(old, numpy(weight)), weight.path
    scores = numpy(model(images, training=True))
    if make is residual:  # whose statistics are late in so few steps
        assert np.mean(scores.argmax(axis=1) == labels) >= 0.95
    else:
        scores = model.predict(images, verbose=0)
        assert np.mean(scores.argmax(axis=1) == labels) >= 0.95
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is type(model)
    np.testing.assert_allclose(
        numpy(loaded(images)), numpy(model(images)), atol=1e-6
    )


@both
def test_mixed_bfloat16(make):
    model = make(dtype="mixed_bfloat16")
    model.compile("adam", "sparse_categorical_crossentropy", **QUICK)
    assert np.isfinite(float(model.train_on_batch(IMAGES, LABELS)))
    scores = model(IMAGES)
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    hidden = model.layers[2].compute_dtype
    assert hidden == "bfloat16"
    exact = make()
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(scores), numpy(exact(IMAGES)), atol=0.02)


@both
def test_a_pixel_that_is_no_number_shows_in_its_own_scores(make):
    images = IMAGES.copy()
    images[2, 3, 3, 0] = np.nan
    scores = numpy(make()(images))
    assert np.isnan(scores[2]).all()
    assert np.isfinite(np.delete(scores, 2, axis=0)).all()


def test_fits_integer_images():
    """In a graph, where the size of a batch is not known."""
    model = convolutional(filters=(2,), units=(), dropout=0.0)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    images = (3 * IMAGES).astype("uint8")
    history = model.fit(images, LABELS, verbose=0).history
    expected = model.evaluate(images.astype("float32"), LABELS, verbose=0)
    assert float(history["loss"][0]) == pytest.approx(float(expected), rel=1e-5)


# Options.


def of_type(layer_class, attribute):
    return lambda model: [
        getattr(layer, attribute)
        for layer in model.layers
        if type(layer) is layer_class
    ]


convolutions = of_type(keras.layers.Conv2D, "filters")
dense = of_type(keras.layers.Dense, "units")
scores = of_type(keras.layers.Dense, "activation")


@pytest.mark.parametrize(
    "make, options, effect, default, expected",
    [
        (convolutional, {"filters": [3]}, convolutions, [4, 5], [3]),
        (
            convolutional,
            {"kernel_size": (1, 2)},
            of_type(keras.layers.Conv2D, "kernel_size"),
            [(3, 3)] * 2,
            [(1, 2)] * 2,
        ),
        (
            convolutional,
            {"pool_size": (1, 2)},
            of_type(keras.layers.MaxPooling2D, "pool_size"),
            [(2, 2)] * 2,
            [(1, 2)] * 2,
        ),
        (
            convolutional,
            {"pool_size": 1},
            of_type(keras.layers.MaxPooling2D, "pool_size"),
            [(2, 2)] * 2,
            [],
        ),
        (convolutional, {"units": (7, 8)}, dense, [6, 3], [7, 8, 3]),
        (
            convolutional,
            {"dropout": 0},
            of_type(keras.layers.Dropout, "rate"),
            [0.5],
            [0.0],
        ),
        (convolutional, {"num_classes": 4}, dense, [6, 3], [6, 4]),
        (
            residual,
            {"filters": [3, 4, 5]},
            convolutions,
            [4, 4, 4, 5, 5, 5],
            [3, 3, 3, 4, 4, 4, 5, 5, 5],
        ),
        (
            residual,
            {"blocks": 2},
            of_type(keras.layers.Conv2D, "strides"),
            [(1, 1)] * 3 + [(2, 2), (1, 1), (2, 2)],
            [(1, 1)] * 5 + [(2, 2), (1, 1), (2, 2)] + [(1, 1)] * 2,
        ),
        (
            residual,
            {"ratio": 3},
            of_type(SqueezeExcitation, "ratio"),
            [2, 2],
            [3, 3],
        ),
        (
            residual,
            {"activation": "sigmoid"},
            scores,
            [keras.activations.softmax],
            [keras.activations.sigmoid],
        ),
    ],
)
def test_options(make, options, effect, default, expected):
    assert sorted(effect(make()), key=str) == sorted(default, key=str)
    model = make(**options)
    assert sorted(effect(model), key=str) == sorted(expected, key=str)
    config = json.dumps(keras.saving.serialize_keras_object(model))
    restored = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(restored) is type(model)
    assert sorted(effect(restored), key=str) == sorted(expected, key=str)
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    assert json.loads(again) == json.loads(config)
    arguments = set(inspect.signature(type(model)).parameters)
    arguments -= {"kwargs", "weights"}
    assert arguments | {"name", "trainable", "dtype"} == set(model.get_config())


def test_dropout_is_for_training():
    model = convolutional(units=(32,))
    one, other = (numpy(model(IMAGES, training=True)) for _ in range(2))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(numpy(model(IMAGES)), numpy(model(IMAGES)))


# Errors.


@pytest.mark.parametrize(
    "make, option, value, message",
    [
        (convolutional, "image_shape", (8, 8), "3 positive integers"),
        (convolutional, "num_classes", 0, "a positive integer"),
        (convolutional, "filters", 4, "positive integers"),
        (convolutional, "kernel_size", 0, "a positive integer or a tuple of 2"),
        (convolutional, "pool_size", "2", "a positive integer or a tuple of 2"),
        (convolutional, "units", (0,), "positive integers"),
        (convolutional, "dropout", -0.1, "of at least 0"),
        (convolutional, "dropout", 1, "below 1"),
        (convolutional, "activation", "relu", "one of 'softmax', 'sigmoid'"),
        (convolutional, "normalization", "layer", "one of 'batch'"),
        (residual, "image_shape", None, "3 positive integers"),
        (residual, "filters", (), "at least one stage"),
        (residual, "filters", (4, 0), "positive integers"),
        (residual, "blocks", 0, "a positive integer"),
        (residual, "ratio", 0.5, "a positive integer"),
        (residual, "activation", None, "one of 'softmax', 'sigmoid'"),
    ],
)
def test_rejects_options(make, option, value, message):
    with pytest.raises(ValueError, match=message) as raised:
        make(**{option: value})
    assert f"`{option}`" in str(raised.value)
    assert f"Received: {option}=" in str(raised.value)


@both
@pytest.mark.parametrize("shape", [(7, 8, 7, 1), (7, 8, 8, 2), (7, 8)])
def test_rejects_images_of_another_shape(make, shape):
    with pytest.raises(ValueError, match="shape"):
        make()(np.zeros(shape, "float32"))
