"""What cannot be pruned, and why."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules import MatrixPrimaryCapsules
from keras_capsules import PrimaryCapsules
from keras_capsules import pruning
from keras_capsules.layers import CapsuleStack
from keras_capsules.layers import PoseScores
from keras_capsules.layers import SqueezeExcitation
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models import ConvNet
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers import networks
from tests.helpers.pruning import ROUTINGS
from tests.helpers.pruning import SHAPE
from tests.helpers.pruning import images
from tests.helpers.pruning import labels
from tests.helpers.pruning import network
from tests.helpers.testing import invalid
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import values

pytestmark = on_one_backend


@pytest.fixture(scope="module")
def model():
    return network(ROUTINGS["dynamic"], decoder=False)


@values({"negative": -0.1, "above": 1.1, "none": None, "string": "half"})
def test_invalid_fractions(model, value):
    message = invalid(
        "fraction", r"a finite number of at least 0 and at most 1"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, images(), value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("unit", "filter", "one of 'type', 'capsule'"),
        ("batch_size", 0, "a positive integer"),
        ("verbose", 2, "True or False"),
        (
            "layer",
            "primary",
            r"the name of a layer that makes capsules, of \['primary",
        ),
        ("layer", "images", r"the name of a layer that makes capsules"),
    ],
)
def test_invalid_arguments(model, name, value, expected):
    with pytest.raises(ValueError, match=invalid(name, expected)):
        pruning.prune(model, images(), 0.5, **{name: value})


def test_invalid_images(model):
    with pytest.raises(ValueError, match=r"Expected `images` of shape \(batch"):
        pruning.prune(model, np.zeros((2, 3, 4, 1), "float32"), 0.5)
    message = r"Expected at least one image\. Received: images.shape=\(0, 5"
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, images(0), 0.5)
    broken = images()
    broken[2, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="`images` to be finite.*in image 2 "):
        pruning.prune(model, broken, 0.5)
    broken[2] = 3e38  # overflows in the network
    message = (
        "have to be finite to be ranked.* Received: scores that are not "
        "finite, of 'primary_capsules'"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, broken, 0.5)


def test_invalid_labels(model):
    with pytest.raises(ValueError, match="`labels` has labels out of range"):
        pruning.prune(model, images(), 0.5, labels=labels() + 3)
    with pytest.raises(ValueError, match=r"Received: labels.shape=\(6,\)"):
        pruning.prune(model, images(), 0.5, labels=labels(6))
    deep = networks.make("MatrixCapsNet")
    message = (
        "Labels are of classes.* 'primary_capsules' do not vote for class "
        "capsules.* Received: labels=list, and votes in 'conv_capsules_1'"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(deep, networks.images(2), 0.5, labels=[0, 1])


def test_networks_without_capsules():
    plain = ConvNet(networks.SHAPE, 3, filters=(4,), units=(7,))
    message = (
        "has no primary capsules.* Received: a network with the layers "
        r"\['convolution"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(plain, networks.images(), 0.5)
    with pytest.raises(ValueError, match="Expected a functional model"):
        pruning.prune(keras.layers.Dense(3), networks.images(), 0.5)


def test_residual_cells():
    deep = networks.make("DeepCaps")
    message = r"several layers of primary capsules\. Expected `layer`, .*first'"
    with pytest.raises(ValueError, match=message):
        pruning.prune(deep, networks.images(), 0.5)
    message = (
        "if one layer takes them.* of a residual cell, which are added.* "
        r"capsules of 'cell_1_first', which go to \['cell_1_second_channels', "
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(deep, networks.images(), 0.5, layer="cell_1_first")
    message = r"which go to 'cell_1' \(Add"
    with pytest.raises(ValueError, match=message):
        pruning.prune(deep, networks.images(), 0.5, layer="cell_1_third")


def test_class_capsules(model):
    message = (
        "class capsules cannot. Received: capsules of 'class_capsules', which "
        r"go to 'propagate_nan' \(PropagateNaN"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, images(), 0.5, layer="class_capsules")
    # Of a model without scores.
    inputs = keras.Input((7, 2))
    x = CapsuleLayer(5, 3, name="first")(inputs)
    plain = keras.Model(inputs, x)
    message = r"capsules of 'first', which go to \[\] and are an output"
    with pytest.raises(ValueError, match=message):
        pruning.prune(plain, np.ones((2, 7, 2)), 0.5, layer="first")


def test_stacks_that_are_routed_together():
    inputs = keras.Input(SHAPE)
    x = PrimaryCapsules(4, 2, kernel_size=2, name="first")(inputs)
    layer = CapsuleLayer(3, 2, routing=InvertedAttentionRouting(1))
    x = PoseScores()(CapsuleStack([layer], name="stack")(x))
    with pytest.raises(ValueError, match=r"which go to 'stack' \(CapsuleStack"):
        pruning.prune(CapsuleNetwork(inputs, x), images(), 0.5)
    deep = networks.make("InvertedAttentionCapsNet")
    with pytest.raises(ValueError, match=r"'pose_normalization' \(LayerNorm"):
        pruning.prune(deep, networks.images(), 0.5)


@pytest.mark.parametrize(
    "layers",
    [
        [SqueezeExcitation(name="between")],
        [keras.layers.Reshape((-1, 2), name="between")],
    ],
    ids=["gate", "reshape"],
)
def test_layers_between(layers):
    inputs = keras.Input(SHAPE)
    x = PrimaryCapsules(4, 2, kernel_size=2, name="first")(inputs)
    for layer in layers:
        x = layer(x)
    wide = CapsuleNetwork(inputs, CapsuleLayer(3, 2)(x))
    message = (
        "with nothing between but PoseNormalization, CapsuleDropout or "
        "CapsuleSelection.* capsules of 'first', which go to 'between' "
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(wide, images(), 0.5)


def test_layers_that_are_called_twice():
    inputs = keras.Input(SHAPE)
    layer = PrimaryCapsules(4, 2, kernel_size=2, name="first")
    x = keras.layers.Concatenate()([layer(inputs), layer(inputs)])
    twice = CapsuleNetwork(inputs, CapsuleLayer(3, 2)(x))
    with pytest.raises(ValueError, match=r"several layers of primary capsules"):
        pruning.prune(twice, images(), 0.5)
    with pytest.raises(ValueError, match="Received: 2 calls of 'first'"):
        pruning.prune(twice, images(), 0.5, layer="first")


def test_models_in_the_model():
    part = keras.Sequential(
        [
            keras.Input(SHAPE),
            PrimaryCapsules(4, 2, kernel_size=2, name="first"),
        ],
        name="part",
    )
    inputs = keras.Input(SHAPE)
    whole = CapsuleNetwork(inputs, CapsuleLayer(3, 2)(part(inputs)))
    message = "part of the model cannot be pruned.* the layer 'part/first'"
    with pytest.raises(ValueError, match=message):
        pruning.prune(whole, images(), 0.5)


def test_statistics_of_the_batch():
    routing = VariationalBayesRouting(2)
    message = (
        "They would be wrong for fewer capsules. Expected another routing, "
        r"such as VariationalBayesRouting\(batch_normalization=False\). "
        "Received: the layer 'class_capsules' with routing=VariationalBayes"
    )
    for unit in ("type", "capsule"):
        with pytest.raises(ValueError, match=message):
            pruning.prune(network(routing), images(), 0.5, unit)


SINGLE = (
    r"Single capsules of this layer cannot be removed\. Expected unit='type'\. "
    r"Received: unit='capsule' for 'primary_capsules', whose capsules vote in "
    "'class_capsules', and "
)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"share_over_positions": True}, "share_over_positions=True: all caps"),
        ({"coordinate_addition": True}, "coordinate_addition=True: the coord"),
    ],
)
def test_single_capsules_that_share(options, reason):
    shared = network(ROUTINGS["dynamic"], **options)
    with pytest.raises(ValueError, match=SINGLE + reason):
        pruning.prune(shared, images(), 0.5, "capsule")
    assert len(pruning.prune(shared, images(), 0.4).kept) == 3


def test_single_capsules_below_a_convolution():
    deep = networks.make("MatrixCapsNet")
    with pytest.raises(
        ValueError, match="is a convolution, which needs a full"
    ):
        pruning.prune(deep, networks.images(), 0.5, "capsule")


def test_single_matrices_without_activations():
    inputs = keras.Input(SHAPE)
    x = MatrixPrimaryCapsules(4, (2, 3), kernel_size=2)(inputs)
    options = {"capsule_dim": (2, 3), "routing": InvertedAttentionRouting()}
    x = ConvCapsules2D(4, kernel_size=2, name="second", **options)(x)
    x = CapsuleLayer(3, name="last", **options)(x)
    x = CapsuleLayer(2, (2, 3), routing="em", name="classes")(x)
    deep = CapsuleNetwork(inputs, x)
    with pytest.raises(ValueError, match="are matrices without activations"):
        pruning.prune(deep, images(), 0.5, "capsule", layer="second")
    assert len(pruning.prune(deep, images(), 0.5, layer="second").kept) == 2


@keras.saving.register_keras_serializable(package="tests")
def own_activation(x):
    return x - keras.ops.max(x, axis=-1, keepdims=True)


def depthwise(convolution, *between):
    inputs = keras.Input(SHAPE)
    x = convolution(inputs)
    for layer in between:
        x = layer(x)
    x = PrimaryCapsules(4, 2, 2, depthwise=True, name="first")(x)
    return CapsuleNetwork(inputs, CapsuleLayer(3, 2)(x))


@pytest.mark.parametrize(
    ("layers", "received"),
    [
        (
            [
                keras.layers.Conv2D(8, 2),
                keras.layers.LayerNormalization(name="n"),
            ],
            r"'n' \(LayerNormalization",
        ),
        (
            [
                keras.layers.Conv2D(8, 2),
                keras.layers.Conv2D(8, 1, groups=4, name="n"),
            ],
            r"'n' \(Conv2D\)",
        ),
        (
            [
                keras.layers.Conv2D(8, 2),
                keras.layers.Activation("softmax", name="n"),
            ],
            r"'n' \(Activation, activation=softmax\)",
        ),
        (
            [keras.layers.Conv2D(8, 2, activation="log_softmax", name="n")],
            r"'n' \(Conv2D, activation=log_softmax\)",
        ),
        (
            [keras.layers.Conv2D(8, 2, activation=own_activation, name="n")],
            r"'n' \(Conv2D, activation=own_activation\)",
        ),
        (
            [
                keras.layers.Conv2D(8, 2, name="n", activation="sparsemax"),
                keras.layers.ReLU(),
            ],
            r"'n' \(Conv2D, activation=sparsemax\)",
        ),
        (
            [
                keras.layers.Conv2D(8, 2),
                keras.layers.Permute((1, 3, 2)),
                keras.layers.Permute((1, 3, 2), name="n"),
            ],
            r"'n' \(Permute\)",
        ),
    ],
)
def test_channels_that_do_not_come_from_one_convolution(layers, received):
    message = (
        "With depthwise=True each number of a capsule is a channel.* or "
        f"unit='capsule'. Received: {received}"
    )
    deep = depthwise(*layers)
    with pytest.raises(ValueError, match=message):
        pruning.prune(deep, images(), 0.5)
    assert len(pruning.prune(deep, images(), 0.5, "capsule").kept) == 12


def test_channels_in_groups():
    grouped = keras.layers.GroupNormalization(4, name="groups")
    deep = depthwise(keras.layers.Conv2D(8, 2), grouped)
    message = (
        "Expected groups=-1, each by itself. Received: the layer 'groups' "
        "with groups=4"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(deep, images(), 0.5)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.AveragePooling2D(
            (1, 2), 1, "same", "channels_first", name="n"
        ),
        keras.layers.MaxPooling2D(
            (1, 2), 1, "same", "channels_first", name="n"
        ),
        keras.layers.GroupNormalization(-1, axis=1, name="n"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_channels_along_another_axis(layer):
    """What is the channels to the convolution is an axis of images to it."""
    deep = depthwise(keras.layers.Conv2D(8, 2), layer)
    with pytest.raises(ValueError, match=rf"'n' \({type(layer).__name__}\)"):
        pruning.prune(deep, images(), 0.5)


def test_channels_of_the_input():
    inputs = keras.Input((5, 4, 8))
    x = PrimaryCapsules(4, 2, 2, depthwise=True)(inputs)
    deep = CapsuleNetwork(inputs, CapsuleLayer(3, 2)(x))
    with pytest.raises(ValueError, match="Received: the input"):
        pruning.prune(deep, np.ones((2, 5, 4, 8), "float32"), 0.5)


def test_channels_that_others_take():
    inputs = keras.Input(SHAPE)
    features = keras.layers.Conv2D(8, 2, name="convolution")(inputs)
    x = PrimaryCapsules(4, 2, 2, depthwise=True)(features)
    gate = keras.layers.GlobalAveragePooling2D()(features)
    gate = keras.layers.Reshape((1, 8))(gate)
    gate = CapsuleLayer(3, 2)(gate)
    x = keras.layers.Add()([CapsuleLayer(3, 2)(x), gate])
    deep = CapsuleNetwork(inputs, x)
    with pytest.raises(ValueError, match=r"'convolution' \(Conv2D"):
        pruning.prune(deep, images(), 0.5)
