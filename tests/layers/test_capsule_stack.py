"""Stacks of capsule layers, concurrent and sequential."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.routing.inverted_attention import InvertedAttentionRouting
from keras_capsules.routing.tracing import tracing
from tests.helpers.gradients import assert_close
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import check_saving
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import values

SHAPE = (2, 7, 3)  # of the input
SIZES = [(5, 3), (4, 2), (3, 5)]  # of three layers


def one_pass():
    return InvertedAttentionRouting(num_iterations=1)


def test_the_stack_sets_the_number_of_iterations():
    routing = InvertedAttentionRouting(3, scale_agreement=True)
    layers = [CapsuleLayer(5, 3, routing=routing) for _ in range(2)]
    stack = CapsuleStack(layers)
    for layer in stack.layers:
        assert layer.routing.num_iterations == 1
        assert layer.routing.scale_agreement
    assert routing.num_iterations == 3  # may serve other layers


class WithoutConfig(InvertedAttentionRouting):
    """A routing of one's own, which cannot be saved."""

    def __init__(self, sharpness, num_iterations=2):
        super().__init__(num_iterations)
        self.sharpness = sharpness

    def get_config(self):
        return {}


def test_the_stack_keeps_options_without_a_configuration():
    routing = WithoutConfig(sharpness=9.0)
    stack = CapsuleStack([CapsuleLayer(5, 3, routing=routing)])
    kept = stack.layers[0].routing
    assert (kept.sharpness, kept.num_iterations) == (9.0, 1)
    assert routing.num_iterations == 2


def make_layers(number=3):
    return [
        CapsuleLayer(*size, routing=one_pass(), name=f"capsules_{index}")
        for index, size in enumerate(SIZES[:number])
    ]


def make_inputs():
    random = np.random.default_rng(0)
    return random.normal(size=SHAPE).astype("float32")


def step(inputs, kernel, outputs):
    """One iteration with an example's votes; `None` starts from scratch."""
    votes = np.einsum("id,idje->ije", inputs, kernel)
    logits = np.zeros(votes.shape[:2])
    if outputs is not None:
        logits = (votes * outputs).sum(axis=2)
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    poses = np.einsum("ij,ije->je", q, votes)
    mean = poses.mean(axis=1, keepdims=True)
    deviation = np.sqrt(poses.var(axis=1, keepdims=True) + 1e-5)
    return (poses - mean) / deviation


def oracle(inputs, kernels, num_iterations, concurrent):
    """The output, with all layers updated in all iterations."""
    outputs = []
    for example in inputs:
        if not concurrent:
            poses = example
            for kernel in kernels:
                below, poses = poses, None
                for _ in range(num_iterations):
                    poses = step(below, kernel, poses)
            outputs.append(poses)
            continue
        levels = [example]
        for kernel in kernels:
            levels.append(step(levels[-1], kernel, None))
        for _ in range(num_iterations - 1):
            old = list(levels)
            for index, kernel in enumerate(kernels):
                levels[index + 1] = step(old[index], kernel, old[index + 1])
        outputs.append(levels[-1])
    return np.stack(outputs)


@pytest.mark.parametrize("concurrent", [True, False])
@pytest.mark.parametrize("num_iterations", [1, 2, 3, 5])
def test_equals_the_oracle(num_iterations, concurrent):
    stack = CapsuleStack(make_layers(), num_iterations, concurrent)
    inputs = make_inputs()
    outputs = numpy(stack(inputs))
    kernels = [numpy(layer.kernel) for layer in stack.layers]
    exact = oracle(inputs, kernels, num_iterations, concurrent)
    assert_close(outputs, exact, 1e-4)
    assert stack.compute_output_shape((None, 7, 3)) == (None, 3, 5)


def test_sequential_equals_layers_with_as_many_iterations():
    stack = CapsuleStack(make_layers(), 3, concurrent=False)
    poses = inputs = make_inputs()
    outputs = stack(inputs)
    for layer, size in zip(stack.layers, SIZES, strict=True):
        routing = InvertedAttentionRouting(num_iterations=3)
        other = CapsuleLayer(*size, routing=routing)
        other.build(poses.shape)
        other.set_weights(layer.get_weights())
        poses = other(poses)
    assert_close(numpy(outputs), numpy(poses), 1e-5)


def test_a_single_layer_routes_alike_either_way():
    stack = CapsuleStack(make_layers(1), 3)
    inputs = make_inputs()
    first = numpy(stack(inputs))
    stack.concurrent = False
    assert_close(numpy(stack(inputs)), first, 1e-6)


