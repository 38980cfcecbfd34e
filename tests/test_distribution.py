"""`keras_capsules.distribution`: layouts, and copies of models.

How distributed models train is in tests/models/test_distributed.py.
"""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import PrimaryCapsules
from keras_capsules.distribution import distribute
from keras_capsules.distribution import layout_map
from tests.helpers.networks import images
from tests.helpers.networks import make


def mesh(*shape, names=("batch", "model")):
    """A mesh of devices that need not be there."""
    devices = [f"cpu:{number}" for number in range(np.prod(shape))]
    return keras.distribution.DeviceMesh(shape, list(names), devices)


def layouts(*arguments, **options):
    return {
        path: each.axes
        for path, each in layout_map(*arguments, **options).items()
    }


def capsules(inputs, outputs, routing="dynamic"):
    poses = keras.Input((inputs, 4))
    layer = CapsuleLayer(outputs, 5, routing=routing, name="capsules")
    return keras.Model(poses, layer(poses))


def flatten():
    return keras.layers.Flatten()


OUTPUTS = {
    "capsules/kernel": (None, None, "model", None),
    "capsules/bias": ("model", None),
}
INPUTS = {"capsules/kernel": ("model", None, None, None)}


@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "expected"),
    [
        (7, 6, "auto", OUTPUTS),
        (6, 6, "auto", OUTPUTS),
        (6, 7, "auto", INPUTS),
        (6, 6, "outputs", OUTPUTS),
        (6, 6, "inputs", INPUTS),
    ],
)
def test_the_side_that_divides(inputs, outputs, side, expected):
    model = capsules(inputs, outputs)
    assert layouts(model, mesh(1, 3), capsules=side) == expected


def test_the_axis_and_the_mesh():
    model = capsules(7, 6)
    other = mesh(3, 2, names=("parts", "data"))
    layout = layout_map(model, other, axis="parts")
    assert layout.device_mesh is other
    kernel = layout["capsules/kernel"]
    assert kernel.axes == (None, None, "parts", None)
    assert kernel.device_mesh is other
    assert layout["capsules/other"] is None


@pytest.mark.parametrize(
    ("routing", "side", "expected"),
    [
        (
            "self_routing",
            "outputs",
            {
                "capsules/routing_kernel": (None, None, "model"),
                "capsules/routing_bias": ("model", None),
            },
        ),
        (
            "self_routing",
            "inputs",
            {
                "capsules/routing_kernel": ("model", None, None),
                "capsules/routing_bias": (None, "model"),
            },
        ),
        (
            "self_attention",
            "inputs",
            {"capsules/coupling_bias": (None, "model")},
        ),
    ],
)
def test_weights_of_routings(routing, side, expected):
    model = capsules(6, 9, routing)
    found = layouts(model, mesh(1, 3), capsules=side)
    kernel = (OUTPUTS if side == "outputs" else INPUTS)["capsules/kernel"]
    assert found == {"capsules/kernel": kernel, **expected}


def test_convolutions_and_stacks():
    kernel = "conv_capsules_1/kernel"
    model = make("MatrixCapsNet")
    found = layouts(model, mesh(1, 2))
    assert found == {
        kernel: (None, None, None, None, "model", None),
        "class_capsules/kernel": ("model", None, None, None),
    }
    found = layouts(model, mesh(1, 2), capsules="inputs")
    assert found[kernel] == (None, None, "model", None, None, None)
    found = layouts(
        make("InvertedAttentionCapsNet"),
        mesh(1, 3),
        layers="class_capsules/.*classes",
    )
    assert found == {
        "class_capsules/classes/kernel": (None, None, "model", None),
        "decoder_hidden_1/kernel": ("model", None),
    }


def test_decoders_that_take_all_classes():
    """Its first layer has rows for each class."""
    model = make("CapsNet")
    found = layouts(model, mesh(1, 3))
    assert found == {
        "class_capsules/kernel": (None, None, "model", None),
        "class_capsules/bias": ("model", None),
        "decoder_hidden_1/kernel": ("model", None),
    }
    found = layouts(model, mesh(1, 2), capsules="inputs")
    assert set(found) == {"class_capsules/kernel"}
    # This decoder takes the capsule of one class.
    found = layouts(make("DeepCaps"), mesh(1, 3))
    assert set(found) == {"class_capsules/kernel", "class_capsules/bias"}


