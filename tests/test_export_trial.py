"""Exports are run before they are kept, and compared with the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import PrimaryCapsules
from keras_capsules.export import export_litert
from keras_capsules.export import export_onnx
from keras_capsules.export import export_openvino
from keras_capsules.export import export_saved_model
from keras_capsules.export import trial
from keras_capsules.routing import VariationalBayesRouting
from tests.fixtures import networks
from tests.helpers.testing import import_or_skip
from tests.helpers.testing import only_tensorflow

pytestmark = [
    only_tensorflow,
    pytest.mark.filterwarnings(
        "ignore:.*tf.lite.Interpreter is deprecated:UserWarning",
        "ignore:In the future `np.object`:FutureWarning",
    ),
]
EXPORTS = {
    "litert": (export_litert, "model.tflite", "tensorflow"),
    "onnx": (export_onnx, "model.onnx", "tf2onnx"),
    "openvino": (export_openvino, "model.xml", "openvino"),
}


def write(form, model, folder, **options):
    export, name, package = EXPORTS[form]
    import_or_skip(package)
    return export(model, folder / name, **options)


def of_any_size():
    """A network of images of any size."""
    inputs = keras.Input((None, None, 1))
    poses = PrimaryCapsules(2, 4, kernel_size=3)(inputs)
    return keras.Model(inputs, CapsuleLength()(poses))


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("make", [of_any_size, networks.texts])
def test_sizes_that_a_model_leaves_open(form, make, tmp_path):
    write(form, make(), tmp_path)
    assert len([*tmp_path.iterdir()]) == 1 + (form == "openvino")


def test_no_size_fits(tmp_path):
    inputs = keras.Input((None, 1))
    model = keras.Model(inputs, keras.layers.Conv1D(2, 999)(inputs))
    message = r"one of the sizes \(8, .*256\)\. Received: an .* \(3, None, 1\)"
    with pytest.raises(ValueError, match=message):
        write("litert", model, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("kind", ["list", "dictionary"])
def test_many_outputs(form, kind, tmp_path):
    """Whose names, sorted as text, have another order."""
    inputs = keras.Input((5,))
    outputs = [keras.layers.Dense(size)(inputs) for size in range(1, 13)]
    if kind == "dictionary":
        outputs = {"z": outputs[0], "a2": outputs[1], "a10": outputs[2]}
    write(form, keras.Model(inputs, outputs), tmp_path)


@pytest.mark.parametrize("form", EXPORTS)
def test_other_results_are_refused(form, tmp_path, monkeypatch):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    real = trial.run

    def run(*arguments):
        given, (outputs,) = real(*arguments)
        return given, [outputs + 0.1]

    monkeypatch.setattr(trial, "run", run)
    message = (
        r"computes something else than the model\. Nothing was written\. "
        r"Expected output 0 of shape \(3, 3\) .* Received: shape \(3, 3\) and "
        r"a difference of 0\.1"
    )
    with pytest.raises(ValueError, match=message):
        write(form, model, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_what_is_the_same():
    exact = [np.array([[1.0, 20.0]]), np.array([np.nan])]
    trial.check_same("It", [exact[0] + 0.19, np.array([7.0])], exact)
    for wrong in (exact[0] + 0.21, exact[0] + np.nan, exact[0][0]):
        with pytest.raises(ValueError, match="It computes something else"):
            trial.check_same("It", [wrong, exact[1]], exact)


def test_sums_with_a_shift_in_openvino(tmp_path):
    """OpenVINO 2026.4 computes these wrongly, for batches of any size."""
    runtime = import_or_skip("openvino")

    class Shifted(keras.layers.Layer):
        def call(self, x):
            shift = np.array([0.3, -0.2, 0.5], "float32")
            return shift - 0.1 * keras.ops.sum(x, axis=2)

    inputs = keras.Input((3, 16))
    model = keras.Model(inputs, Shifted()(inputs))
    path = write("openvino", model, tmp_path)
    compiled = runtime.Core().compile_model(
        path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    images = np.random.default_rng(1).normal(size=(7, 3, 16)).astype("float32")
    np.testing.assert_allclose(compiled(images)[0], model(images), atol=1e-5)


def test_a_network_that_takes_pixels_as_they_are(tmp_path):
    inputs = keras.Input((6, 5, 1), dtype="uint8")
    pixels = keras.layers.Rescaling(1 / 255)(inputs)
    capsules = PrimaryCapsules(3, 4, kernel_size=(6, 5))(pixels)
    capsules = keras.layers.Reshape((3, 4))(capsules)
    model = keras.Model(inputs, CapsuleLength()(capsules))
    path = export_saved_model(model, tmp_path / "model", preprocess=True)
    images = np.random.default_rng(3).integers(256, size=(7, 6, 5, 1))
    images = images.astype("uint8")
    served = tf.saved_model.load(path)
    np.testing.assert_allclose(served.serve(images), model(images), atol=1e-5)


def test_portable_files_have_no_preprocessing(tmp_path):
    inputs = keras.Input((6, 5, 1))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    message = "ScaleAndTranslate.*Received: preprocess=True, portable=True"
    with pytest.raises(ValueError, match=message):
        export_saved_model(
            model, tmp_path / "model", preprocess=True, portable=True
        )
    assert not [*tmp_path.iterdir()]


def test_portable_files_factorize_no_matrices(tmp_path):
    """The converter of TensorFlow.js lacks the operators."""
    routing = VariationalBayesRouting(covariance="full")
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, CapsuleLayer(3, 4, routing=routing)(inputs))
    message = "TensorFlow.js cannot run this model: it has no operator Cholesky"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "model", portable=True)
    assert not [*tmp_path.iterdir()]
    export_saved_model(model, tmp_path / "model")


def test_volumes_in_8_bits(tmp_path):
    """The calibration of products of six axes ended the process."""
    inputs = keras.Input((5, 6, 7, 1))
    poses = PrimaryCapsules(2, 4, kernel_size=3, strides=2)(inputs)
    capsules = CapsuleLength()(CapsuleLayer(3, 7)(poses))
    images = np.random.default_rng(0).uniform(size=(8, 5, 6, 7, 1))
    images = images.astype("float32")
    model = keras.Model(inputs, capsules)
    message = r"Nothing in this model can be calibrated.*Received: .*CONV_3D"
    with pytest.raises(ValueError, match=message):
        write(
            "litert", model, tmp_path, quantization="int8", calibration=images
        )
    scores = keras.layers.Dense(3)(capsules)
    model = keras.Model(inputs, scores)
    write("litert", model, tmp_path, quantization="int8", calibration=images)
