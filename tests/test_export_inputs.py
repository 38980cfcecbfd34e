"""Exports: images for calibration, networks of 16 bits, files in two parts."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import models
from keras_capsules.export import checks
from keras_capsules.export import export_litert
from keras_capsules.export import export_openvino
from tests.helpers.capsnet import small
from tests.helpers.testing import BACKEND
from tests.helpers.testing import import_or_skip
from tests.test_export_options import FORMATS
from tests.test_export_options import formats
from tests.test_export_options import litert
from tests.test_export_options import scores_of

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = [
    pytest.mark.skipif(BACKEND != "tensorflow", reason="is about TensorFlow"),
    pytest.mark.filterwarnings(
        "ignore:.*tf.lite.Interpreter is deprecated:UserWarning",
        "ignore:In the future `np.object`:FutureWarning",
    ),
]

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return small(decoder_units=None)


# Calibration.


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_calibration_has_to_be_finite(model, value, tmp_path):
    """TensorFlow ends the process if it is not."""
    images = IMAGES.copy()
    images[4, 2, 3, 0] = value
    message = "`calibration` to be finite. Received: .* 1 numbers .*image 4 "
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "a.tflite", "int8", images)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_pixels_as_in_files_do_not_calibrate(model, dtype, tmp_path):
    images = (255 * IMAGES).astype(dtype)
    message = f"scale of those that .*Received: calibration.dtype={dtype}"
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "a.tflite", "int8", images)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 1, "float32"), (-300, 0, "int32")]
)
def test_what_integers_cannot_hold_does_not_calibrate(
    low, high, dtype, tmp_path
):
    pixels = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    model = keras.Model(pixels, keras.layers.Conv2D(32, 6)(x))
    images = np.random.default_rng(0).uniform(low, high, (20, 8, 8, 1))
    path = tmp_path / "a.tflite"
    message = f"numbers that uint8 can hold.*Received: .*dtype={dtype}"
    with pytest.raises(ValueError, match=message):
        export_litert(model, path, "int8", images.astype(dtype))
    assert not os.listdir(tmp_path)
    # Numbers that it can hold may have any type.
    images = np.floor(255 * np.abs(images / images.max(initial=1)))
    images = np.clip(images, 0, 255)
    export_litert(model, path, "int8", images.astype("float32"))


def test_weights_that_are_too_large_for_float16(model, tmp_path):
    model = keras.models.clone_model(model)
    weight = model.trainable_weights[0]
    weight.assign(weight * 0 + 1e5)
    message = r"of float16 is 65504.*Received: .*kernel with 1e\+05 to 1e\+05"
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "a.tflite", "float16")
    assert not os.listdir(tmp_path)


def test_variances_that_are_too_large_for_float16(tmp_path):
    """They are no part of the file, which holds what is made of them."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(32, 6)(inputs)
    layer = keras.layers.BatchNormalization()
    model = keras.Model(inputs, layer(x))
    layer.moving_variance.assign(np.full(32, 1e5))
    export_litert(model, tmp_path / "a.tflite", "float16")


@pytest.fixture(scope="module")
def normalized():
    """A network whose batch normalizations know images from 0 to 1."""
    keras.utils.set_random_seed(3)
    model = models.EfficientCapsNet(
        (28, 28, 1), 3, filters=(4, 8, 8), decoder_units=None
    )
    images = np.random.default_rng(1).uniform(size=(20, 28, 28, 1))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images.astype("float32"), training=True)
    return model, images.astype("float32")


@pytest.mark.parametrize("factor", [255, 1 / 255])
def test_another_scale_does_not_calibrate(normalized, factor, tmp_path):
    model, images = normalized
    path = tmp_path / "a.tflite"
    message = "on another scale .*before the layer 'normalization_1' .*Received"
    with pytest.raises(ValueError, match=message):
        export_litert(model, path, "int8", np.float32(factor) * images)
    assert not os.listdir(tmp_path)
    # Images that are not those of the training, but alike.
    export_litert(model, path, "int8", 1 - images[:5] / 2)
    assert path.exists()


