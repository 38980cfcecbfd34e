"""Couplings and their entropies, held against oracles and layers."""

import concurrent.futures
import math

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import CapsuleStack
from keras_capsules import ConvCapsules1D
from keras_capsules import ConvCapsules2D
from keras_capsules import ConvCapsules2DTranspose
from keras_capsules import ConvCapsules3D
from keras_capsules import PrimaryCapsules
from keras_capsules import SharedKernelConvCapsules2D
from keras_capsules import inspection
from keras_capsules.models import CapsNet
from keras_capsules.models import CapsuleNetwork
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.routing import SelfRouting
from tests.helpers import networks
from tests.helpers.capsules import random
from tests.helpers.capsules import route
from tests.helpers.capsules import set_random_weights
from tests.helpers.routings import all_routings
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import slow_on_jax
from tests.helpers.testing import values


def model_of(layer, shape, scale=1.0):
    """A model of one layer, and inputs for it."""
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    set_random_weights(layer, scale)
    return model, random(*shape).astype("float32")


def entropy_of(coupling):
    """The mean entropy of shares along the last axis, for each example."""
    size = coupling.shape[-1]
    results = []
    for example in coupling.reshape(len(coupling), -1, size):
        total = 0.0
        for shares in example:
            total -= sum(p * math.log(p) for p in shares / shares.sum() if p)
        results.append(total / math.log(size) / len(example))
    return np.array(results)


# Known answers.


def test_equal_shares_have_the_entropy_1():
    model, x = model_of(CapsuleLayer(7, 2, DynamicRouting(1)), (3, 5, 4))
    (found,) = inspection.couplings(model, x)
    np.testing.assert_array_equal(found.entropy, np.ones((1, 3)))
    np.testing.assert_array_equal(found.coupling, np.float32(1 / 7))
    # Votes that are zero agree with nothing.
    model, x = model_of(CapsuleLayer(7, 2, use_bias=False), (3, 5, 4), 0.0)
    (found,) = inspection.couplings(model, x)
    np.testing.assert_array_equal(found.entropy, np.ones((3, 3)))


def test_one_output_for_all_has_the_entropy_0():
    layer = CapsuleLayer(7, 2, SelfRouting())
    model, x = model_of(layer, (3, 5, 4), 0.0)
    bias = np.zeros((7, 5))
    bias[2] = 1e4
    layer.routing_weights["routing_bias"].assign(bias)
    (found,) = inspection.couplings(model, x)
    np.testing.assert_array_equal(found.entropy, np.zeros((1, 3)))
    np.testing.assert_array_equal(found.coupling[..., 2], 1)


@on_one_backend
def test_a_single_output_has_the_entropy_1():
    model, x = model_of(CapsuleLayer(1, 2), (3, 5, 4))
    (found,) = inspection.couplings(model, x)
    np.testing.assert_array_equal(found.entropy, np.ones((3, 3)))


@pytest.mark.parametrize("leaky", [False, True])
def test_each_iteration_equals_the_oracle(leaky):
    layer = CapsuleLayer(5, 2, DynamicRouting(4, leaky=leaky), name="classes")
    model, x = model_of(layer, (3, 2, 7, 4))
    (found,) = inspection.couplings(model, x)
    assert found.name == "classes"
    assert found.coupling.dtype == found.entropy.dtype == "float32"
    assert found.coupling.shape == (3, 2, 7, 5)
    assert found.entropy.shape == (4, 3)
    flat, kernel, bias = x.reshape(3, 14, 4), *map(numpy, layer.weights)
    if leaky:  # an output more, whose votes and bias are zero
        kernel = np.pad(kernel, [(0, 0), (0, 0), (0, 1), (0, 0)])
        bias = np.pad(bias, [(0, 1), (0, 0)])
    for number, entropy in enumerate(found.entropy, 1):
        _, exact = route(flat, kernel, bias, number)
        exact = exact[..., :5]
        np.testing.assert_allclose(entropy, entropy_of(exact), rtol=1e-4)
    exact = exact.reshape(found.coupling.shape)
    np.testing.assert_allclose(found.coupling, exact, rtol=1e-3, atol=1e-6)


# Every kind of layer and routing.

