"""Layers with windows on an image: small, empty and unknown sizes."""

import keras
import numpy as np
import pytest

from keras_capsules.layers import ConvCapsules1D
from keras_capsules.layers import ConvCapsules2D
from keras_capsules.layers import ConvCapsules3D
from keras_capsules.layers import MatrixPrimaryCapsules
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.layers import SharedKernelConvCapsules2D
from tests.helpers.testing import BACKEND
from tests.helpers.testing import numpy
from tests.helpers.testing import slow_on_jax

# How to make each layer, and the axes of its input after height and width.
LAYERS = {
    "PrimaryCapsules": (lambda: PrimaryCapsules(2, 3, 3), (1,)),
    "depthwise": (lambda: PrimaryCapsules(2, 3, 3, depthwise=True), (6,)),
    "MatrixPrimaryCapsules": (
        lambda: MatrixPrimaryCapsules(2, (2, 3), kernel_size=3),
        (1,),
    ),
    "ConvCapsules2D": (lambda: ConvCapsules2D(2, 3, 3), (5, 2)),
    "ConvCapsules2D, em": (
        lambda: ConvCapsules2D(2, 3, 3, routing="em"),
        (5, 2),
    ),
    "SharedKernelConvCapsules2D": (
        lambda: SharedKernelConvCapsules2D(2, 3, 3, padding="valid"),
        (5, 2),
    ),
}
layers = pytest.mark.parametrize("make, rest", LAYERS.values(), ids=LAYERS)


@slow_on_jax
@layers
def test_later_inputs_smaller_than_the_window_raise(make, rest):
    layer = make()
    layer(np.zeros((2, 4, 5, *rest), "float32"))
    # Sizes may be of any integer type.
    with pytest.raises(ValueError, match="smaller than the window.*Recei"):
        layer.compute_output_shape((2, np.int64(2), np.int64(5), *rest))
    for size in [(2, 5), (5, 2), (2, 2)]:
        with pytest.raises(ValueError, match="smaller than the window.*Recei"):
            layer(np.zeros((2, *size, *rest), "float32"))


@layers
def test_inputs_of_unknown_sizes_smaller_than_the_window_raise(make, rest):
    inputs = keras.Input((None, None, *rest))
    model = keras.Model(inputs, make()(inputs))
    with pytest.raises(ValueError, match="smaller than the window.*Recei"):
        model.predict(np.zeros((2, 4, 2, *rest), "float32"), verbose=0)


@slow_on_jax
@layers
def test_an_empty_batch_has_the_shapes_of_others(make, rest):
    layer = make()
    shape = (0, 4, 5, *rest)
    outputs = keras.tree.flatten(layer(np.zeros(shape, "float32")))
    expected = layer.compute_output_shape(shape)
    if len(outputs) == 1:
        expected = [expected]
    assert [numpy(each).shape for each in outputs] == list(expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its graphs")
@layers
def test_sizes_unknown_to_a_graph(make, rest):
    import tensorflow as tf

    layer = make()
    layer.build((None, None, None, *rest))
    graph = tf.function(
        layer, input_signature=[tf.TensorSpec((None, None, None, *rest))]
    )
    inputs = np.random.default_rng(0).normal(size=(2, 4, 5, *rest))
    inputs = inputs.astype("float32")
    outputs = keras.tree.flatten(graph(inputs))
    expected = keras.tree.flatten(layer(inputs))
    for one, other in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="its export")
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_symbolic_sizes(padding):
    import jax

    layer = PrimaryCapsules(2, 3, 3, padding=padding)
    layer.build((None, None, None, 1))
    symbols = jax.export.symbolic_shape("b, h, w, 1")
    exported = jax.export.export(jax.jit(layer))(
        jax.ShapeDtypeStruct(symbols, "float32")
    )
    inputs = np.ones((2, 5, 4, 1), "float32")
    np.testing.assert_allclose(
        exported.call(inputs), numpy(layer(inputs)), rtol=1e-4, atol=1e-6
    )


RANKS = {
    "signal": (ConvCapsules1D, 1, "dynamic"),
    "signal, em": (ConvCapsules1D, 1, "em"),
    "volume": (ConvCapsules3D, 3, "dynamic"),
    "volume, em": (ConvCapsules3D, 3, "em"),
}


@pytest.mark.skipif(BACKEND == "jax", reason="tested in detail on TensorFlow")
@pytest.mark.parametrize("layer, rank, routing", RANKS.values(), ids=RANKS)
def test_signals_and_volumes(layer, rank, routing):
    inputs = keras.Input((*[None] * rank, 5, 2))
    layer = layer(2, 3, 3, routing=routing)
    model = keras.Model(inputs, layer(inputs))
    small = np.zeros((2, *[4] * (rank - 1), 2, 5, 2), "float32")
    with pytest.raises(ValueError, match="smaller than the window.*Recei"):
        layer(small)
    with pytest.raises(ValueError, match="smaller than the window.*Recei"):
        model.predict(small, verbose=0)
    shape = (0, *[4] * rank, 5, 2)
    outputs = keras.tree.flatten(layer(np.zeros(shape, "float32")))
    assert tuple(outputs[0].shape) == (0, *[2] * rank, 2, 3)
