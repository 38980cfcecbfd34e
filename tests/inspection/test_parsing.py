"""Parse trees, held against networks made by hand."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleStack
from keras_capsules import ConvCapsules2D
from keras_capsules import MatrixPrimaryCapsules
from keras_capsules import PrimaryCapsules
from keras_capsules import inspection
from keras_capsules.layers import CapsuleSelection
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models import EfficientCapsNet
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from tests.helpers import networks
from tests.helpers.by_hand import classes_of
from tests.helpers.by_hand import primary
from tests.helpers.by_hand import with_kernel
from tests.helpers.capsules import random
from tests.helpers.capsules import set_random_weights
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import slow_on_jax
from tests.helpers.testing import values


def shapes_of(part):
    """A tree without its numbers."""
    return part.layer, part.index, part.box, [shapes_of(x) for x in part.parts]


# Trees.


def two_layers():
    """Primary capsules 3 x 3, capsules 2 x 2 of two types, three classes."""
    images = keras.Input((7, 7, 1))
    kernel = np.zeros((3, 3, 1, 2))
    kernel[..., 0] = 1 / 9
    x = primary(
        (7, 7, 1), kernel, capsule_dim=2, kernel_size=3, strides=2, name="low"
    )(images)
    # Each type looks at one place of its windows.
    kernel = np.zeros((2, 2, 1, 2, 2, 2))
    kernel[0, 1, 0, :, 0] = kernel[1, 0, 0, :, 1] = np.eye(2)
    middle = ConvCapsules2D(
        2, 2, 2, routing=DynamicRouting(1), use_bias=False, name="middle"
    )
    x = with_kernel(middle, (3, 3, 1, 2), kernel)(x)
    kernel = np.zeros((2, 2, 2, 2, 3, 2))  # y, x, type, d, class, e
    kernel[1, 1, 0, :, 0] = np.eye(2)
    kernel[0, 1, 1, :, 0] = 0.5 * np.eye(2)
    kernel[0, 0, 0, :, 0] = -0.25 * np.eye(2)  # votes against the class
    kernel[0, 0, 0, :, 2] = np.eye(2)
    x = classes_of(x, kernel.reshape(8, 2, 3, 2))
    return CapsuleNetwork(images, x)


def test_the_tree_of_two_layers():
    model, image = two_layers(), np.ones((7, 7, 1))
    (tree,) = inspection.parse_tree(model, image)
    assert shapes_of(tree) == (
        "classes",
        (0,),
        (0, 0, 7, 7),
        [
            (
                "middle",
                (1, 1, 0),
                (2, 2, 7, 7),
                [("low", (1, 2, 0), (2, 4, 5, 7), [])],
            ),
            (
                "middle",
                (0, 1, 1),
                (0, 2, 5, 7),
                [("low", (1, 1, 0), (2, 2, 5, 5), [])],
            ),
        ],
    )
    # Poses of length 1 become 1/2, shared by two types, and 1/5 in the squash.
    first, second = tree.parts
    assert tree.share == 1
    assert (first.share, second.share) == pytest.approx((2 / 3, 1 / 3))
    assert (first.activation, second.activation) == pytest.approx((0.2, 0.2))
    (low,) = first.parts
    assert (low.share, low.activation) == pytest.approx((1, 1))
    score = (0.2 + 0.1 - 0.05) / 3
    score = score**2 / (1 + score**2)
    assert tree.activation == pytest.approx(score, rel=5e-3)
    assert isinstance(first.share, float)
    assert isinstance(first.activation, float)
    assert all(type(number) is int for number in (*first.index, *first.box))


@on_one_backend
def test_options_of_trees():
    model, image = two_layers(), np.ones((7, 7, 1))
    (tree,) = inspection.parse_tree(model, image, num_parts=1)
    assert [part.index for part in tree.parts] == [(1, 1, 0)]
    none, last = inspection.parse_tree(model, image, classes=[1, 2])
    assert (none.index, none.parts, none.activation) == (
        (1,),
        (),
        pytest.approx(0, abs=1e-3),
    )
    assert [part.index for part in last.parts] == [(0, 0, 0)]
    for each in (2, np.int64(2)):
        assert inspection.parse_tree(model, image, each) == (last,)
    # A list of lists, and a tensor.
    image = keras.ops.convert_to_tensor(image)
    assert inspection.parse_tree(model, image, 2) == (last,)


@on_one_backend
def test_margins_are_no_parts():
    images = keras.Input((5, 4, 1))
    x = primary((5, 4, 1), kernel_size=1)(images)
    conv = ConvCapsules2D(
        1, 1, 3, 2, "same", routing=DynamicRouting(1), use_bias=False
    )
    x = with_kernel(conv, (5, 4, 1, 1), 1.0)(x)
    model = keras.Model(images, classes_of(x, np.ones((6, 1, 1, 1))))
    (tree,) = inspection.parse_tree(model, np.ones((5, 4, 1)), num_parts=20)
    windows = {part.index: part for part in tree.parts}
    # Windows begin at -1, 1, 3 and at 0, 2.
    assert windows[0, 0, 0].box == (0, 0, 2, 3)
    assert windows[1, 1, 0].box == (1, 2, 4, 4)
    assert windows[2, 1, 0].box == (3, 2, 5, 4)
    for part in windows.values():
        top, left, bottom, right = part.box
        assert sorted(each.index for each in part.parts) == [
            (a, b, 0) for a in range(top, bottom) for b in range(left, right)
        ]
        assert sum(each.share for each in part.parts) == pytest.approx(1)


# Shares.


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize(
    "routing", ["dynamic", "self_attention", "inverted_attention", "em"]
)
def test_shares_equal_the_formulas(routing, coordinates):
    layer = CapsuleLayer(
        3,
        2,
        routing,
        coordinate_addition=coordinates,
        share_over_positions=True,
    )
    inputs = keras.Input((7, 1, 4), name="capsules")
    model = keras.Model(inputs, layer(inputs))
    set_random_weights(layer)
    x = random(1, 7, 1, 4).astype("float32")
    _, coupling = layer(x, return_coupling=True)
    weights = numpy(coupling)[0]  # [i, j]
    votes = np.einsum("id,dje->ije", x[0, :, 0], numpy(layer.kernel)[0])
    if coordinates:  # the position, added to the first number
        votes[:, :, 0] += (np.arange(7)[:, None] + 0.5) / 7
    if routing == "em":
        supports = weights * np.linalg.norm(x[0, :, 0], axis=1)[:, None]
    else:
        if routing == "self_attention":
            weights = weights + numpy(layer.routing_weights["coupling_bias"]).T
        supports = np.zeros((7, 3))
        for j in range(3):
            total = sum(weights[i, j] * votes[i, j] for i in range(7))
            total /= np.linalg.norm(total)
            for i in range(7):
                supports[i, j] = max(weights[i, j] * votes[i, j] @ total, 0)
    shares = supports / supports.sum(axis=0)
    for output in range(3):
        (tree,) = inspection.parse_tree(model, x[0], output, num_parts=99)
        found = {part.index: part.share for part in tree.parts}
        for i in range(7):
            assert found.pop((i, 0), 0) == pytest.approx(
                shares[i, output], rel=1e-3, abs=1e-6
            )
        assert not found
        assert [part.share for part in tree.parts] == sorted(
            (part.share for part in tree.parts), reverse=True
        )
        assert {part.layer for part in tree.parts} == {"capsules"}
        lengths = np.linalg.norm(x[0, :, 0], axis=1)
        for part in tree.parts:
            exact = lengths[part.index[0]]
            assert part.activation == pytest.approx(exact, rel=1e-4)


@on_one_backend
def test_a_stack_of_one_layer_equals_the_layer():
    shape = (7, 4)
    one = CapsuleLayer(3, 4, InvertedAttentionRouting(1), name="layer")
    other = CapsuleLayer(3, 4, InvertedAttentionRouting(3), name="layer")
    stack = CapsuleStack([one], 3, name="stack")
    inputs = keras.Input(shape)
    models = [keras.Model(inputs, each(inputs)) for each in (stack, other)]
    set_random_weights(one)
    other.set_weights(one.get_weights())
    (first,), (second,) = (
        inspection.parse_tree(model, random(*shape), 1, num_parts=9)
        for model in models
    )
    assert (first.layer, second.layer) == ("stack/layer", "layer")
    assert len(first.parts) > 1
    for part, exact in zip(first.parts, second.parts, strict=True):
        assert part.index == exact.index
        assert part.share == pytest.approx(exact.share, rel=1e-4)


@on_one_backend
def test_capsules_that_are_picked():
    images = keras.Input((5, 4, 1))
    low = primary((5, 4, 1), kernel_size=1, name="low")(images)
    kept = [1, 18, 6, 11]
    x = CapsuleSelection([0, *kept, 2])(low)
    x = CapsuleSelection([1, 2, 3, 4])(x)
    model = keras.Model(images, classes_of(x, np.ones((4, 1, 1, 1))))
    image = np.zeros((5, 4, 1))
    image.flat[kept] = [4, 3, 2, 1]
    (tree,) = inspection.parse_tree(model, image)
    assert [part.index[:2] for part in tree.parts] == [
        divmod(each, 4) for each in kept
    ]
    assert tree.parts[1].box == (4, 2, 5, 3)
    assert tree.box == (0, 1, 5, 4)  # of those that are left
    assert tree.parts[1].layer == "low"
    (found,) = inspection.support_map(model, image[None])
    np.testing.assert_allclose(found, image[..., 0] / 10, rtol=1e-5)


@on_one_backend
def test_activations_of_pairs():
    images = keras.Input((5, 4, 1))
    for routing in ("em", "dynamic"):
        poses, activations = MatrixPrimaryCapsules(2, (2, 2))(images)
        x = CapsuleLayer(3, (2, 2), routing)((poses, activations))
        model = keras.Model(images, x)
        image = random(5, 4, 1).astype("float32")
        (tree,) = inspection.parse_tree(model, image, num_parts=99)
        exact = numpy(keras.Model(images, activations)(image[None]))[0]
        for part in tree.parts:
            assert part.activation == pytest.approx(exact[part.index], rel=1e-4)


# Networks.


def own(plain):
    images = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(images)
    x = layers.MaxPooling2D(2)(x)
    x = PrimaryCapsules(2, 3, 2)(x)
    x = layers.Dropout(0.5)(x)
    x = ConvCapsules2D(2, 4, 2, name="conv_capsules")(x)
    capsules = CapsuleLayer(3, 5, name="class_capsules")(x)
    if not plain:
        return CapsuleNetwork(images, capsules)
    scores = layers.Dense(3)(layers.Flatten()(capsules))
    return keras.Model(images, scores)


MAKE = {
    name: lambda name=name: networks.make(name)
    for name in networks.NAMES
    if name not in ("ConvNet", "SqueezeExcitationNet")
}
MAKE |= {
    "own": lambda: own(plain=False),
    "functional": lambda: own(plain=True),
    "multi_mnist": lambda: EfficientCapsNet(
        (8, 8, 1),
        3,
        filters=(4,),
        num_primary_capsules=3,
        primary_dim=4,
        primary_kernel_size=2,
        primary_strides=2,
        normalization="instance",
    ),
}
DEPTHS = {
    "InvertedAttentionCapsNet": 3,
    "MatrixCapsNet": 3,
    "own": 3,
    "functional": 3,
}


@slow_on_jax
@pytest.mark.parametrize("name", MAKE)
def test_networks(name):
    model, images = MAKE[name](), networks.images()
    scores = model.predict(images, verbose=0)
    (tree,) = inspection.parse_tree(model, images[0], num_parts=2)
    assert tree.index == (scores[0].argmax(),)
    assert tree.activation == pytest.approx(scores[0].max(), rel=1e-3)
    assert tree.box == (0, 0, *tree.box[2:])
    parts, depth = [tree], 0
    while parts:
        depth += 1
        for part in parts:
            top, left, bottom, right = part.box
            assert 0 <= top < bottom <= 8 and 0 <= left < right <= 8
            assert 0 < part.share <= 1 and part.activation >= 0
            assert len(part.parts) <= 2
        below = [each for part in parts for each in part.parts]
        assert len({each.layer for each in below}) <= 1
        parts = below
    assert depth == DEPTHS.get(name, 2)
    maps = inspection.support_map(model, images)
    assert maps.shape == (5, 8, 8) and maps.min() >= 0
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    again = inspection.support_map(model, images, batch_size=2)
    np.testing.assert_allclose(again, maps, rtol=1e-3, atol=1e-6)
    others = inspection.support_map(model, images, scores.argmin(axis=1))
    assert np.abs(others - maps).max() > 1e-6


@on_one_backend
def test_the_names_of_parts():
    (tree,) = inspection.parse_tree(
        networks.make("InvertedAttentionCapsNet"), networks.images()[0]
    )
    names = []
    while tree:
        names.append(tree.layer)
        tree = next(iter(tree.parts), None)
    assert names == [
        "class_capsules/classes",
        "class_capsules/conv_capsules_1",
        "primary_capsules",
    ]
    (tree,) = inspection.parse_tree(
        networks.make("DeepCaps"), networks.images()[0]
    )
    assert tree.parts[0].layer == "last_cells"
    assert len(tree.parts[0].index) == 1


FUNCTIONS = [
    lambda model, images: inspection.parse_tree(model, images[0]),
    inspection.support_map,
]
both = pytest.mark.parametrize("function", FUNCTIONS, ids=["tree", "map"])


@on_one_backend
@both
@pytest.mark.parametrize("name", ["ConvNet", "SqueezeExcitationNet"])
def test_networks_without_capsules_raise(function, name):
    with pytest.raises(ValueError, match="Expected a model with class capsul"):
        function(networks.make(name), networks.images())


@on_one_backend
@both
def test_a_model_that_ends_in_a_grid_raises(function):
    images = keras.Input((8, 8, 1))
    x = ConvCapsules2D(2, 3, 2)(PrimaryCapsules(2, 3, 2)(images))
    with pytest.raises(ValueError, match="Expected a model with class capsul"):
        function(keras.Model(images, x), networks.images())


class MeanRouting(Routing):
    averages = True

    def route(self, votes):
        return Routed(keras.ops.mean(votes, axis=2))


@on_one_backend
@both
def test_a_routing_without_coupling_raises(function):
    images = keras.Input((8, 8, 1))
    x = PrimaryCapsules(2, 3, 2)(images)
    x = CapsuleLayer(2, 3, MeanRouting(), name="means")(x)
    with pytest.raises(ValueError, match="no coupling .* Received: .*'means'"):
        function(keras.Model(images, x), networks.images())


@on_one_backend
def test_unknown_layers():
    images = keras.Input((8, 8, 1))
    flip = functools.partial(keras.ops.flip, axis=1)
    x = layers.Lambda(flip, (8, 8, 1), name="flip")(images)
    x = layers.Conv2D(4, 3)(x)
    x = PrimaryCapsules(2, 3, 2, name="primary")(x)
    model = keras.Model(images, CapsuleLayer(3, 4)(x))
    (tree,) = inspection.parse_tree(model, networks.images()[0])
    assert tree.box is None and tree.parts[0].box is None
    assert tree.parts[0].layer == "primary"
    message = "'primary'. Received: a model with the layer 'flip' .Lambda"
    with pytest.raises(ValueError, match=message):
        inspection.support_map(model, networks.images())


# Errors.


@on_one_backend
@pytest.mark.parametrize("classes", [-1, 3, 1.0, "0", [0, 5], [[0]], []])
def test_bad_classes(classes):
    message = invalid("classes", "one or more integers from 0 to 2")
    model, images = networks.make("CapsNet"), networks.images()
    with pytest.raises(ValueError, match=message):
        inspection.parse_tree(model, images[0], classes)
    with pytest.raises(ValueError, match=message):
        inspection.support_map(model, images, classes)


@on_one_backend
@values(NOT_POSITIVE_INTEGERS)
def test_bad_sizes(value):
    model, images = networks.make("CapsNet"), networks.images()
    with pytest.raises(ValueError, match=invalid("num_parts", "a positive")):
        inspection.parse_tree(model, images[0], num_parts=value)
    with pytest.raises(ValueError, match=invalid("batch_size", "a positive")):
        inspection.support_map(model, images, batch_size=value)


@on_one_backend
def test_bad_images():
    model, images = networks.make("CapsNet"), networks.images()
    with pytest.raises(ValueError, match="one image, of.*image.shape=.3, "):
        inspection.parse_tree(model, images[:3])
    with pytest.raises(ValueError, match="Received: images.shape"):
        inspection.support_map(model, images[0])
    with pytest.raises(ValueError, match=invalid("verbose", "True or False")):
        inspection.support_map(model, images, verbose=2)
