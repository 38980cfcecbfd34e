"""Exports: preprocessing, names of classes, quantization, refusals."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import CapsuleLayer
from keras_capsules import export_saved_model
from keras_capsules import models
from keras_capsules import pruning
from keras_capsules.engine import blocks
from keras_capsules.export import export_litert
from keras_capsules.export import export_onnx
from keras_capsules.export import export_openvino
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers.capsnet import small
from tests.helpers.testing import BACKEND
from tests.helpers.testing import import_or_skip
from tests.helpers.testing import only_tensorflow

pytestmark = [
    pytest.mark.skipif(
        BACKEND == "torch",
        reason="Keras makes no SavedModels of PyTorch models",
    ),
    pytest.mark.filterwarnings(
        "ignore:.*tf.lite.Interpreter is deprecated:UserWarning",
    ),
]

NAMES = ["cat", "dog", "owl"]
# Neither of the model's size, 8 x 8, nor square.
PIXELS = np.random.default_rng(2).integers(
    0, 256, size=(5, 13, 11, 1), dtype="uint8"
)
IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return small()


def scores_of(model, images):
    return model.predict(images, verbose=0)


def resized(pixels):
    """As Pillow and others do: smoothed before it shrinks."""
    images = tf.image.resize(pixels / np.float32(255), (8, 8), antialias=True)
    return images.numpy()


# SavedModels.


SERVE = """
import sys

import numpy as np

for name in ("keras", "keras_capsules", "jax", "torch"):
    sys.modules[name] = None  # as if it was not installed
import tensorflow as tf