KINDS = {
    "dense": (CapsuleLayer, {}, (2, 3, 5), (3,)),
    "grid": (
        CapsuleLayer,
        {"share_over_positions": True},
        (2, 2, 3, 5),
        (2, 3),
    ),
    "matrix": (CapsuleLayer, {"capsule_dim": (2, 3)}, (2, 3, 2, 4), (3,)),
    "1d": (ConvCapsules1D, {"kernel_size": 3}, (2, 5, 2, 4), (3, 3, 2)),
    "2d": (
        ConvCapsules2D,
        {"kernel_size": (2, 3), "strides": (2, 1)},
        (2, 5, 4, 2, 3),
        (2, 2, 2, 3, 2),
    ),
    "3d": (
        ConvCapsules3D,
        {"kernel_size": (1, 2, 3)},
        (2, 2, 3, 3, 2, 4),
        (2, 2, 1, 1, 2, 3, 2),
    ),
    "transpose": (
        ConvCapsules2DTranspose,
        {"kernel_size": 3, "strides": 2, "padding": "same"},
        (2, 2, 3, 5, 4),
        (4, 6, 5),
    ),
}


CASES = [
    (routing, kind)
    for routing in all_routings()
    for kind in KINDS
    if routing in ("dynamic", "em") or kind in ("dense", "2d")
]


@slow_on_jax
@pytest.mark.parametrize("routing, kind", CASES)
def test_equals_what_the_layer_returns(routing, kind):
    make, options, shape, axes = KINDS[kind]
    options = {"num_capsules": 7, "capsule_dim": 3, **options}
    layer = make(**options, routing=all_routings()[routing])
    model, x = model_of(layer, shape)
    (found,) = inspection.couplings(model, x)
    assert found.coupling.shape == (2, *axes, 7)
    _, coupling = layer(x, return_coupling=True)
    exact = numpy(coupling).reshape(found.coupling.shape)
    np.testing.assert_allclose(found.coupling, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found.entropy[-1], entropy_of(exact), rtol=1e-4, atol=1e-5
    )
    assert len(found.entropy) == getattr(layer.routing, "num_iterations", 1)


@on_one_backend
def test_pairs():
    poses = keras.Input((5, 4))
    activations = keras.layers.Dense(1, activation="sigmoid")(poses)
    activations = keras.layers.Reshape((5,))(activations)
    layer = CapsuleLayer(3, 2, "em")
    model = keras.Model(poses, layer((poses, activations)))
    x = random(2, 5, 4).astype("float32")
    (found,) = inspection.couplings(model, x)
    pair = keras.Model(poses, [poses, activations])(x)
    _, exact = layer(tuple(pair), return_coupling=True)
    np.testing.assert_allclose(found.coupling, numpy(exact), rtol=1e-5)


def test_shared_kernel():
    layer = SharedKernelConvCapsules2D(2, 3, 3, strides=2, num_iterations=2)
    model, x = model_of(layer, (2, 5, 4, 7, 3), 3.0)
    (found,) = inspection.couplings(model, x)
    assert found.coupling.shape == (2, 7, 3, 2, 2)
    _, exact = layer(x, return_coupling=True)
    np.testing.assert_array_equal(found.coupling, numpy(exact))
    np.testing.assert_array_equal(found.entropy[0], [1, 1])
    # Over types and positions.
    exact = found.coupling.reshape(2, 7, 12)
    np.testing.assert_allclose(found.entropy[1], entropy_of(exact), rtol=1e-4)


@pytest.mark.parametrize("concurrent", [True, False])
def test_stack(concurrent):
    stack = CapsuleStack(
        [
            ConvCapsules1D(5, 2, 2, routing="inverted_attention", name="lower"),
            CapsuleLayer(3, 2, routing="inverted_attention", name="upper"),
        ],
        3,
        concurrent,
        name="stack",
    )
    model, x = model_of(stack, (2, 4, 7, 3))
    lower, upper = inspection.couplings(model, x)
    assert (lower.name, upper.name) == ("stack/lower", "stack/upper")
    assert lower.coupling.shape == (2, 3, 2, 7, 5)
    assert upper.coupling.shape == (2, 3, 5, 3)
    # The lowest of two concurrent layers has no use for the last iteration.
    assert lower.entropy.shape == (2 if concurrent else 3, 2)
    assert upper.entropy.shape == (3, 2)
    # By hand: each update with what there was before it.
    poses, coupling = [x, None, None], [[], []]
    for index in stack.updates:
        options = {}
        if poses[index + 1] is not None:
            options["outputs"] = poses[index + 1]
        poses[index + 1], each = stack.layers[index](
            poses[index], return_coupling=True, **options
        )
        coupling[index].append(numpy(each))
    for found, exact in zip((lower, upper), coupling, strict=True):
        for entropy, each in zip(found.entropy, exact, strict=True):
            np.testing.assert_allclose(entropy, entropy_of(each), rtol=1e-4)
        exact = exact[-1].reshape(found.coupling.shape)
        np.testing.assert_allclose(found.coupling, exact, rtol=1e-5)


