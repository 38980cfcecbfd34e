"""Networks in the formats of other runtimes compute the same as in Keras.

Every routing and every network, at sizes at which layers work on a few
examples at a time, in every format that the backend has: SavedModel, LiteRT,
ONNX and OpenVINO from TensorFlow, SavedModel from JAX, ONNX from PyTorch.
LiteRT gets its own operators only, none of TensorFlow's.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules import models
from keras_capsules import routing as routings
from keras_capsules.engine import blocks
from keras_capsules.engine import compilation
from keras_capsules.export import export_openvino
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers.testing import BACKEND
from tests.helpers.testing import arrays
from tests.helpers.testing import import_or_skip
from tests.helpers.testing import only_tensorflow

pytestmark = [
    pytest.mark.filterwarnings(
        # TensorFlow 2.21 says that its interpreter is to go.
        "ignore:.*tf.lite.Interpreter is deprecated:UserWarning",
        # Keras 3.15 uses a name that NumPy no longer has.
        "ignore:In the future `np.object`:FutureWarning",
        # PyTorch's exporter says much, of itself.
        *(
            f"ignore::{category}:torch"
            for category in ("DeprecationWarning", "FutureWarning")
        ),
        "ignore:You are using the legacy TorchScript:DeprecationWarning",
        "ignore:(Converting a tensor|Iterating over|Using len):Warning",
        "ignore:.*results are registered as constants:Warning",
        "ignore:Constant folding:UserWarning",
    ),
]

BATCHES = [1, 7]
# Those that know windows are made for poses that are matrices. All others, and
# those to come, are run in the CapsNet.
OF_MATRICES = {
    name for name, cls in routings.ROUTINGS.items() if cls().takes("windows")
}
NAMES = sorted(routings.ROUTINGS)

# Networks that a runtime cannot convert, with the operator that is to
# blame. If one of them works one day, a test says so. Large layers, of a
# million votes for each image and more, are loops over the images.
MISSING = {
    ("litert", "full covariances"): "tf.Cholesky",
    ("onnx", "full covariances"): "Cholesky",
    ("openvino", "full covariances"): "Cholesky",
    ("litert", "large dynamic"): "tf.TensorListReserve",
    # ONNX Runtime 1.32 does not load the loops that tf2onnx 1.17 writes.
    ("onnx", "large dynamic"): "Tensor element type mismatch",
    ("onnx", "large self_routing"): "Tensor element type mismatch",
}
if BACKEND == "torch":
    MISSING = {
        # PyTorch's slices of sizes have two dtypes.
        ("onnx", "padded windows"): "Optype (Concat)",
        # Keras's layer normalization has a shape that is no constant.
        ("onnx", "InvertedAttentionCapsNet"): "Failed to export a node",
    }
# Networks that crash a runtime, and the tests with it.
CRASHES = {("litert", "large self_routing")}


# Runtimes: functions of a model and the path of a new folder that return a
# function of an array, whose outputs are in any order.


def saved_model(model, folder, **options):
    model.export(folder / "saved", verbose=False, **options)
    served = tf.saved_model.load(folder / "saved")
    return lambda x: [
        np.asarray(y) for y in keras.tree.flatten(served.serve(x))
    ]


def litert(model, folder, **options):
    if not (folder / "saved").exists():
        model.export(folder / "saved", verbose=False, **options)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    return interpreted(converter)


def interpreted(converter):
    interpreter = tf.lite.Interpreter(model_content=converter.convert())

    def run(x):
        (place,) = interpreter.get_input_details()
        interpreter.resize_tensor_input(place["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place["index"], x)
        interpreter.invoke()
        return [
            interpreter.get_tensor(each["index"])
            for each in interpreter.get_output_details()
        ]

    return run


def onnx(model, folder, **options):
    # The extra `formats` has all of them.
    import_or_skip("onnxscript" if BACKEND == "torch" else "tf2onnx")
    runtime = import_or_skip("onnxruntime")
    path = folder / "model.onnx"
    model.export(path, format="onnx", verbose=False, **options)
    session = runtime.InferenceSession(path)
    (place,) = session.get_inputs()
    return lambda x: session.run(None, {place.name: x})


def openvino(model, folder, input_signature=None):
    """Keras's own export is not right for all of them."""
    runtime = import_or_skip("openvino")
    size = input_signature[0].shape[0] if input_signature else None
    path = export_openvino(model, folder / "model.xml", batch_size=size)
    compiled = runtime.Core().compile_model(
        path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    # Nothing but what the model has.
    assert len(compiled.outputs) == len(keras.tree.flatten(model.output))
    return lambda x: [*compiled(x).values()]


RUNTIMES = {
    "tensorflow": {
        "saved_model": saved_model,
        "litert": litert,
        "onnx": onnx,
        "openvino": openvino,
    },
    "jax": {"saved_model": saved_model},
    "torch": {"onnx": onnx},
}[BACKEND]


def shake(model):
    """Gives weights other values than those at first, many of which are 0."""
    numbers = np.random.default_rng(5)
    for weight in model.trainable_variables:
        value = numbers.normal(size=weight.shape)
        weight.assign(weight + 0.3 * value / np.sqrt(weight.shape[0]))
    return model


def inputs_of(shape, batch):
    numbers = np.random.default_rng(batch)
    return numbers.uniform(size=(batch, *shape)).astype("float32")


def check(model, shape, folder, batches=BATCHES, what=None, **options):
    """Compares all runtimes' outputs with Keras's own."""
    exact = [
        arrays(model(x, training=False))
        for x in (inputs_of(shape, batch) for batch in batches)
    ]
    for expected in exact:
        assert all(each.std() > 1e-4 for each in expected)  # no constants
    for form, make in RUNTIMES.items():
        if (form, what) in CRASHES:
            continue
        missing = MISSING.get((form, what))
        if missing is None:
            run = make(model, folder, **options)
            for batch, expected in zip(batches, exact, strict=True):
                compare(run(inputs_of(shape, batch)), expected, form)
            continue
        with pytest.raises(Exception) as raised:
            make(model, folder, **options)(inputs_of(shape, batches[0]))
        assert missing in str(raised.value), form


def compare(ours, exact, form):
    assert len(ours) == len(exact), form
    for each in exact:
        (one,) = (y for y in ours if y.shape == each.shape)
        np.testing.assert_allclose(
            one, each, rtol=1e-5, atol=1e-5, err_msg=form
        )


def capsnet(routing, num_classes):
    """The paper's, whose 1152 capsules are blocks of eight images."""
    return models.CapsNet(
        filters=32,
        num_classes=num_classes,
        routing=routing,
        decoder_units=None,
    )


def of_layer(layer, *shape, **options):
    inputs = keras.Input(shape, **options)
    return shake(keras.Model(inputs, layer(inputs)))


@pytest.mark.parametrize(
    ("name", "num_classes"), [(name, 10) for name in NAMES] + [("dynamic", 3)]
)
def test_routings(name, num_classes, tmp_path):
    if name in OF_MATRICES:
        shape = (288, 4, 4)
        model = of_layer(CapsuleLayer(10, (4, 4), routing=name), *shape)
    else:
        shape = (28, 28, 1)
        model = shake(capsnet(name, num_classes))
    check(model, shape, tmp_path)


@pytest.mark.parametrize("name", ["em", "self_routing"])
def test_padded_windows_with_gaps(name, tmp_path):
    """Of capsules that several output capsules have in common."""
    shape = (7, 5, 3, 4, 4)
    layer = ConvCapsules2D(
        2,
        (4, 4),
        kernel_size=3,
        strides=2,
        padding="same",
        routing=name,
        coordinate_addition=True,
    )
    check(of_layer(layer, *shape), shape, tmp_path, what="padded windows")


@pytest.mark.parametrize("batch", [4, 11])
def test_a_batch_of_known_size(batch, tmp_path):
    """Keras leaves the size open when it exports such a model."""
    shape = (1152, 8)
    model = of_layer(CapsuleLayer(10, 16), *shape, batch_size=batch)
    check(model, shape, tmp_path, [batch])


@only_tensorflow
@pytest.mark.parametrize("batch", [1, 4, 11])
def test_a_fixed_batch(batch, tmp_path, monkeypatch):
    """All runtimes take one block.

    Several blocks are a loop, with functions for XLA: only TensorFlow takes it.
    """
    monkeypatch.setattr(compilation, "device", lambda: "cpu")
    shape = (1152, 8)
    model = of_layer(CapsuleLayer(10, 16), *shape)
    assert blocks.block_size(1152 * 160, 1152 * 160 * 8) == 8
    signature = [keras.InputSpec(shape=(batch, *shape), dtype="float32")]
    if batch < 8:
        check(model, shape, tmp_path, [batch], input_signature=signature)
        return
    run = saved_model(model, tmp_path, input_signature=signature)
    images = inputs_of(shape, batch)
    exact = np.asarray(model(images, training=False))
    compare(run(images), [exact], "saved_model")


@only_tensorflow
def test_litert_of_a_model_of_one_image():
    shape = (1152, 8)
    model = of_layer(CapsuleLayer(10, 16), *shape, batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    (place,) = interpreter.get_input_details()
    images = inputs_of(shape, 1)
    interpreter.set_tensor(place["index"], images)
    interpreter.invoke()
    (result,) = interpreter.get_output_details()
    ours = interpreter.get_tensor(result["index"])
    compare([ours], [np.asarray(model(images, training=False))], "litert")


@only_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dynamic", "self_routing"])
def test_large_layers(name, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_USUAL_BATCH", 10**12)
    shape = (31, 8)
    model = of_layer(CapsuleLayer(10, 16, routing=name), *shape)
    check(model, shape, tmp_path, what=f"large {name}")


@only_tensorflow
@pytest.mark.slow
def test_full_covariances(tmp_path):
    routing = VariationalBayesRouting(covariance="full")
    model = of_layer(CapsuleLayer(3, 4, routing=routing), 31, 4)
    check(model, (31, 4), tmp_path, what="full covariances")


# Networks, all of those that there are.

NETWORKS = {
    "CapsNet": {"filters": 16, "num_primary_capsules": 4},
    "ConvNet": {"filters": (4, 8, 8)},
    "DeepCaps": {
        "filters": 16,
        "num_cell_capsules": (4, 4, 4, 4),
        "capsule_dim": 8,
    },
    "EfficientCapsNet": {"filters": (8, 16, 16)},
    "InvertedAttentionCapsNet": {
        "filters": (8, 16),
        "num_primary_capsules": 4,
        "num_conv_capsules": (4, 4),
    },
    "MatrixCapsNet": {
        "filters": 8,
        "num_primary_capsules": 4,
        "num_conv_capsules": (4, 4),
    },
    "SqueezeExcitationNet": {"filters": (4, 8, 8)},
}


def test_all_networks_are_here():
    assert set(NETWORKS) == {
        name
        for name, each in vars(models).items()
        if isinstance(each, type) and issubclass(each, keras.Model)
    } - {"CapsuleNetwork"}


# These take longest, and are made of layers that are in the tests above.
SLOW = {"DeepCaps", "MatrixCapsNet", "SqueezeExcitationNet"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in NETWORKS
    ],
)
def test_networks(name, tmp_path):
    model = shake(getattr(models, name)(**NETWORKS[name]))
    check(model, (28, 28, 1), tmp_path, what=name)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [3, 10])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_papers_sizes(name, num_classes, tmp_path):
    model = shake(getattr(models, name)(num_classes=num_classes))
    check(model, (28, 28, 1), tmp_path, what=name)