def test_texts_calibrate(tmp_path):
    """Integers stay integers."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(50, 16)(inputs)
    x = keras.layers.Dense(32, "relu")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    texts = np.random.default_rng(0).integers(0, 50, size=(40, 6))
    path = export_litert(model, tmp_path / "a.tflite", "int8", texts)
    texts = texts.astype("int32")
    expected = scores_of(model, texts)
    largest = np.abs(litert(path)(texts) - expected).max()
    assert 0 < largest < 0.05 * np.ptp(expected)


# Networks of 16 bits.


@formats
@pytest.mark.parametrize(
    "dtype", ["mixed_float16", "mixed_bfloat16", "bfloat16"]
)
def test_networks_of_16_bits(form, dtype, tmp_path):
    export, suffix, load, package = FORMATS[form]
    import_or_skip(package)
    keras.utils.set_random_seed(3)
    model = small(dtype=dtype)
    exact = small()
    exact.set_weights(model.get_weights())
    run = load(export(model, tmp_path / f"model{suffix}"))
    found = run(IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scores_of(exact, IMAGES), atol=1e-5)


def of_own_layers(policy):
    """A Sequential model in a functional one, with operations and statistics.

    Has been compiled with a loss that cannot be found by its name.
    """
    keras.utils.set_random_seed(3)

    class Twice(keras.layers.Layer):
        def __init__(self, units, **options):
            super().__init__(**options)
            self.units = units
            self.inner = keras.layers.Dense(units)

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return 2 * self.inner(x)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8, 8, 1))
        normalization = keras.layers.Normalization()
        normalization.adapt(3 * IMAGES + 1)
        x = normalization(inputs)
        inner = keras.Sequential([keras.layers.Flatten(), Twice(5)])
        x = ops.cast(inner(x), "float32") + 1
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
    finally:
        keras.config.set_dtype_policy(former)
    model.compile("sgd", loss=lambda y, z: ops.mean(y - z))
    return model


def test_own_networks_of_16_bits(tmp_path):
    model, exact = map(of_own_layers, ("mixed_bfloat16", "float32"))
    exact.set_weights(model.get_weights())
    exact.layers[1].finalize_state()
    policy = keras.config.dtype_policy()
    path = export_litert(model, tmp_path / "model.tflite")
    assert keras.config.dtype_policy() == policy
    expected = scores_of(exact, IMAGES)
    np.testing.assert_allclose(
        litert(path)(IMAGES), expected, rtol=1e-4, atol=1e-4
    )
    assert model.layers[-1].compute_dtype == "bfloat16"  # as it was


def test_a_network_of_16_bits_is_calibrated(tmp_path):
    """Also one that takes images of 16 bits."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1), dtype="bfloat16")
    x = keras.layers.Conv2D(8, 3, dtype="bfloat16")(inputs)
    x = keras.layers.GlobalAveragePooling2D(dtype="bfloat16")(x)
    model = keras.Sequential(keras.Model(inputs, x).layers)
    path = export_litert(model, tmp_path / "a.tflite", "int8", IMAGES)
    found = litert(path)(IMAGES)
    assert found.dtype == np.float32
    expected = scores_of(model, IMAGES).astype("float32")
    np.testing.assert_allclose(found, expected, atol=0.02)


def squeezed(sign, bias=0.0):
    """A network whose only squeezed unit is dead, or alive."""
    images = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu")(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    kernel, bias = map(keras.initializers.Constant, (sign, bias))
    dense = keras.layers.Dense
    x = dense(1, "relu", True, kernel, bias, name="squeezed")(x)
    return keras.Model(images, dense(5, "sigmoid")(x))


@pytest.mark.parametrize("largest", [0.0, 3e-6])
def test_zeros_do_not_calibrate(largest, tmp_path):
    model = squeezed(-1)
    layer = model.get_layer("squeezed")
    below = keras.Model(model.input, layer.input)(IMAGES)
    sums = ops.convert_to_numpy(below).sum(axis=1)
    layer.bias.assign([sums.min() + largest - 1e-7])
    message = (
        r"zero, or nearly, for all images.*Received: a range of .*e-0[67] at"
    )
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "a.tflite", "int8", IMAGES)
    assert not [*tmp_path.iterdir()]