# Padding.


def test_places_outside_of_the_grid_do_not_count():
    layer = ConvCapsules1D(3, 2, 3, padding="same", routing=DynamicRouting(2))
    model, x = model_of(layer, (2, 5, 1, 4))
    (found,) = inspection.couplings(model, x)
    _, exact = layer(x, return_coupling=True)
    exact = numpy(exact).reshape(2, 5, 3, 1, 3)
    margins = [(0, 0), (4, 2)]  # window and place
    for window, place in margins:
        assert (found.coupling[:, window, place] == 0).all()
        found.coupling[:, window, place] = exact[:, window, place]
    np.testing.assert_allclose(found.coupling, exact, rtol=1e-5)
    inside = [
        exact[:, window, place]
        for window in range(5)
        for place in range(3)
        if (window, place) not in margins
    ]
    inside = np.stack(inside, axis=1)
    np.testing.assert_allclose(found.entropy[1], entropy_of(inside), rtol=1e-4)


TEXTS = np.array([[3, 1, 4, 0, 0], [5, 2, 6, 0, 0]])


def text_model(layer, types=None):
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 4, mask_zero=True)(words)
    if types:
        x = keras.layers.Dense(types * 3)(x)
        x = keras.layers.TimeDistributed(keras.layers.Reshape((types, 3)))(x)
    return keras.Model(words, layer(x))


@pytest.mark.parametrize(
    "layer",
    [
        CapsuleLayer(3, 2, share_over_positions=True),
        CapsuleLayer(3, 2, "em", share_over_positions=True),
    ],
    ids=["dynamic", "em"],
)
def test_masked_capsules_do_not_count(layer):
    model = text_model(layer)
    (padded,) = inspection.couplings(model, TEXTS)
    (short,) = inspection.couplings(model, TEXTS[:, :3])
    assert (padded.coupling[:, 3:] == 0).all()
    np.testing.assert_allclose(padded.coupling[:, :3], short.coupling, 1e-4)
    np.testing.assert_allclose(padded.entropy, short.entropy, 1e-4)


def test_masks_reach_the_layers_of_a_stack():
    layers = [
        ConvCapsules1D(2, 3, 1, routing="inverted_attention"),
        CapsuleLayer(
            3, 4, routing="inverted_attention", share_over_positions=True
        ),
    ]
    model = text_model(CapsuleStack(layers), 2)
    padded = inspection.couplings(model, TEXTS)
    short = inspection.couplings(model, TEXTS[:, :3])
    for one, other in zip(padded, short, strict=True):
        assert (one.coupling[:, 3:] == 0).all()
        np.testing.assert_allclose(one.entropy, other.entropy, 1e-4)


def test_an_explicit_mask():
    images = keras.Input((5, 4))
    mask = keras.layers.Lambda(lambda x: x[..., 0] > 0, (5,))(images)
    model = keras.Model(images, CapsuleLayer(3, 2)(images, mask=mask))
    x = random(2, 5, 4).astype("float32")
    (found,) = inspection.couplings(model, x)
    np.testing.assert_array_equal(found.coupling[..., 0] > 0, x[..., 0] > 0)


def test_nothing_but_padding():
    model = text_model(CapsuleLayer(3, 2, share_over_positions=True))
    (found,) = inspection.couplings(model, TEXTS * [[1], [0]])
    assert np.isfinite(found.entropy[:, 0]).all()
    assert np.isnan(found.entropy[:, 1]).all()


# Models.

SHAPES = {
    "CapsNet": {"class_capsules": (2, 2, 2, 3)},
    "DeepCaps": {"cell_2_shortcut": (2, 2, 2, 2), "class_capsules": (40, 3)},
    "EfficientCapsNet": {"class_capsules": (1, 1, 3, 3)},
    "InvertedAttentionCapsNet": {
        "class_capsules/conv_capsules_1": (3, 3, 3, 3, 2, 2),
        "class_capsules/classes": (3, 3, 2, 3),
    },
    "MatrixCapsNet": {
        "conv_capsules_1": (3, 3, 3, 3, 2, 2),
        "class_capsules": (3, 3, 2, 3),
    },
}