class CountingLayer(keras.layers.Layer):
    """Counts its calls; a pose is a number that tells its origin."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.routing = one_pass()
        self.calls = 0

    def call(self, inputs, outputs=None):
        self.calls += 1
        outputs = ops.zeros_like(inputs) if outputs is None else outputs
        return 10 * inputs + outputs + 1

    def compute_output_shape(self, input_shape):
        return input_shape


def test_each_layer_is_updated_from_the_old_values():
    # Inputs 0. First iteration: 1, 11, 111. Second: 1 + 1 = 2, 10 + 11 + 1
    # = 22, 110 + 111 + 1 = 222. Third: 20 * 10 + ... = 220 + 222 + 1 = 443.
    layers = [CountingLayer() for _ in range(3)]
    outputs = CapsuleStack(layers, 3)(np.zeros((1, 1), "float32"))
    assert float(outputs[0, 0]) == 443
    # The first layer is too far away to be of use after its first pass.
    assert [layer.calls for layer in layers] == [1, 2, 3]


def make_grid_stack(**kwargs):
    return CapsuleStack(
        [
            ConvCapsules2D(2, (2, 3), 3, strides=2, routing=one_pass()),
            CapsuleLayer(3, (2, 5), routing=one_pass()),
        ],
        **kwargs,
    )


@pytest.mark.parametrize("concurrent", [True, False])
def test_convolutional_matrix_capsules(concurrent, tmp_path):
    stack = make_grid_stack(concurrent=concurrent)
    inputs = np.random.default_rng(1).normal(size=(2, 5, 7, 1, 2, 4))
    model = keras.Sequential([keras.Input(inputs.shape[1:]), stack])
    assert model.output_shape == (None, 3, 2, 5)
    # Two kernels, and two gammas and betas.
    assert len(stack.trainable_weights) == 6
    loaded = check_saving(model, inputs.astype("float32"), tmp_path)
    assert loaded.layers[0].concurrent is concurrent


def test_all_weights_are_trained():
    model = keras.Sequential(
        [
            keras.Input(SHAPE[1:]),
            CapsuleStack(make_layers(2), 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse")
    before = [numpy(weight) for weight in model.trainable_weights]
    assert np.isfinite(model.train_on_batch(make_inputs(), np.ones((2, 2))))
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert not np.array_equal(numpy(weight), old), weight.path


def test_the_output_is_of_the_dtype_of_the_stack():
    stack = CapsuleStack(make_layers(1), dtype="mixed_bfloat16")
    outputs = stack(make_inputs())
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert stack(keras.Input(SHAPE[1:])).dtype == "bfloat16"
    assert {weight.dtype for weight in stack.weights} == {"float32"}


def test_the_first_layer_gets_the_activations():
    # Which has no use for them, but takes pairs.
    stack = CapsuleStack(make_layers(2), 2)
    outputs = stack((make_inputs(), np.ones(SHAPE[:2], "float32")))
    assert outputs.shape == (2, 4, 2)


def test_config():
    stack = make_grid_stack(num_iterations=3, concurrent=False, name="other")
    config = json.loads(json.dumps(stack.get_config()))
    loaded = CapsuleStack.from_config(config)
    assert loaded.get_config() == stack.get_config()
    assert [type(layer) for layer in loaded.layers] == [
        ConvCapsules2D,
        CapsuleLayer,
    ]
    assert config["name"] == "other"
    assert isinstance(config["layers"][0], dict)  # has not been changed


def test_input_that_does_not_fit():
    with pytest.raises(ValueError, match="takes capsules of shape"):
        CapsuleStack(make_layers()).build((None, 3))


@pytest.mark.parametrize("layers", [None, [], (), "layer", 3], ids=str)
def test_no_layers(layers):
    message = invalid("layers", "a list or tuple of one or more capsule layers")
    with pytest.raises(ValueError, match=message):
        CapsuleStack(layers)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(3),
        CapsuleLayer(3, 5),
        one_pass(),
    ],
    ids=["dense", "dynamic", "routing"],
)
def test_layers_with_another_routing(layer):
    message = (
        r"Expected capsule layers with a routing that takes earlier outputs, "
        r"such as InvertedAttentionRouting\(\)\. Received: layer=.* routing="
    )
    with pytest.raises(ValueError, match=message):
        CapsuleStack([*make_layers(1), layer])


@values(NOT_POSITIVE_INTEGERS)
def test_bad_number_of_iterations(value):
    message = invalid("num_iterations", "a positive integer")
    with pytest.raises(ValueError, match=message):
        CapsuleStack(make_layers(1), value)


@values(NOT_BOOLEANS)
def test_bad_switch(value):
    with pytest.raises(ValueError, match=invalid("concurrent", "True or Fal")):
        CapsuleStack(make_layers(1), concurrent=value)


def test_updates_tell_the_order():
    # Of the third iteration, the first layer is too far away.
    assert CapsuleStack(make_layers(), 3).updates == [0, 1, 2, 2, 1, 2]
    assert CapsuleStack(make_layers(2), 1).updates == [0, 1]
    sequential = CapsuleStack(make_layers(2), 3, concurrent=False)
    assert sequential.updates == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("concurrent", [True, False])
def test_updates_equal_the_calls(concurrent):
    stack = CapsuleStack(make_layers(), 4, concurrent)
    with tracing() as traces:
        stack(make_inputs())
    sizes = [trace.coupling[-1].shape[1] for trace in traces]
    assert sizes == [SIZES[index][0] for index in stack.updates]
