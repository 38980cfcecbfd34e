"""The fully connected layer: its configuration and its errors."""

import keras
import numpy as np
import pytest

from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import Routing
from keras_capsules.routing import serialize
from tests.helpers.capsules import random
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import values

# Configuration.


def test_config():
    layer = CapsuleLayer(5, 2, name="digits")
    config = layer.get_config()
    expected = {
        "name": "digits",
        "num_capsules": 5,
        "capsule_dim": 2,
        "routing": serialize(DynamicRouting()),
        "use_bias": True,
        "kernel_initializer": None,
        "kernel_regularizer": None,
        "bias_regularizer": None,
        "kernel_constraint": None,
        "bias_constraint": None,
    }
    assert {name: config[name] for name in expected} == expected
    bias_initializer = config["bias_initializer"]
    assert bias_initializer["class_name"] == "Constant"
    assert bias_initializer["config"]["value"] == 0.1


def test_numpy_integers_are_arguments_too():
    config = CapsuleLayer(np.int64(5), np.int8(2)).get_config()
    assert type(config["num_capsules"]) is type(config["capsule_dim"]) is int


# Errors.


def make(**kwargs):
    return CapsuleLayer(**{"num_capsules": 5, "capsule_dim": 2, **kwargs})


@pytest.mark.parametrize("name", ["num_capsules", "capsule_dim"])
@values(NOT_POSITIVE_INTEGERS)
def test_invalid_integer_raises(name, value):
    with pytest.raises(ValueError, match=invalid(name, "a positive integer")):
        make(**{name: value})


@values({k: v for k, v in NOT_BOOLEANS.items() if v is not None})
def test_invalid_use_bias_raises(value):
    with pytest.raises(ValueError, match=invalid("use_bias", "True or False")):
        make(use_bias=value)


@values(
    {
        "unknown": "dynamics",
        "empty": "",
        "none": None,
        "number": 3,
        "abstract": Routing,
        "layer": CapsuleLength,
        "function": random,
    }
)
def test_unknown_routing_raises(value):
    message = invalid("routing", "an instance or .*Routing.* one of 'dynamic'")
    with pytest.raises(ValueError, match=message):
        make(routing=value)


def test_config_of_something_else_raises():
    config = keras.saving.serialize_keras_object(CapsuleLength())
    with pytest.raises(ValueError, match="does not describe a routing"):
        make(routing=config)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("kernel_initializer", "initializer"),
        ("bias_initializer", "initializer"),
        ("kernel_regularizer", "regularizer"),
        ("bias_regularizer", "regularizer"),
        ("kernel_constraint", "constraint"),
        ("bias_constraint", "constraint"),
    ],
)
def test_unknown_name_raises(name, kind):
    message = f"Could not interpret {kind} identifier: unknown"
    with pytest.raises(ValueError, match=message):
        make(**{name: "unknown"})


@pytest.mark.parametrize(
    "routing", ["dynamic", "DynamicRouting", DynamicRouting, DynamicRouting(3)]
)
def test_routing_may_be_a_name_a_class_or_an_instance(routing):
    config = make(routing=routing).get_config()
    assert config["routing"] == serialize(DynamicRouting(3))


def test_the_number_of_iterations_is_an_option_of_the_routing():
    message = (
        r"option of the routing\. Expected routing=DynamicRouting\("
        r"num_iterations=2\).* Received: num_iterations=2"
    )
    with pytest.raises(ValueError, match=message):
        make(num_iterations=2)


def test_unknown_argument_raises():
    with pytest.raises(ValueError, match="Unrecognized keyword.*num_capsule'"):
        make(num_capsule=3)


@pytest.mark.parametrize("shape", [(None,), (None, 7)], ids=str)
def test_too_low_a_rank_raises(shape):
    with pytest.raises(ValueError, match="of rank 3 or more"):
        make()(keras.Input(shape[1:]))
    with pytest.raises(ValueError, match="of rank 3 or more"):
        make()(np.zeros((2, *shape[1:]), "float32"))
    with pytest.raises(ValueError, match="of rank 3 or more"):
        make().compute_output_shape(shape)


@pytest.mark.parametrize(
    "shape",
    [(None, None, 3), (None, 7, None), (None, 2, None, 7, 3)],
    ids=["inputs", "dim", "grid"],
)
def test_unknown_size_raises(shape):
    message = "only the batch size may be unknown"
    with pytest.raises(ValueError, match=message):
        make()(keras.Input(shape[1:]))
    with pytest.raises(ValueError, match=message):
        make().build(shape)
    with pytest.raises(ValueError, match=message):
        make().compute_output_shape(shape)


def test_three_inputs_raise():
    message = "CapsuleLayer takes one tensor of capsules or a pair"
    with pytest.raises(ValueError, match=message):
        make()([keras.Input((7, 3)), keras.Input((7,)), keras.Input((7,))])
    with pytest.raises(ValueError, match=message):
        make().compute_output_shape([(None, 7, 3)])


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 5, 3), "axis 1 of input shape to have value 7"),
        ((2, 7, 2), "axis 2 of input shape to have value 3"),
        ((2, 7, 1, 3), "expected ndim=3"),
    ],
    ids=["inputs", "dim", "rank"],
)
def test_another_shape_than_before_raises(shape, message):
    layer = make()
    layer(random(2, 7, 3))
    with pytest.raises(ValueError, match=message):
        layer(random(*shape))
