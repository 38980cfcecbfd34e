"""Networks saved, and loaded in a new process."""

import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import MarginLoss
from keras_capsules.models import CapsuleNetwork
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import evaluate
from tests.helpers.capsnet import small
from tests.helpers.networks import NAMES
from tests.helpers.networks import OPTIONS
from tests.helpers.networks import images
from tests.helpers.networks import make
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


RELOAD = """
import json
import sys

import keras
import numpy as np

import keras_capsules

folder = sys.argv[1]
data = dict(np.load(folder + "/data.npz"))
model = keras.saving.load_model(folder + "/model.keras", safe_mode=True)
results = {
    "type": type(model).__name__,
    "config": model.get_config(),
    "loss": keras.saving.serialize_keras_object(model.loss),
    "iterations": int(model.optimizer.iterations),
    "evaluation": model.evaluate(
        data["images"], data["labels"], verbose=0, return_dict=True
    ),
}
np.save(folder + "/scores.npy", model.predict(data["images"], verbose=0))
np.save(folder + "/decoded.npy", model.reconstruct(data["images"]))
model.fit(data["images"], data["labels"], batch_size=7, verbose=0)
results["iterations_after"] = int(model.optimizer.iterations)
weights = [keras.ops.convert_to_numpy(each) for each in model.weights]
np.savez(folder + "/weights.npz", *weights)
with open(folder + "/results.json", "w") as file:
    json.dump(results, file, default=float)
"""


def test_loads_in_a_new_process_and_trains_on(tmp_path):
    model = small(
        conv_strides=1,
        primary_strides=1,
        routing=DynamicRouting(2, leaky=True),
        decoder_units=(6, 7),
        dtype="float32",
        name="mine",
    )
    loss = MarginLoss(0.8, 0.2, absent_weight=0.7)
    model.compile("adam", loss=loss, metrics=["accuracy"], **QUICK)
    model.fit(IMAGES, LABELS, batch_size=3, epochs=2, verbose=0)
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    model.save(tmp_path / "model.keras")
    subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": BACKEND},
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["type"] == "CapsNet"
    assert results["config"] == json.loads(json.dumps(model.get_config()))
    assert results["loss"] == keras.saving.serialize_keras_object(loss)
    assert results["iterations"] == 6
    assert results["evaluation"] == pytest.approx(
        evaluate(model, IMAGES, LABELS), rel=1e-5
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "scores.npy"),
        model.predict(IMAGES, verbose=0),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "decoded.npy"), model.reconstruct(IMAGES), atol=1e-6
    )
    # Adam's moments were saved too, or else the next step would differ.
    model.fit(IMAGES, LABELS, batch_size=7, verbose=0)
    assert results["iterations_after"] == 7
    trained = np.load(tmp_path / "weights.npz")
    assert len(trained.files) == len(model.weights)
    for name, weight in zip(trained.files, model.weights, strict=True):
        np.testing.assert_allclose(trained[name], numpy(weight), atol=1e-5)


def test_weights_alone(tmp_path):
    model, twin = small(), small()
    assert not np.allclose(model.get_weights()[0], twin.get_weights()[0])
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras", safe_mode=True)