def test_every_layer_has_its_own_path():
    inputs = keras.Input((4, 3))
    x = CapsuleLayer(6, 4, name="one")(inputs)
    x = CapsuleLayer(9, 4, name="two")(x)
    model = keras.Model(inputs, CapsuleLength()(x))
    kernels = {"one/kernel", "two/kernel"}
    biases = {"one/bias", "two/bias"}
    assert set(layouts(model, mesh(1, 3))) == kernels | biases
    assert set(layouts(model, mesh(1, 3), layers=["one", "t.o"])) == (
        kernels | biases
    )
    found = layouts(model, mesh(1, 3), layers="two")
    assert set(found) == {"two/kernel", "two/bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh": "mesh"}, "Expected `mesh` to be a keras.distribution.Device"),
        ({"axis": "data"}, "Expected one of 'batch', 'model'. Received: axis="),
        (
            {"capsules": "both"},
            "Expected one of 'auto', 'outputs', 'inputs'. Received: capsules=",
        ),
        (
            {"layers": ["capsules", "primary"]},
            "matches no layer that routes. Expected regular expressions that "
            "match one or more of capsules. Received: layers='primary'",
        ),
        ({"layers": "capsule"}, "Received: layers='capsule'"),
        ({"layers": 5}, "Expected `layers` to be a reg.*Received: layers=5"),
        ({"layers": []}, "at least one; or None .*Received: layers=\\[\\]"),
        ({"layers": iter([])}, "at least one; or None for all layers"),
        (
            {"layers": ["capsules", 3]},
            r"Received: layers=\['capsules', 3\], of which 3 is none: it is ",
        ),
        ({"layers": [None]}, "of which None is none: it is no string"),
        (
            {"layers": "("},
            r"Expected paths or regular expressions, strings. Received: "
            r"layers=\['\('\], of which '\(' is none: missing \), unterminated",
        ),
        ({"model": None}, "Expected `model` to be a built Keras model"),
        (
            {"model": keras.Sequential([CapsuleLayer(6, 5)])},
            "Expected `model` to be a built Keras model",
        ),
        (
            {"model": keras.Sequential([keras.Input((3,)), flatten()])},
            "Expected `model` to have layers whose capsules vote, such as",
        ),
        (
            {"model": capsules(7, 5)},
            "The kernel of capsules cannot be cut into equal parts.*Expected a "
            "multiple of 3.*Received: 5 output capsules or 7 input capsules, "
            "capsules='auto'",
        ),
        (
            {"model": capsules(6, 5), "capsules": "outputs"},
            "Received: 5 output capsules, capsules='outputs'",
        ),
        (
            {"model": capsules(7, 6), "capsules": "inputs"},
            "Received: 7 input capsules, capsules='inputs'",
        ),
    ],
)
def test_layout_map_errors(change, message):
    options = {"model": capsules(6, 6), "mesh": mesh(1, 3), **change}
    with pytest.raises(ValueError, match=message):
        layout_map(**options)


class OfAnArgument(keras.Model):
    """A model that cannot be made again: `layer` is in no configuration."""

    def __init__(self, layer):
        super().__init__(name="own")
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)


class WithoutArguments(OfAnArgument):
    """A model that has no weights before its first call."""

    def __init__(self):
        super().__init__(CapsuleLayer(6, 5))


class WithConfig(OfAnArgument):
    def get_config(self):
        return {"other": 5}


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: OfAnArgument(CapsuleLayer(6, 5)),
        WithoutArguments,
        lambda: WithConfig(CapsuleLayer(6, 5)),
    ],
)
def test_models_that_cannot_be_made_again(make_model):
    model = make_model()
    model(np.ones((2, 6, 4), "float32"))
    message = (
        "cannot be made again from its configuration. Expected a functional "
        "or Sequential model.*Received: model=<.*name=own"
    )
    with pytest.raises(ValueError, match=message):
        layout_map(model, mesh(1, 3))
    with pytest.raises(ValueError, match=message):
        distribute(model)