path, images, results = sys.argv[1:]
served = tf.saved_model.load(path)
found = served.serve(np.load(images))
np.savez(results, **{name: each.numpy() for name, each in found.items()})
"""


def test_pixels_in_and_names_out_with_tensorflow_alone(model, tmp_path):
    path = export_saved_model(
        model, tmp_path / "model", preprocess=True, class_names=NAMES
    )
    np.save(tmp_path / "images.npy", PIXELS)
    arguments = [path, tmp_path / "images.npy", tmp_path / "results.npz"]
    subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
    )
    found = np.load(tmp_path / "results.npz", allow_pickle=True)
    expected = scores_of(model, resized(PIXELS))
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    labels = [NAMES[each].encode() for each in expected.argmax(axis=-1)]
    assert found["labels"].tolist() == labels


def test_images_of_the_size_of_the_model_are_divided_by_255(model, tmp_path):
    path = export_saved_model(model, tmp_path / "model", preprocess=True)
    served = tf.saved_model.load(path)
    pixels = np.arange(64, dtype="uint8").reshape(1, 8, 8, 1) * 4
    expected = scores_of(model, pixels / np.float32(255))
    np.testing.assert_allclose(served.serve(pixels), expected, atol=1e-5)
    # The other endpoints take what the model takes.
    expected = scores_of(model, IMAGES)
    np.testing.assert_allclose(served.scores(IMAGES), expected, atol=1e-5)
    np.testing.assert_allclose(
        served.capsules(IMAGES), model.encode(IMAGES), atol=1e-5
    )
    assert served.reconstruct(IMAGES).shape == IMAGES.shape


def test_names_are_the_default_signature(model, tmp_path):
    path = export_saved_model(model, tmp_path / "model", class_names=NAMES)
    served = tf.saved_model.load(path)
    signature = served.signatures["serving_default"]
    assert set(signature.structured_outputs) == {"scores", "labels"}
    images = IMAGES.copy()
    images[3, 0, 0, 0] = np.nan
    found = signature(images=tf.constant(images))
    expected = scores_of(model, images)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    labels = found["labels"].numpy().tolist()
    assert labels[3] == b"" and np.isnan(expected[3]).all()
    assert labels[:3] == [
        NAMES[each].encode() for each in expected[:3].argmax(axis=-1)
    ]


@pytest.mark.parametrize(
    "names",
    [
        "cat",
        ["cat", "dog"],
        ["cat", "dog", "dog"],
        ["cat", "dog", ""],
        [1, 2, 3],
    ],
    ids=str,
)
def test_rejects_names_that_do_not_fit(model, names, tmp_path):
    message = "`class_names`. Expected a list of 3 different names.*Received: "
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "model", class_names=names)
    assert not os.listdir(tmp_path)


def test_rejects_names_of_no_classes(tmp_path):
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.ReLU()(inputs))
    with pytest.raises(ValueError, match="one output of shape .batch, num_cla"):
        export_saved_model(model, tmp_path / "model", class_names=NAMES)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("shape", [(4,), (None, 4, 1)], ids=str)
def test_rejects_preprocessing_of_what_is_no_image(shape, tmp_path):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.ReLU()(inputs))
    with pytest.raises(ValueError, match="takes images of one size"):
        export_saved_model(model, tmp_path / "model", preprocess=True)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("option", ["preprocess", "portable"])
def test_rejects_what_is_no_boolean(model, option, tmp_path):
    message = rf"`{option}`. Expected True or False. Received: {option}='yes'"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "model", **{option: "yes"})


def operations(served):
    """The names of all operations in a SavedModel."""
    graph = served.signatures["serving_default"].graph.as_graph_def()
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    return {node.op for node in nodes}


@only_tensorflow
def test_portable_models_have_no_loops(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_USUAL_BATCH", 10**12)
    inputs = keras.Input((31, 8))
    model = keras.Model(inputs, CapsuleLayer(3, 5)(inputs))
    x = np.random.default_rng(0).normal(size=(7, 31, 8)).astype("float32")
    expected = scores_of(model, x)
    for portable in (False, True):
        path = export_saved_model(
            model, tmp_path / str(portable), portable=portable
        )
        served = tf.saved_model.load(path)
        loops = [each for each in operations(served) if "While" in each]
        assert bool(loops) != portable
        np.testing.assert_allclose(served.serve(x), expected, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="is about JAX")
def test_jax_makes_no_other_files(model, tmp_path):
    for export, path, options in (
        (export_saved_model, "model", {"portable": True}),
        (export_litert, "model.tflite", {}),
        (export_onnx, "model.onnx", {}),
        (export_openvino, "model.xml", {}),
    ):
        message = "KERAS_BACKEND=tensorflow .*keras.backend.backend..='jax'"
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / path, **options)
    assert not os.listdir(tmp_path)


# LiteRT, ONNX, OpenVINO.


def litert(path):
    interpreter = tf.lite.Interpreter(str(path))
    (place,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()

    def run(x):
        interpreter.resize_tensor_input(place["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def onnx(path):
    session = import_or_skip("onnxruntime").InferenceSession(path)
    (place,) = session.get_inputs()
    return lambda x: session.run(None, {place.name: x})[0]


def openvino(path):
    compiled = (
        import_or_skip("openvino")
        .Core()
        .compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    return lambda x: compiled(x)[0]


FORMATS = {
    "litert": (export_litert, ".tflite", litert, "tensorflow"),
    "onnx": (export_onnx, ".onnx", onnx, "tf2onnx"),
    "openvino": (export_openvino, ".xml", openvino, "openvino"),
}
formats = pytest.mark.parametrize("form", FORMATS)


@only_tensorflow
@formats
def test_a_pruned_network(form, tmp_path):
    export, suffix, load, package = FORMATS[form]
    import_or_skip(package)
    keras.utils.set_random_seed(3)
    model = models.EfficientCapsNet(
        (28, 28, 1), 3, filters=(4, 8, 8), decoder_units=None
    )
    images = np.random.default_rng(1).uniform(size=(11, 28, 28, 1))
    images = images.astype("float32")
    model = pruning.prune(model, images, 0.5).model
    path = export(model, tmp_path / f"model{suffix}")
    assert path == str(tmp_path / f"model{suffix}")
    run = load(path)
    for size in (1, 7):
        expected = scores_of(model, images[:size])
        np.testing.assert_allclose(run(images[:size]), expected, atol=1e-5)


@only_tensorflow
@formats
def test_large_layers_and_fixed_batches(form, tmp_path, monkeypatch):
    """Where SavedModels have loops, other runtimes get none."""
    export, suffix, load, package = FORMATS[form]
    import_or_skip(package)
    monkeypatch.setattr(blocks, "_USUAL_BATCH", 10**12)
    monkeypatch.setattr(blocks, "_CPU_BUDGET", 1)
    inputs = keras.Input((31, 8))
    model = keras.Model(inputs, CapsuleLayer(3, 5)(inputs))
    x = np.random.default_rng(0).normal(size=(7, 31, 8)).astype("float32")
    expected = scores_of(model, x)
    for size in (None, 7):
        path = tmp_path / f"{size}{suffix}"
        run = load(export(model, path, batch_size=size))
        np.testing.assert_allclose(run(x), expected, atol=1e-5)


@only_tensorflow
@formats
def test_what_a_runtime_lacks_is_named_and_nothing_is_written(form, tmp_path):
    export, suffix, _, package = FORMATS[form]
    import_or_skip(package)
    routing = VariationalBayesRouting(1, covariance="full")
    inputs = keras.Input((7, 4))
    model = keras.Model(inputs, CapsuleLayer(3, 4, routing=routing)(inputs))
    with pytest.raises(ValueError, match="has no operator Cholesky.*Nothing w"):
        export(model, tmp_path / f"model{suffix}")
    assert not os.listdir(tmp_path)


@only_tensorflow
@formats
def test_paths_and_older_files(form, model, tmp_path):
    export, suffix, _, package = FORMATS[form]
    import_or_skip(package)
    message = rf"ends in '\{suffix}'. Received: path="
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "model")
    path = tmp_path / f"model{suffix}"
    path.write_text("dear")
    with pytest.raises(ValueError, match="Expected another path, or overw"):
        export(model, path)
    assert path.read_text() == "dear"
    with pytest.raises(ValueError, match="`batch_size`. Expected a positive"):
        export(model, path, batch_size=0, overwrite=True)
    with pytest.raises(ValueError, match="a Keras model that is built"):
        export(None, path)
    export(model, path, overwrite=True)
    assert path.stat().st_size > 100
    names = {path.name, "model.bin"} if form == "openvino" else {path.name}
    assert set(os.listdir(tmp_path)) == names


@only_tensorflow
@pytest.mark.parametrize(
    ("options", "tolerance", "share"),
    [
        ({"quantization": "float16"}, 0.002, 0.7),
        ({"quantization": "int8"}, 0.05, 0.5),
        ({"quantization": "int8", "calibration": IMAGES}, 0.15, 0.5),
        (
            {"quantization": "int8", "calibration": IMAGES, "batch_size": 2},
            0.15,
            0.5,
        ),
    ],
    ids=["float16", "int8", "calibrated", "calibrated, batches of 2"],
)
def test_quantization(options, tolerance, share, tmp_path):
    keras.utils.set_random_seed(3)
    # So large that weights are most of the file.
    model = small(filters=256, num_primary_capsules=32, decoder_units=None)
    plain = export_litert(model, tmp_path / "plain.tflite")
    path = export_litert(model, tmp_path / "model.tflite", **options)
    assert os.path.getsize(path) < share * os.path.getsize(plain)
    size = options.get("batch_size", 7)
    expected = scores_of(model, IMAGES[:size])
    found = litert(path)(IMAGES[:size])
    assert found.dtype == np.float32
    largest = np.abs(found - expected).max()
    assert 1e-6 < largest < tolerance


@only_tensorflow
def test_options_of_quantization_are_checked(model, tmp_path):
    path = tmp_path / "model.tflite"
    message = "Expected one of 'float16', 'int8'. Received: quantization='int4'"
    with pytest.raises(ValueError, match=message):
        export_litert(model, path, "int4")
    message = "Expected quantization='int8', or calibration=None"
    with pytest.raises(ValueError, match=message):
        export_litert(model, path, "float16", IMAGES)
    with pytest.raises(ValueError, match=r"\(batch, 8, 8, 1\)"):
        export_litert(model, path, "int8", IMAGES[:, :5])
    with pytest.raises(ValueError, match="at least one image"):
        export_litert(model, path, "int8", IMAGES[:0])
    assert not os.listdir(tmp_path)