def test_one_unit_is_calibrated(tmp_path):
    model = squeezed(1)
    found = litert(export_litert(model, tmp_path / "a.tflite", "int8", IMAGES))(
        IMAGES
    )
    np.testing.assert_allclose(found, scores_of(model, IMAGES), atol=0.02)


def test_a_model_of_small_kernels_has_nothing_in_8_bits(tmp_path):
    with pytest.raises(ValueError, match="Nothing in this model can be kept"):
        export_litert(squeezed(1), tmp_path / "a.tflite", "int8")
    assert not [*tmp_path.iterdir()]


def test_squeeze_and_excitation_is_calibrated(tmp_path):
    keras.utils.set_random_seed(3)
    model = models.SqueezeExcitationNet((8, 8, 1), 5, filters=(8, 16), ratio=1)
    path = export_litert(model, tmp_path / "a.tflite", "int8", IMAGES)
    found = litert(path)(IMAGES)
    np.testing.assert_allclose(found, scores_of(model, IMAGES), atol=0.02)


def test_a_network_that_cannot_be_copied_in_float32(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, dtype="mixed_bfloat16")

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model.build((None, 4))
    model.input_spec = keras.InputSpec(shape=(None, 4))
    message = "LiteRT .*16 bits.*Expected .*dtype='float32'.*in bfloat16"
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "model.tflite")
    assert not os.listdir(tmp_path)


# OpenVINO's two files.


def content_of(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.mark.parametrize("failing", ["a.xml", "a.bin"])
@pytest.mark.parametrize("is_older", [True, False])
def test_both_files_are_replaced_or_neither(
    model, failing, is_older, tmp_path, monkeypatch
):
    import_or_skip("openvino")
    path = tmp_path / "a.xml"
    if is_older:
        export_openvino(small(filters=8, decoder_units=None), path)
    before = content_of(tmp_path)
    assert len(before) == 2 * is_older
    replace = os.replace

    def fail(source, target):
        is_new = "kept" not in str(source)
        if is_new and os.path.basename(target) == failing:
            raise OSError("The disk is full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="The disk is full"):
        export_openvino(model, path, overwrite=True)
    assert content_of(tmp_path) == before
    monkeypatch.undo()
    export_openvino(model, path, overwrite=True)
    after = content_of(tmp_path)
    assert set(after) == {"a.xml", "a.bin"}
    assert all(after[name] != before.get(name) for name in after)


def test_a_kill_leaves_no_graph_beside_other_weights(model, tmp_path):
    import_or_skip("openvino")
    path = tmp_path / "a.xml"
    export_openvino(small(filters=8, decoder_units=None), path)
    program = f"""
import os
from keras_capsules.export import checks, export_openvino
from tests.helpers.capsnet import small
write = checks.write_file
def killed(*arguments):
    write(*arguments)
    os._exit(9)
checks.write_file = killed
export_openvino(small(decoder_units=None), {str(path)!r}, overwrite=True)
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, check=False)
    assert ended.returncode == 9
    assert not path.exists() and [*tmp_path.glob(".*.partial")]
    (tmp_path / "a.bin").unlink()
    export_openvino(model, path)
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.xml"]


def test_weights_of_something_else_are_not_replaced(
    model, tmp_path, monkeypatch
):
    import_or_skip("openvino")
    other = tmp_path / "a.bin"
    other.write_text("dear")
    message = "Expected a path that does not exist, or one beside its .xml"
    with pytest.raises(ValueError, match=message):
        export_openvino(model, tmp_path / "a.xml", overwrite=True)
    assert content_of(tmp_path) == {"a.bin": b"dear"}

    # Nor if they come while the model is written.
    other.unlink()
    write = checks.write_file

    def late(path, content, overwrite):
        other.write_text("dear")
        write(path, content, overwrite)

    monkeypatch.setattr(checks, "write_file", late)
    with pytest.raises(ValueError, match="There is something at the path"):
        export_openvino(model, tmp_path / "a.xml")
    assert content_of(tmp_path) == {"a.bin": b"dear"}
