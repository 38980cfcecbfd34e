"""Names, configurations, and routings of one's own."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import routing
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing


@keras.saving.register_keras_serializable(package="tests")
class GatedMean(Routing):
    """A routing with a weight and an option, as a user would write one."""

    def __init__(self, gain=1.0):
        self.gain = gain

    def build(
        self, layer, num_inputs, num_outputs, pose_shape, input_pose_shape
    ):
        del num_inputs, input_pose_shape
        shape = (num_outputs, *pose_shape)
        return {"gate": layer.add_weight(name="gate", shape=shape)}

    def call(self, votes, activations=None, bias=None, weights=None, **kwargs):
        gate = keras.ops.convert_to_tensor(weights["gate"])  # [j, p, e]
        total = votes.sum() * gate[:, None]
        return Routed(self.gain * total, None, None)

    def get_config(self):
        return {"gain": self.gain}


def test_get_by_name_instance_and_configuration():
    assert isinstance(routing.get("dynamic"), DynamicRouting)
    instance = DynamicRouting(num_iterations=2, leaky=True)
    assert routing.get(instance) is instance
    again = routing.get(routing.serialize(instance))
    assert isinstance(again, DynamicRouting)
    assert again.get_config() == instance.get_config()
    assert again.get_config() == {
        "num_iterations": 2,
        "leaky": True,
        "stop_gradient": False,
    }


@pytest.mark.parametrize("identifier", ["dynamit", None, 3, DynamicRouting])
def test_get_of_something_else_raises(identifier):
    with pytest.raises(ValueError, match="one of 'dynamic'.*Received: routing"):
        routing.get(identifier)


def test_deserialize_of_something_else_raises():
    config = keras.saving.serialize_keras_object(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="does not describe a routing"):
        routing.deserialize(config)


def test_routing_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Routing()


def test_repr_is_the_call_that_made_it():
    assert (
        repr(DynamicRouting(2))
        == "DynamicRouting(num_iterations=2, leaky=False, stop_gradient=False)"
    )


def test_a_routing_with_weights_trains_saves_and_loads(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            CapsuleLayer(7, 2, routing=GatedMean(0.5), use_bias=False),
        ]
    )
    assert [weight.name for weight in model.weights] == ["kernel", "gate"]
    images = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    model.compile("sgd", "mse")
    before = model.weights[1].numpy().copy()
    model.fit(images, np.ones((4, 7, 2), "float32"), verbose=0)
    assert np.abs(model.weights[1].numpy() - before).max() > 0

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert loaded.layers[0].routing.gain == 0.5
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_one_instance_may_serve_several_layers():
    shared = GatedMean()
    layers = [CapsuleLayer(n, 2, routing=shared) for n in (3, 5)]
    for layer in layers:
        layer.build((None, 7, 2))
    first, second = (layer.routing_weights["gate"] for layer in layers)
    assert (first.shape[0], second.shape[0]) == (3, 5)


def test_a_routing_without_coupling_has_none_to_return():
    layer = CapsuleLayer(3, 2, routing=GatedMean())
    with pytest.raises(ValueError, match="no coupling coefficients to return"):
        layer(np.ones((2, 5, 3), "float32"), return_coupling=True)
