"""Arguments as Keras users write them, and layers that they derive."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules1D
from keras_capsules import ConvCapsules2D
from keras_capsules import PrimaryCapsules
from keras_capsules import layers
from keras_capsules.layers.windowed import WindowedLayer
from tests.helpers.capsules import assert_all_close
from tests.helpers.capsules import random
from tests.helpers.testing import numpy
from tests.helpers.testing import slow_on_jax

CONVOLUTIONS = [
    value
    for value in vars(layers).values()
    if isinstance(value, type) and issubclass(value, WindowedLayer)
]
convolutions = pytest.mark.parametrize("layer", CONVOLUTIONS)


def make(layer, **options):
    return layer(**{"num_capsules": 2, "capsule_dim": 3, **options})


@convolutions
@pytest.mark.parametrize("padding", ["SAME", "Same", "VALID"])
def test_padding_in_any_case(layer, padding):
    made = make(layer, kernel_size=3, padding=padding)
    assert made.padding == made.get_config()["padding"] == padding.lower()


@convolutions
def test_data_format(layer):
    make(layer, kernel_size=3, data_format="channels_last", dilation_rate=1)
    make(layer, kernel_size=3, data_format=None, dilation_rate=(1, 1))
    message = 'Expected data_format="channels_last".*Permute.* Received: data_'
    with pytest.raises(ValueError, match=message):
        make(layer, kernel_size=3, data_format="channels_first")


@convolutions
@pytest.mark.parametrize("rate", [2, (1, 2)])
def test_dilation_rate(layer, rate):
    message = r"Expected dilation_rate=1. Received: dilation_rate="
    with pytest.raises(ValueError, match=message):
        make(layer, kernel_size=3, dilation_rate=rate)


@pytest.mark.parametrize("layer", [*CONVOLUTIONS[:4], CapsuleLayer])
def test_iterations_are_those_of_the_routing(layer):
    sizes = {} if layer is CapsuleLayer else {"kernel_size": 3}
    message = r"Expected routing=DynamicRouting\(num_iterations=2\)"
    with pytest.raises(ValueError, match=message):
        make(layer, num_iterations=2, **sizes)


@convolutions
def test_use_bias_may_be_a_number(layer):
    assert make(layer, kernel_size=3, use_bias=0).use_bias is False
    assert make(layer, kernel_size=3, use_bias=np.bool_(1)).use_bias is True


@convolutions
def test_unknown_argument_raises(layer):
    with pytest.raises(ValueError, match="Unrecognized keyword.*kernel_sizes'"):
        make(layer, kernel_size=3, kernel_sizes=3)


def test_channels_first_images_through_a_permutation():
    images = random(2, 3, 5, 7).astype("float32")
    primary = PrimaryCapsules(2, 3, 3)
    model = keras.Sequential(
        [keras.Input((3, 5, 7)), keras.layers.Permute((2, 3, 1)), primary]
    )
    expected = primary(np.moveaxis(images, 1, -1))
    assert_all_close(model(images), expected)


# Subclasses.


class Signals(ConvCapsules2D):
    """A signal as an image of one row, written as a user would."""

    def build(self, input_shape):
        super().build((input_shape[0], 1, *input_shape[1:]))
        self.input_spec = None

    def call(self, inputs, training=None, return_coupling=False):
        inputs = ops.expand_dims(inputs, 1)
        if not return_coupling:
            return super().call(inputs, training)[:, 0]
        outputs, coupling = super().call(inputs, training, True)
        return outputs[:, 0], coupling[:, 0]

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(
            (input_shape[0], 1, *input_shape[1:])
        )
        return (shape[0], *shape[2:])


@slow_on_jax
def test_a_subclass_with_other_shapes_keeps_the_coupling():
    signals = random(2, 7, 3, 2).astype("float32")
    layer = Signals(5, 11, (1, 3))
    inputs = keras.Input((7, 3, 2))
    outputs, coupling = layer(inputs, return_coupling=True)
    assert outputs.shape == (None, 5, 5, 11)
    assert coupling.shape == (None, 5, 9, 5)
    model = keras.Model(inputs, [outputs, coupling])
    same = ConvCapsules1D(5, 11, 3)
    same.build(signals.shape)
    same.set_weights(
        [
            numpy(weight).reshape(other.shape)
            for weight, other in zip(layer.weights, same.weights, strict=True)
        ]
    )
    assert_all_close(
        model.predict(signals, verbose=0), same(signals, return_coupling=True)
    )
    assert_all_close(layer(signals), same(signals))


class Normalized(CapsuleLayer):
    """Only changes the input, and leaves arguments to the base."""

    def call(self, inputs, *args, **kwargs):
        return super().call(ops.normalize(inputs), *args, **kwargs)


def test_a_subclass_that_hands_arguments_on():
    inputs = keras.Input((7, 3))
    outputs, coupling = Normalized(5, 2)(inputs, return_coupling=True)
    assert outputs.shape == (None, 5, 2)
    assert coupling.shape == (None, 7, 5)


@pytest.mark.parametrize("call", [{}, {"return_coupling": True}], ids=str)
def test_shapes_without_data_are_those_with_data(call):
    layer = CapsuleLayer(5, (2, 3), routing="em", coordinate_addition=True)
    poses, activations = random(2, 3, 4, 7, 2, 3), np.ones((2, 3, 4, 7))
    symbolic = layer(
        (keras.Input(poses.shape[1:]), keras.Input(activations.shape[1:])),
        **call,
    )
    eager = layer((poses, activations), **call)
    for one, other in zip(
        keras.tree.flatten(symbolic), keras.tree.flatten(eager), strict=True
    ):
        assert one.shape == (None, *other.shape[1:])
        assert one.dtype == keras.backend.standardize_dtype(other.dtype)
