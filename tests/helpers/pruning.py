"""Tiny networks to prune, and what they compute if capsules are masked."""

import math

import keras
import numpy as np
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import MatrixPrimaryCapsules
from keras_capsules import PrimaryCapsules
from keras_capsules.layers import PoseScores
from keras_capsules.models import CapsuleNetwork
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import FixedRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing import SelfRouting
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers.testing import arrays
from tests.helpers.testing import numpy

SHAPE, TYPES, CLASSES = (5, 4, 1), 5, 3
GRID = (4, 3)  # of primary capsules
CAPSULES = TYPES * 12

ROUTINGS = {
    "dynamic": DynamicRouting(),
    "leaky": DynamicRouting(2, leaky=True),
    "self_attention": SelfAttentionRouting(),
    "inverted_attention": InvertedAttentionRouting(),
    "fixed": FixedRouting("exponential_squash"),
    "em": EMRouting(2, inverse_temperature=1.0, min_variance=1.0),
    "em-normalized": EMRouting(2, 0.1, 0.5, 1.0, "normalized"),
    "variational_bayes": VariationalBayesRouting(2, batch_normalization=False),
    "self_routing": SelfRouting(),
}


def images(number=7):
    numbers = np.random.default_rng(7)
    return numbers.uniform(size=(number, *SHAPE)).astype("float32")


def labels(number=7):
    return np.random.default_rng(8).integers(0, CLASSES, size=number)


def set_weights(model, scale=0.5):
    """Random weights, so that each one that is lost is noticed."""
    numbers = np.random.default_rng(11)
    for weight in model.weights:
        value = numbers.normal(0, scale, weight.shape)
        # Those that are not trained may be variances, or couplings.
        weight.assign(value if weight.trainable else np.abs(value))
    return model


def network(routing, decoder=True, types=TYPES, **kwargs):
    """A network of vectors, or of pairs if the routing makes them."""
    inputs = keras.Input(SHAPE, name="images")
    pairs = routing.activation_from == "routing"
    make = MatrixPrimaryCapsules if pairs else PrimaryCapsules
    x = make(types, 2, kernel_size=2, name="primary_capsules")(inputs)
    x = CapsuleLayer(
        CLASSES, 7, routing=routing, name="class_capsules", **kwargs
    )(x)
    if routing.activation_from == "nothing":
        x = PoseScores(name="class_scores")(x)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(math.prod(SHAPE), "sigmoid"),
        keras.layers.Reshape(SHAPE),
    ]
    return set_weights(
        CapsuleNetwork(
            inputs, x, keras.Sequential(layers) if decoder else None, 0.25
        )
    )


def outputs_of(model, name, x):
    """What a layer of a model makes of images, a list of arrays."""
    layer = model.get_layer(name)
    return arrays(keras.Model(model.inputs[0], layer.output)(x))


def inputs_of(model, name, x):
    """What a layer of a model takes, a list of arrays."""
    layer = model.get_layer(name)
    return arrays(keras.Model(model.inputs[0], layer.input)(x))


def call(layer, inputs, **kwargs):
    """The outputs of a layer for arrays, a list of arrays."""
    tensors = [ops.convert_to_tensor(x) for x in inputs]
    return arrays(layer(tensors if len(tensors) > 1 else tensors[0], **kwargs))


def masked(model, name, x, kept, unit="type"):
    """What a layer makes of images if votes of other capsules are zero.

    Args:
        model: A network.
        name: The name of the layer.
        x: Images.
        kept: Types, or capsules, whose poses and activations are not zeroed.
        unit: `"type"` or `"capsule"`.
    """
    layer = model.get_layer(name)
    inputs = inputs_of(model, name, x)
    axes = inputs[0].ndim - 1
    if len(inputs) > 1:
        axes = inputs[1].ndim
    elif isinstance(layer.capsule_dim, tuple):
        axes -= 1
    shape = inputs[0].shape[1:axes]
    factor = np.zeros(shape, "float32")
    if unit == "type":
        factor[..., kept] = 1
    else:
        factor.reshape(-1)[kept] = 1
    inputs = [
        each * factor.reshape(shape + (1,) * (each.ndim - axes))
        for each in inputs
    ]
    return call(layer, inputs)


def scores_one_by_one(model, name, x, given=None):
    """The score of each capsule that votes in a `CapsuleLayer`, in a loop."""
    layer = model.get_layer(name)
    inputs = inputs_of(model, name, x)
    *outputs, coupling = call(layer, inputs, return_coupling=True)
    if len(inputs) > 1:
        activations = inputs[1].reshape(len(x), -1)
    else:
        poses = inputs[0].reshape(len(x), -1, inputs[0].shape[-1])
        activations = np.sqrt((poses**2).sum(axis=-1))
    if given is not None:
        weights = np.eye(layer.num_capsules)[given]
    elif len(outputs) > 1:
        weights = outputs[1]
    elif layer.routing.activation_from == "length":
        weights = np.sqrt((outputs[0] ** 2).sum(axis=-1))
    else:
        weights = np.ones(outputs[0].shape[:2])
    total = np.zeros(activations.shape[1])
    for image in range(len(x)):
        for i in range(len(total)):
            for j in range(layer.num_capsules):
                total[i] += (
                    activations[image, i]
                    * coupling[image, i, j]
                    * weights[image, j]
                )
    return total / len(x)


def predict(model, x):
    return numpy(model(x))


def assert_close(ours, exact, tolerance=2e-5):
    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