@slow_on_jax
@pytest.mark.parametrize("name", SHAPES)
def test_networks(name):
    model, images = networks.make(name), networks.images()
    before = [numpy(weight) for weight in model.weights]
    whole = inspection.couplings(model, images)
    assert {x.name: x.coupling.shape[1:] for x in whole} == SHAPES[name]
    means = inspection.couplings(model, images, reduce="mean", batch_size=2)
    for one, mean in zip(whole, means, strict=True):
        assert ((one.entropy >= 0) & (one.entropy <= 1)).all()
        # Batches change nothing.
        np.testing.assert_allclose(one.entropy, mean.entropy, rtol=1e-4)
        assert mean.coupling.dtype == "float32"
        np.testing.assert_allclose(
            mean.coupling, one.coupling.mean(axis=0), rtol=1e-4, atol=1e-6
        )
    for one, other in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, numpy(other))


@on_one_backend
@pytest.mark.parametrize("name", ["ConvNet", "SqueezeExcitationNet"])
def test_networks_without_capsules_raise(name):
    message = invalid("model", "").replace("Received: model=", "Received: the")
    with pytest.raises(ValueError, match=message):
        inspection.couplings(networks.make(name), networks.images())


def part(name):
    """A model, built layer by layer, which calls each layer several times."""
    model = keras.Sequential(name=name)
    model.add(keras.Input((8, 8, 1)))
    model.add(keras.layers.Conv2D(4, 3))
    model.add(PrimaryCapsules(2, 3, 3))
    model.add(CapsuleLayer(3, 4, name="capsules"))
    return model


@on_one_backend
def test_models_in_models():
    images = keras.Input((8, 8, 1))
    options = networks.OPTIONS["CapsNet"]
    first, second = part("first"), CapsNet((8, 8, 1), 3, **options, name="b")
    x = keras.layers.Rescaling(2.0)(images)
    capsules = first(x)
    scores = keras.layers.Add()([CapsuleLength()(capsules), second(x)])
    last = CapsuleLayer(5, 2, name="last")(capsules)
    # And one more model around.
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.Model(images, [scores, last], name="inner"),
        ]
    )
    found = inspection.couplings(model, networks.images())
    found = {each.name: each.coupling for each in found}
    names = ["first/capsules", "b/class_capsules", "last"]
    names = [f"inner/{name}" for name in names]
    assert sorted(found) == sorted(names)
    x = 2 * networks.images()
    for name, each in zip(names, (first, second), strict=False):
        (alone,) = inspection.couplings(each, x)
        np.testing.assert_allclose(found[name], alone.coupling, rtol=1e-4)
    _, exact = model.layers[0].get_layer("last")(first(x), return_coupling=True)
    np.testing.assert_allclose(found["inner/last"], numpy(exact), rtol=1e-4)


@on_one_backend
def test_chosen_layers():
    model, images = networks.make("MatrixCapsNet"), networks.images()
    whole = inspection.couplings(model, images)
    (last,) = inspection.couplings(model, images, layers=["class_capsules"])
    np.testing.assert_array_equal(last.coupling, whole[-1].coupling)
    for wrong in (["primary_capsules"], ["class_capsules", "x"], [], "x", 3):
        with pytest.raises(ValueError) as error:
            inspection.couplings(model, images, layers=wrong)
        assert str(error.value) == (
            "Invalid value for argument `layers`. Expected names of layers "
            "that route capsules, of ['conv_capsules_1', 'class_capsules']. "
            f"Received: layers={wrong!r}"
        )


@on_one_backend
def test_a_layer_of_two_models_and_called_twice():
    layer = CapsuleLayer(3, 4)
    layer(keras.Input((5, 4)))  # of no model at all
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layer(keras.layers.Rescaling(2.0)(inputs)))
    x = random(2, 5, 4).astype("float32")
    (found,) = inspection.couplings(model, x)
    _, exact = layer(2 * x, return_coupling=True)
    np.testing.assert_allclose(found.coupling, numpy(exact), rtol=1e-5)
    twice = keras.Model(inputs, [layer(inputs), model.output])
    first, second = inspection.couplings(twice, x)
    np.testing.assert_allclose(second.coupling, found.coupling, rtol=1e-5)
    assert np.abs(first.coupling - second.coupling).max() > 1e-3