# The first layer of each network that has weights.
FIRST = {
    "CapsNet": "convolution",
    "ConvNet": "convolution_1",
    "DeepCaps": "convolution",
    "EfficientCapsNet": "convolution_1",
    "InvertedAttentionCapsNet": "convolution_1",
    "MatrixCapsNet": "convolution",
    "SqueezeExcitationNet": "stem_convolution",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_layers_stay_frozen(name):
    model = make(name)
    assert "frozen" not in model.get_config()
    model.get_layer(FIRST[name]).trainable = False
    frozen = [FIRST[name]]
    if isinstance(model, CapsuleNetwork):
        last = model.decoder.layers[-1]
        last.trainable = False
        frozen.append(f"decoder/{last.name}")
    config = json.loads(json.dumps(model.get_config()))
    assert config["frozen"] == frozen
    loaded = type(model).from_config(config)
    assert loaded.get_config() == model.get_config()
    paths = [each.path for each in model.trainable_weights]
    assert [each.path for each in loaded.trainable_weights] == paths
    assert len(paths) < len(model.weights)
    model.trainable = False
    loaded = type(model).from_config(model.get_config())
    assert loaded.trainable_weights == []


def test_layers_in_a_stack_stay_frozen():
    model = make("InvertedAttentionCapsNet")
    model.get_layer("class_capsules").layers[0].trainable = False
    config = model.get_config()
    assert config["frozen"] == ["class_capsules/layers/0"]
    loaded = type(model).from_config(config)
    assert loaded.get_config() == config
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


def test_layers_in_wrappers_stay_frozen(tmp_path):
    inputs = keras.Input((5, 8, 4))
    inner = keras.layers.TimeDistributed(keras.layers.GRU(3, name="inner"))
    outer = keras.layers.Bidirectional(
        keras.layers.GRU(2, return_sequences=True), name="outer"
    )
    x = keras.layers.Reshape((5, 1, 4))(outer(inner(inputs)))
    model = CapsuleNetwork(inputs, CapsuleLayer(3, 4, name="top")(x))
    assert len(model.trainable_weights) == 3 + 6 + 2
    inner.layer.trainable = False
    outer.backward_layer.trainable = False
    assert len(model.trainable_weights) == 3 + 2
    # The same on every backend, because files are read on others.
    assert model.get_config()["frozen"] == [
        f"{inner.name}/layer",
        f"{inner.name}/layer/cell",
        "outer/backward_layer",
        "outer/backward_layer/cell",
    ]
    images = np.random.default_rng(0).normal(size=(2, 5, 8, 4))
    loaded = check_saving(model, images.astype("float32"), tmp_path)
    assert [each.shape for each in loaded.trainable_weights] == [
        each.shape for each in model.trainable_weights
    ]


class Branches(keras.layers.Layer):
    """Keeps layers in a dictionary and in a private attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.named = {"one": keras.layers.Dense(4), "other": [Dense12()]}
        self._hidden = keras.layers.Dense(7)

    def build(self, input_shape):
        self.named["one"].build(input_shape)
        self._hidden.build((None, 4))
        self.named["other"][0].build((None, 7))

    def call(self, inputs):
        x = self._hidden(self.named["one"](inputs))
        return self.named["other"][0](x)


class Dense12(keras.layers.Dense):
    def __init__(self, units=12, **kwargs):
        super().__init__(units, **kwargs)


def test_layers_in_dictionaries_and_private_attributes_stay_frozen(tmp_path):
    inputs = keras.Input((4,))
    branches = Branches(name="branches")
    x = keras.layers.Reshape((3, 4))(branches(inputs))
    model = CapsuleNetwork(inputs, CapsuleLayer(3, 4, name="top")(x))
    branches._hidden.trainable = False
    branches.named["other"][0].trainable = False
    # The same on every backend, because files are read on others.
    assert model.get_config()["frozen"] == [
        "branches/named/other/0",
        "branches/_layers/2",
    ]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    with keras.saving.custom_object_scope(
        {"Branches": Branches, "Dense12": Dense12}
    ):
        loaded = check_saving(model, x, tmp_path)
    assert [each.shape for each in loaded.trainable_weights] == [
        each.shape for each in model.trainable_weights
    ]
    assert len(model.trainable_weights) == 4


def test_normalizations_of_a_routing_stay_frozen():
    model = make("MatrixCapsNet", routing="variational_bayes")
    before = len(model.trainable_weights)
    for layer in model.layers:
        for each in getattr(layer, "routing_weights", {}).values():
            each.trainable = False
    assert len(model.trainable_weights) < before
    loaded = type(model).from_config(model.get_config())
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


def test_layers_of_one_name_are_told_apart_in_quantization(tmp_path):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(12, name="hidden")(inputs)
    capsules = CapsuleLayer(3, 4, name="top")(keras.layers.Reshape((3, 4))(x))
    decoder = keras.Sequential(
        [
            keras.Input((3, 4)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="hidden"),
        ]
    )
    model = CapsuleNetwork(inputs, capsules, decoder)
    hidden = model.get_layer("hidden")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights
        model.quantize("int8", filters=lambda layer: layer is hidden)
        path = tmp_path / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert loaded.get_layer("hidden").kernel.dtype == "int8"
    assert loaded.decoder.layers[-1].kernel.dtype == "float32"
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_frozen_layers_are_not_trained_after_loading(tmp_path):
    model = small()
    model.get_layer("convolution").trainable = False
    model.compile("adam", MarginLoss(), **QUICK)
    model.fit(IMAGES, LABELS, verbose=0)
    loaded = saved_and_loaded(model, tmp_path)
    before = numpy(loaded.get_layer("convolution").kernel)
    loaded.fit(IMAGES, LABELS, verbose=0)
    after = numpy(loaded.get_layer("convolution").kernel)
    np.testing.assert_array_equal(after, before)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quant")
@pytest.mark.parametrize(
    "filters",
    [
        lambda layer: layer.name == "decoder_hidden_1",
        lambda layer: isinstance(layer, keras.layers.Conv2D),
        lambda layer: False,
        "convolution|pixels",
    ],
    ids=["name", "type", "none", "pattern"],
)
def test_filters_of_quantization_are_saved(filters, tmp_path):
    model, x = small(), images()
    model.quantize("int8", filters=filters)
    loaded = saved_and_loaded(model, tmp_path)

    def modes(network):
        layers = [*network.layers, *network.decoder.layers]
        return {
            each.name: getattr(each, "quantization_mode", None)
            for each in layers
        }

    assert modes(loaded) == modes(model)
    tensor = keras.ops.convert_to_tensor(x)
    np.testing.assert_allclose(
        numpy(loaded.reconstruct(tensor)),
        numpy(model.reconstruct(tensor)),
        rtol=1e-5,
        atol=1e-6,
    )
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())


def test_a_name_is_no_pattern():
    """`decoder_hidden_1` is part of `decoder_hidden_10`."""
    model = small(decoder_units=(6,) * 10)
    model.quantize("int8", filters=lambda x: x.name == "decoder_hidden_1")
    loaded = type(model).from_config(model.get_config())
    for network in (model, loaded):
        modes = [
            each.quantization_mode
            for each in network.decoder.layers
            if each.name.startswith("decoder_hidden")
        ]
        assert modes == ["int8"] + [None] * 9


class Forgetful(CapsuleNetwork):
    """Keeps one of its arguments, and not the other."""

    def __init__(self, units, width=4, **kwargs):
        self.width = width
        inner = small(capsule_dim=units)
        super().__init__(inner.input, inner.encoder.output, **kwargs)


def test_arguments_that_are_not_kept_cannot_be_saved(tmp_path):
    model = Forgetful(units=5)
    message = (
        r"same name \(self.units = units\), or a `get_config` of Forgetful's "
        "own. Received: a Forgetful without attribute `units`"
    )
    with pytest.raises(ValueError, match=message):
        model.get_config()
    with pytest.raises(ValueError, match=message):
        model.save(tmp_path / "model.keras")


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's way to save")
@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_of_pytorch(name, tmp_path):
    """Of one instance, into another: names do not count what else was made."""
    import torch

    model = make(name)
    keras.layers.Dense(3).build((2, 2))
    twin = make(name)
    for weight in model.weights:
        weight.assign(weight + 0.1)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    missing, unexpected = twin.load_state_dict(state, strict=False)
    # Keras numbers the seeds of its Dropout.
    for key in (*missing, *unexpected):
        assert "seed_generator" in key and name == "ConvNet"
    x = images()
    scores = model.predict(x, verbose=0)
    np.testing.assert_array_equal(twin.predict(x, verbose=0), scores)
    assert not np.allclose(make(name).predict(x, verbose=0), scores)