@pytest.mark.parametrize(
    "layer",
    [
        PrimaryCapsules(2, 4, kernel_size=3, depthwise=True, name="wrong"),
        keras.layers.DepthwiseConv2D(3, name="wrong"),
        keras.layers.SeparableConv2D(4, 3, name="wrong"),
        keras.layers.Conv2D(4, 3, groups=2, name="wrong"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_convolutions_with_wrong_gradients(layer):
    inputs = keras.Input((5, 5, 8))
    x = keras.layers.Reshape((-1, 4))(layer(inputs))
    model = keras.Model(inputs, CapsuleLayer(6, 4)(x))
    for shape in ((1, 2), (2, 1)):
        assert len(layout_map(model, mesh(*shape))) == 2
    with pytest.raises(
        ValueError,
        match=r"Expected a mesh of shape \(1, 4\) or \(4, 1\). Received: "
        r"mesh of shape \(2, 2\), and the layers wrong",
    ):
        layout_map(model, mesh(2, 2))


@pytest.mark.parametrize("name", ["CapsNet", "InvertedAttentionCapsNet"])
def test_a_copy_is_the_same_network(name):
    model = make(name)
    layout = layout_map(model, mesh(1, 3), layers="class_capsules(/classes)?")
    copy = distribute(model, layout)
    assert copy is not model and type(copy) is type(model)
    assert [x.path for x in copy.weights] == [x.path for x in model.weights]
    np.testing.assert_array_equal(
        copy.predict(images(), verbose=0), model.predict(images(), verbose=0)
    )


def test_models_whose_copies_have_other_names():
    """Keras builds copies of nested models in another order."""
    inner = keras.Sequential([keras.Input((6, 4)), CapsuleLayer(3, 5)])
    images = keras.Input((6, 4))
    for model in (inner, keras.Model(images, inner(images))):
        layout = layout_map(model, mesh(1, 3))
        copy = distribute(model, layout)
        assert set(layout) == {each.path for each in copy.weights}
        for weight, other in zip(model.weights, copy.weights, strict=True):
            np.testing.assert_array_equal(other, weight)


@pytest.mark.parametrize(
    ("key", "axes", "message"),
    [
        (
            "other/kernel",
            (None, None, "model", None),
            "matches no variable and no layer of the model.*Expected a path "
            "such as 'capsules/kernel'.*Received: key='other/kernel'",
        ),
        ("caps", ("model",), "matches no variable .*Received: key='caps'"),
        (
            "capsules/kern.*",
            (None, None, None, "model"),
            "The layout of capsules/kernel does not fit it.*multiples of the "
            r"number of devices. Received: .*shape=\(7, 4, 6, 5\), devices=",
        ),
        ("capsules/bias", ("model",), "The layout of capsules/bias does not"),
    ],
)
def test_a_layout_that_does_not_fit(key, axes, message):
    layout = keras.distribution.LayoutMap(mesh(1, 3))
    layout[key] = axes
    with pytest.raises(ValueError, match=message):
        distribute(capsules(7, 6), layout)


@pytest.mark.parametrize("key", ["(", "capsules/(kernel"])
def test_keys_that_are_no_patterns(key):
    """Keras would look for the places of all variables with them."""
    layout = keras.distribution.LayoutMap(mesh(1, 3))
    layout["capsules/kernel"] = (None, None, "model", None)
    layout[key] = (None, "model")
    message = (
        "Expected paths or regular expressions, strings. Received: layout with "
        r"the keys \['capsules/kernel', .*, of which '.*\(.*' is none: missing"
    )
    with pytest.raises(ValueError, match=message):
        distribute(capsules(7, 6), layout)


def test_layouts_of_patterns_and_of_outputs():
    layout = keras.distribution.LayoutMap(mesh(1, 3))
    layout[".*/bias"] = ("model", None)
    layout["capsules"] = (None, "model", None)  # what the layer returns
    assert distribute(capsules(7, 6), layout).built


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "model"}, "Expected `model` to be a built Keras model"),
        (
            {"model": keras.Sequential([CapsuleLayer(6, 5)])},
            "Expected `model` to be a built Keras model",
        ),
        (
            {"model": capsules(7, 6), "layout": {}},
            "Expected `layout` to be a keras.distribution.LayoutMap. Received: "
            "layout={}",
        ),
    ],
)
def test_distribute_errors(options, message):
    with pytest.raises(ValueError, match=message):
        distribute(**options)
