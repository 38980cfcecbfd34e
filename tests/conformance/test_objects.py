"""The contract of all losses, routings and activations."""

import json

import keras
import numpy as np
import pytest
from keras import initializers
from keras import ops

import keras_capsules
from keras_capsules.layers import CapsuleLayer
from tests.conformance.objects import ACTIVATIONS
from tests.conformance.objects import LOSS_FUNCTIONS
from tests.conformance.objects import LOSSES
from tests.conformance.objects import ROUTINGS
from tests.helpers.capsules import random
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy

# Losses.


def lengths_model():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    labels = np.array([0, 2, 1, 1])
    return model, random(4, 5).astype("float32"), labels


def check_loss(loss, folder):
    model, inputs, labels = lengths_model()
    model.compile("sgd", loss)
    before = numpy(model.layers[0].kernel)
    expected = numpy(model.compute_loss(None, labels, model(inputs)))
    history = model.fit(inputs, labels, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert not np.array_equal(numpy(model.layers[0].kernel), before)
    loaded = check_saving(model, inputs, folder)
    again = loaded.evaluate(inputs, labels, verbose=0)
    assert again == pytest.approx(model.evaluate(inputs, labels, verbose=0))
    return loaded.loss


@pytest.mark.parametrize("loss_class, kwargs", LOSSES)
def test_loss(loss_class, kwargs, tmp_path):
    loss = loss_class(**kwargs)
    config = loss.get_config()
    assert {name: config[name] for name in kwargs} == kwargs
    copy = loss_class.from_config(json.loads(json.dumps(config)))
    assert copy.get_config() == config
    loaded = check_loss(loss, tmp_path)
    assert type(loaded) is loss_class
    assert loaded.get_config() == config


@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
def test_loss_function(function, tmp_path):
    assert check_loss(function, tmp_path) is function


# Routings.


def serialized_option(name, value):
    """The configuration of an option of this value."""
    for module in (initializers, keras.regularizers):
        kind = module.__name__.split(".")[-1].removesuffix("s")
        if name.endswith(f"_{kind}"):
            return module.serialize(module.get(value))
    return value


@pytest.mark.parametrize("routing_class, kwargs", ROUTINGS)
def test_routing(routing_class, kwargs, tmp_path):
    routings = keras_capsules.routing
    routing = routing_class(**kwargs)
    config = routing.get_config()
    assert {name: config[name] for name in kwargs} == {
        name: serialized_option(name, value) for name, value in kwargs.items()
    }
    serialized = json.loads(json.dumps(routings.serialize(routing)))
    for copy in [routings.deserialize(serialized), routings.get(serialized)]:
        assert type(copy) is routing_class
        assert copy.get_config() == config
    assert routings.get(routing) is routing

    model = keras.Sequential(
        [keras.Input((7, 2)), CapsuleLayer(3, 5, routing=routing)]
    )
    loaded = check_saving(model, random(2, 7, 2).astype("float32"), tmp_path)
    assert type(loaded.layers[0].routing) is routing_class
    assert loaded.layers[0].routing.get_config() == config


def test_every_routing_has_a_name():
    # The message of an unknown one lists them all.
    with pytest.raises(ValueError, match="one of ") as error:
        keras_capsules.routing.get("unknown")
    names = str(error.value).split("one of ")[1].split(". Received")[0]
    named = {
        type(keras_capsules.routing.get(name.strip("'")))
        for name in names.split(", ")
    }
    assert named == {cls for cls, _ in ROUTINGS}


# Activations.


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation, tmp_path):
    dense = keras.layers.Dense(3, activation=activation)
    model = keras.Sequential([keras.Input((5,)), dense])
    inputs = random(4, 5).astype("float32")
    linear = ops.matmul(inputs, dense.kernel)
    np.testing.assert_allclose(
        numpy(model(inputs)), numpy(activation(linear)), rtol=1e-5
    )
    loaded = check_saving(model, inputs, tmp_path)
    assert loaded.layers[0].activation is activation
