"""Networks are functional Keras models, with all that follows from it."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleStack
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import models
from keras_capsules.layers import PoseScores
from keras_capsules.models import CapsuleNetwork
from tests.helpers.networks import CLASSES
from tests.helpers.networks import NAMES
from tests.helpers.networks import OPTIONS
from tests.helpers.networks import SHAPE
from tests.helpers.networks import images
from tests.helpers.networks import labels
from tests.helpers.networks import make
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy

# Keras warns of every layer that has nothing to quantize.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer .* does not have a `quant"
)
of_all = pytest.mark.parametrize("name", NAMES)
# Where each network takes seconds: one with capsules and one without.
QUICK_NAMES = "CapsNet", "ConvNet"
mostly_slow = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in QUICK_NAMES else pytest.mark.slow
        )
        for name in NAMES
    ],
)


def is_capsule_network(model):
    return isinstance(model, CapsuleNetwork)


def test_the_table_has_every_network():
    assert set(OPTIONS) == set(NAMES)


@of_all
def test_is_a_graph_of_named_layers(name):
    model = make(name)
    assert [x.shape for x in model.inputs] == [(None, *SHAPE)]
    assert model.input.name == "images"
    assert model.output.shape == (None, CLASSES)
    assert model.get_layer("scores").output is model.output
    if is_capsule_network(model):
        assert model.get_layer("class_capsules").output is not None
        assert model.get_layer("decoder") is model.decoder
        with pytest.raises(ValueError, match="layer"):
            model.get_layer("head")
    # Names of layers that Keras makes up end in a number for each instance.
    again = make(name)
    paths = [weight.path for weight in model.weights]
    assert paths == [weight.path for weight in again.weights]
    assert len(set(paths)) == len(paths)
    assert [x.name for x in model.layers] == [x.name for x in again.layers]


@pytest.mark.slow
def test_paths_of_weights_are_the_same_in_every_process():
    script = (
        "from tests.helpers.networks import NAMES, make\n"
        "import json\n"
        "for name in reversed(NAMES): make(name)\n"
        "print(json.dumps({n: [w.path for w in make(n).weights]"
        " for n in NAMES}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    found = json.loads(run.stdout.splitlines()[-1])
    for name in NAMES:
        assert found[name] == [w.path for w in make(name).weights], name


@mostly_slow
def test_a_part_of_the_graph_is_a_model(name):
    model = make(name)
    layer = model.layers[-3]
    part = keras.Model(model.inputs, layer.output)
    outputs = part.predict(images(), verbose=0)
    for array, tensor in zip(
        keras.tree.flatten(outputs),
        keras.tree.flatten(layer.output),
        strict=True,
    ):
        assert array.shape == (5, *tensor.shape[1:])


@mostly_slow
def test_inputs_come_in_every_form(name):
    model, x, y = make(name), images(), labels()
    expected = model.predict(x, verbose=0)
    for inputs in ([x], (x,), {"images": x}):
        np.testing.assert_allclose(
            model.predict(inputs, verbose=0), expected, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            numpy(model(inputs)), expected, rtol=1e-5, atol=1e-6
        )
    model.compile("sgd", MarginLoss(), **QUICK)
    losses = [
        model.evaluate(inputs, y, verbose=0, return_dict=True)
        for inputs in (x, [x], {"images": x})
    ]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] == pytest.approx(losses[2])
    history = model.fit({"images": x}, y, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    if is_capsule_network(model):
        for inputs in ([x], {"images": x}):
            for one, other in zip(
                keras.tree.flatten(model.encode(inputs)),
                keras.tree.flatten(model.encode(x)),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


@mostly_slow
def test_clones(name):
    model = make(name)
    clone = keras.models.clone_model(model)
    part = keras.Model(model.inputs, model.outputs)
    assert isinstance(clone, keras.Model) and clone.name == model.name
    clone.set_weights(part.get_weights())
    np.testing.assert_array_equal(
        clone.predict(images(), verbose=0), model.predict(images(), verbose=0)
    )
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()


@of_all
def test_summary_shows_the_layers(name):
    lines = []
    model = make(name)
    model.summary(print_fn=lines.append, line_length=250)
    text = "".join(lines)
    layers = list(model.layers)
    if is_capsule_network(model):
        layers += model.decoder.layers
    assert [x.name for x in layers if x.name not in text] == []
    # A part is only that part.
    lines.clear()
    model.summary(print_fn=lines.append, layer_range=["images", "images"])
    assert "scores" not in "".join(lines)
    assert "decoder" not in "".join(lines)


@pytest.mark.slow
@of_all
def test_quantized_networks_are_saved_and_loaded(name, tmp_path):
    model, x = make(name), images()
    before = model.predict(x, verbose=0)
    model.quantize("int8")
    expected = model.predict(x, verbose=0)
    assert np.abs(expected - before).max() < 0.2
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
    if is_capsule_network(model):
        np.testing.assert_allclose(
            loaded.reconstruct(x, labels()),
            model.reconstruct(x, labels()),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.slow
def test_what_is_encoded_after_quantizing_has_the_new_weights():
    model, x = make("InvertedAttentionCapsNet"), images()
    model.encode(x)
    model.quantize("int8")
    _, activations = model.encode(x)
    np.testing.assert_allclose(
        activations, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def count_calls(model, monkeypatch):
    """How often the first convolution is called."""
    calls = []
    layer = model.layers[1]
    call = layer.call

    def counting(*args, **kwargs):
        calls.append(1)
        return call(*args, **kwargs)

    monkeypatch.setattr(layer, "call", counting)
    return calls


@pytest.mark.parametrize("name", ["CapsNet", "MatrixCapsNet"])
def test_one_forward_pass_a_step(name, monkeypatch):
    model = make(name)
    model.compile("sgd", MarginLoss(), run_eagerly=BACKEND != "jax")
    model.build((5, *SHAPE))
    x, y = images(), labels()
    model.optimizer.build(model.trainable_variables)
    if BACKEND != "tensorflow":
        # Keras calls a model first to find its metrics' variables.
        model.train_on_batch(x, y)
    if BACKEND == "jax":
        model.make_train_function(force=True)
        calls = count_calls(model, monkeypatch)
        model.train_on_batch(x, y)
        assert len(calls) == 1
        return
    calls = count_calls(model, monkeypatch)
    model.train_on_batch(x, y)
    assert len(calls) == 1
    model.test_on_batch(x, y)
    assert len(calls) == 2


# A network of the user's own layers.


def own_network(decoder=True, pairs=False, **kwargs):
    keras.utils.set_random_seed(3)
    inputs = keras.Input(SHAPE, name="pictures")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="below")(inputs)
    x = PrimaryCapsules(2, 4, kernel_size=3, strides=2, name="parts")(x)
    routing = "em" if pairs else "dynamic"
    capsules = CapsuleLayer(CLASSES, 6, routing=routing, name="wholes")(x)
    head = None
    if decoder:
        head = keras.Sequential(
            [
                keras.layers.Flatten(name="flatten"),
                keras.layers.Dense(64, activation="sigmoid", name="pixels"),
                keras.layers.Reshape(SHAPE, name="image"),
            ],
            name="head",
        )
    return CapsuleNetwork(inputs, capsules, head, **kwargs)


@pytest.mark.parametrize(
    ("decoder", "pairs"),
    [
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
def test_own_layers(decoder, pairs, tmp_path):
    model = own_network(decoder, pairs, reconstruction_weight=0.01, name="own")
    x, y = images(), labels()
    model.compile("adam", MarginLoss(), metrics=["accuracy"], **QUICK)
    history = model.fit(x, y, sample_weight=np.ones(5), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert ("reconstruction_error" in history) == decoder
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is CapsuleNetwork
    assert loaded.name == "own" and loaded.reconstruction_weight == 0.01
    assert [x.name for x in loaded.weights] == [x.name for x in model.weights]
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6
    )
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0), rel=1e-5
    )
    if decoder:
        np.testing.assert_allclose(
            loaded.reconstruct(x), model.reconstruct(x), rtol=1e-5, atol=1e-6
        )


def test_own_layers_quantized(tmp_path):
    model, x = own_network(), images()
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.reconstruct(x), model.reconstruct(x), rtol=1e-5, atol=1e-6
    )


def test_several_inputs():
    keras.utils.set_random_seed(3)
    first = keras.Input((6,), name="first")
    second = keras.Input((6,), name="second")
    x = keras.layers.Concatenate()([first, second])
    x = keras.layers.Reshape((3, 4))(x)
    decoder = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(6)], name="decoder"
    )
    model = CapsuleNetwork(
        {"first": first, "second": second}, CapsuleLayer(3, 4)(x), decoder
    )
    numbers = np.random.default_rng(0)
    data = {
        key: numbers.normal(size=(5, 6)).astype("float32")
        for key in ("first", "second")
    }
    model.compile("adam", MarginLoss(), **QUICK)
    model.fit(data, labels(), verbose=0)
    assert model.encode(data).shape == (5, 3, 4)
    assert model.reconstruct(data).shape == (5, 6)
    broken = {**data, "second": np.full_like(data["second"], np.nan)}
    assert np.isnan(model.predict(broken, verbose=0)).all()


def test_trainable():
    model = own_network(trainable=False)
    assert model.trainable_weights == []
    model.trainable = True
    assert len(model.trainable_weights) == len(model.weights)


def test_a_frozen_backbone_stays_frozen(tmp_path):
    pictures = keras.Input(SHAPE)
    backbone = keras.Model(pictures, keras.layers.Conv2D(4, 3)(pictures))
    backbone.trainable = False
    x = PrimaryCapsules(2, 4, kernel_size=3, strides=2)(backbone.output)
    capsules = CapsuleLayer(CLASSES, 6)(x)
    model = CapsuleNetwork(backbone.inputs, capsules)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        assert len(each.trainable_weights) == len(each.weights) - 2
        assert not each.layers[1].trainable and each.layers[2].trainable


def test_names_that_are_taken():
    net = make("CapsNet")
    x = images()
    again = CapsuleNetwork(net.inputs, net.encoder.output, net.decoder)
    np.testing.assert_allclose(numpy(again(x)), numpy(net(x)), rtol=1e-5)
    inputs = keras.Input(SHAPE, name="propagate_nan")
    grid = PrimaryCapsules(2, 4, kernel_size=3)(inputs)
    capsules = CapsuleLayer(CLASSES, 6, name="scores")(grid)
    model = CapsuleNetwork(inputs, capsules)
    assert tuple(model(x).shape) == (5, CLASSES)
    assert model.get_layer("scores_1").output is model.output
    loaded = CapsuleNetwork.from_config(model.get_config())
    assert [x.name for x in loaded.layers] == [x.name for x in model.layers]


@pytest.mark.parametrize("stacked", [False, True], ids=["layer", "stack"])
def test_lengths_that_mean_nothing_are_no_scores(stacked):
    inputs = keras.Input(SHAPE)
    x = PrimaryCapsules(2, 4, kernel_size=3)(inputs)
    layer = CapsuleLayer(CLASSES, 6, routing="inverted_attention", name="top")
    if stacked:
        layer = CapsuleStack([layer], name="top")
    poses = layer(x)
    message = "such as keras_capsules.layers.PoseScores.*'top' with routing=Inv"
    refuses(message, CapsuleNetwork, inputs, poses)
    model = CapsuleNetwork(inputs, PoseScores()(poses))
    assert tuple(model(images()).shape) == (5, CLASSES)
    # A layer further down may have any routing.
    model = CapsuleNetwork(inputs, CapsuleLayer(CLASSES, 6)(poses))
    assert tuple(model(images()).shape) == (5, CLASSES)


def test_a_configuration_is_the_same_at_each_call():
    model = own_network()
    config = json.dumps(model.get_config())
    assert json.dumps(model.get_config()) == config
    again = CapsuleNetwork.from_config(model.get_config())
    assert json.dumps(again.get_config()) == config


def refuses(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=message):
        function(*args, **kwargs)


def test_errors_of_own_networks():
    inputs = keras.Input(SHAPE)
    grid = PrimaryCapsules(2, 4, kernel_size=3)(inputs)
    capsules = CapsuleLayer(3, 6)(grid)
    refuses("Expected `capsules` to be", CapsuleNetwork, inputs, grid)
    refuses("Expected `capsules` to be", CapsuleNetwork, inputs, "capsules")
    refuses(
        "Expected `capsules` to be", CapsuleNetwork, inputs, np.zeros((1, 3, 6))
    )
    refuses(
        "reconstruction_weight=-1",
        CapsuleNetwork,
        inputs,
        capsules,
        reconstruction_weight=-1,
    )
    decoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(64)])
    refuses(
        "reconstructions of the shape of the first input",
        CapsuleNetwork,
        inputs,
        capsules,
        decoder,
    )
    refuses(
        "without a decoder. Received: decoder=None",
        CapsuleNetwork(inputs, capsules).decode,
        np.zeros(1),
    )


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("input_shape", "image_shape"),
        ("classes", "num_classes"),
        ("num_clases", "num_classes"),
        ("something", "one of image_shape, num_classes, "),
    ],
)
@of_all
def test_unknown_arguments_are_answered_with_the_right_name(name, wrong, right):
    message = rf"{name} has no argument `{wrong}`. Expected {right}.*Received"
    refuses(message, getattr(models, name), **{wrong: (64, 64, 3)})


def test_unknown_arguments_of_own_networks():
    inputs = keras.Input(SHAPE)
    capsules = CapsuleLayer(3, 6)(PrimaryCapsules(2, 4, kernel_size=3)(inputs))
    known = "inputs, capsules, decoder, reconstruction_weight, name, dtype, "
    for name in ("input_shape", "classes", "num_iterations", "image_shape"):
        message = f"no argument `{name}`. Expected one of {known}trainable"
        refuses(message, CapsuleNetwork, inputs, capsules, **{name: 3})
    message = "no argument `decoders`. Expected decoder. Received: decoders="
    refuses(message, CapsuleNetwork, inputs, capsules, decoders=None)


def test_the_number_of_iterations_belongs_to_the_routing():
    message = r"Expected routing=DynamicRouting\(num_iterations=\.\.\.\)"
    refuses(message, models.CapsNet, num_iterations=2)
    message = "ConvNet has no argument `num_iterations`. Expected one of image"
    refuses(message, models.ConvNet, num_iterations=2)


@mostly_slow
def test_images_without_a_channel_axis(name):
    model, x, y = make(name), images(), labels()
    np.testing.assert_allclose(
        numpy(model(x[..., 0])), numpy(model(x)), rtol=1e-5, atol=1e-6
    )
    model.compile("sgd", MarginLoss(), **QUICK)
    assert model.evaluate(x[..., 0], y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0), rel=1e-5
    )


def test_images_with_channels_first():
    model, x = make("CapsNet"), images()
    inputs = keras.Input((1, 8, 8))
    outer = keras.Model(inputs, model(keras.layers.Permute((2, 3, 1))(inputs)))
    np.testing.assert_allclose(
        outer.predict(np.moveaxis(x, -1, 1), verbose=0),
        model.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow reads them")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "CapsNet" else pytest.mark.slow)
        for name in NAMES
    ],
)
def test_exports_before_any_call_and_after_loading(name, tmp_path):
    import tensorflow as tf

    model, x = make(name), images()
    model.export(tmp_path / "new", verbose=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.export(tmp_path / "loaded", verbose=False)
    expected = model.predict(x, verbose=0)
    for folder in ("new", "loaded"):
        served = tf.saved_model.load(tmp_path / folder)
        scores = served.serve(x)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_the_decoder_is_trained_and_saved_with_the_network():
    """Keras tracks what is no part of the graph, from version 3.15 on."""
    model = make("CapsNet")
    weights = {id(weight) for weight in model.trainable_variables}
    own = {id(weight) for weight in model.decoder.trainable_variables}
    assert len(own) == 4 and own <= weights