@on_one_backend
def test_a_model_that_is_called_twice_raises():
    inner = part("inner")
    images = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(2.0)(images)
    model = keras.Model(images, [inner(images), inner(x)])
    with pytest.raises(ValueError, match="once. Received: calls of 'inner'"):
        inspection.couplings(model, networks.images())


@on_one_backend
def test_a_model_that_begins_at_a_tensor_of_the_model():
    images = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(2.0)(images)
    inner = keras.Model(images, part("part")(images), name="inner")
    same = keras.Model(images, inner(images))
    assert len(inspection.couplings(same, networks.images())) == 1
    other = keras.Model(images, inner(x), name="outer")
    with pytest.raises(ValueError, match=r"of its own\. Received.*'outer'"):
        inspection.couplings(other, networks.images())


def test_16_bits():
    layer = CapsuleLayer(3, 2, dtype="mixed_bfloat16")
    model, x = model_of(layer, (2, 5, 4))
    (found,) = inspection.couplings(model, x)
    assert found.coupling.dtype == "float32"
    np.testing.assert_allclose(found.coupling.sum(axis=-1), 1, rtol=1e-5)


def test_threads():
    model, images = networks.make("CapsNet"), networks.images()
    exact = inspection.couplings(model, images)

    def work(_):
        return inspection.couplings(model, images, batch_size=1)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (found,) in pool.map(work, range(4)):
            np.testing.assert_allclose(found.entropy, exact[0].entropy, 1e-4)


class MeanRouting(Routing):
    averages = True

    def route(self, votes):
        return Routed(keras.ops.mean(votes, axis=2))


@on_one_backend
def test_a_routing_without_coupling_raises():
    model, x = model_of(CapsuleLayer(3, 2, MeanRouting(), name="x"), (2, 5, 4))
    with pytest.raises(ValueError, match="no coupling.* Received: .* 'x' with"):
        inspection.couplings(model, x)


@on_one_backend
def test_own_routing():
    class Twice(InvertedAttentionRouting):
        """A routing of one's own, with iterations."""

        def route(self, votes, weights):
            for _ in range(2):
                yield from super().route(votes, weights)

    model, x = model_of(CapsuleLayer(3, 2, Twice()), (2, 5, 4))
    (found,) = inspection.couplings(model, x)
    assert found.entropy.shape == (4, 2)
    np.testing.assert_array_equal(found.entropy[0], found.entropy[2])


@on_one_backend
def test_progress(capsys):
    model, images = networks.make("CapsNet"), networks.images()
    inspection.couplings(model, images, batch_size=2)
    assert capsys.readouterr().out == ""
    inspection.couplings(model, images, batch_size=2, verbose=1)
    assert "5/5" in capsys.readouterr().out


# Errors.


@on_one_backend
@values(NOT_POSITIVE_INTEGERS)
def test_bad_batch_size(value):
    with pytest.raises(ValueError, match=invalid("batch_size", "a positive")):
        inspection.couplings(
            networks.make("CapsNet"), networks.images(), batch_size=value
        )


@on_one_backend
@pytest.mark.parametrize(
    "options, message",
    [
        ({"reduce": "sum"}, invalid("reduce", "one of 'mean'")),
        ({"verbose": 2}, invalid("verbose", "True or False")),
        ({"images": np.zeros((2, 8, 7, 1))}, "of shape .batch, 8, 8, 1."),
        ({"images": np.zeros((0, 8, 8, 1))}, "at least one image. Received: "),
    ],
    ids=["reduce", "verbose", "shape", "none"],
)
def test_bad_arguments(options, message):
    options = {"images": networks.images(), **options}
    with pytest.raises(ValueError, match=message):
        inspection.couplings(networks.make("CapsNet"), **options)


@on_one_backend
def test_a_model_of_several_inputs_raises():
    a, b = keras.Input((5, 4), name="a"), keras.Input((5, 4), name="b")
    model = CapsuleNetwork([a, b], CapsuleLayer(3, 2)(a + b))
    with pytest.raises(ValueError, match="Expected one input"):
        inspection.couplings(model, [np.zeros((2, 5, 4))] * 2)
