"""`capsule_health`: its figures of layers, against what these return."""

import keras
import numpy as np
import pytest

from keras_capsules.inspection import Health
from keras_capsules.inspection import LayerHealth
from keras_capsules.inspection import capsule_health
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import CapsuleStack
from keras_capsules.layers import ConvCapsules2D
from keras_capsules.layers import ConvCapsules2DTranspose
from keras_capsules.layers import MatrixPrimaryCapsules
from keras_capsules.layers import PoseScores
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.layers import SharedKernelConvCapsules2D
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from tests.helpers.health import CLASSES
from tests.helpers.health import SHAPE
from tests.helpers.health import make_images
from tests.helpers.health import sequential
from tests.helpers.health import small
from tests.helpers.testing import numpy


def entropy_of(coupling):
    """Of the shares along the last axis, from 0 to 1."""
    shares = coupling / coupling.sum(axis=-1, keepdims=True)
    terms = np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-30)), 0)
    return -terms.sum(axis=-1) / np.log(coupling.shape[-1])


def check(layer, poses, activations=None, axes=-1):
    """Compares a `LayerHealth` with the output capsules."""
    lengths = np.sqrt(np.square(poses).sum(axis=axes))
    expected = [lengths.min(), lengths.mean(), lengths.max()]
    np.testing.assert_allclose(layer.norm, expected, rtol=1e-4, atol=1e-6)
    activations = lengths if activations is None else activations
    types = activations.reshape(-1, activations.shape[-1])
    np.testing.assert_allclose(layer.activation, types.mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(layer.dead, types.max(axis=0) <= 5e-4)


def check_coupling(layer, coupling):
    """Compares a `LayerHealth` with `[..., outputs]`."""
    received = coupling.reshape(-1, coupling.shape[-1]).mean(axis=0)
    np.testing.assert_allclose(layer.coupling, received, rtol=1e-4)
    expected = entropy_of(coupling).mean()
    assert layer.entropy == pytest.approx(expected, abs=1e-5)


# Layers.


@pytest.mark.parametrize("batch_size", [3, 128])
def test_vectors(batch_size):
    model, images = small(), make_images()
    health = capsule_health(model, images, batch_size=batch_size)
    assert isinstance(health, Health) and health.problems == ()
    primary, classes = health.layers
    assert isinstance(primary, LayerHealth)
    assert (primary.name, classes.name) == ("primary", "classes")
    assert primary.coupling is primary.entropy is None
    poses = model.layers[0](images)
    capsules, coupling = model.layers[1](poses, return_coupling=True)
    check(primary, numpy(poses))
    check(classes, numpy(capsules))
    check_coupling(classes, numpy(coupling))
    assert primary.activation.shape == primary.dead.shape == (3,)
    assert classes.coupling.shape == (CLASSES,)
    assert 0.9 < classes.entropy < 1


def test_pairs_of_matrices_and_activations():
    model = sequential(
        MatrixPrimaryCapsules(3, (2, 5), name="primary"),
        ConvCapsules2D(4, (2, 3), 3, 2, routing="em", name="conv"),
        CapsuleLayer(CLASSES, (2, 2), routing="self_routing", name="classes"),
        CapsuleLength(),
    )
    images = make_images()
    primary, conv, classes = capsule_health(model, images, None, 4).layers
    pair = model.layers[0](images)
    check(primary, *map(numpy, pair), axes=(-2, -1))
    pair, coupling = model.layers[1](pair, return_coupling=True)
    check(conv, *map(numpy, pair), axes=(-2, -1))
    check_coupling(conv, numpy(coupling))
    pair, coupling = model.layers[2](pair, return_coupling=True)
    check(classes, *map(numpy, pair), axes=(-2, -1))
    check_coupling(classes, numpy(coupling))


def test_padding_does_not_count():
    """Zeros around the grid divide themselves equally, and mean nothing."""
    types, size = 3, (3, 2)
    model = sequential(
        PrimaryCapsules(types, 4, 3, 2, name="primary"),
        ConvCapsules2D(CLASSES, 7, 3, padding="same", name="conv"),
    )
    model.layers[1].kernel.assign(3 * model.layers[1].kernel)
    images = make_images()
    _, conv = capsule_health(model, images).layers
    poses = model.layers[0](images)
    coupling = numpy(model.layers[1](poses, return_coupling=True)[1])
    inside = np.zeros((*size, 3, 3, types), bool)
    for y, x, row, column in np.ndindex(*size, 3, 3):
        inside[y, x, row, column] = (
            0 <= y + row - 1 < size[0] and 0 <= x + column - 1 < size[1]
        )
    coupling = coupling[:, inside.reshape(*size, -1)]
    assert coupling.shape[1] == inside.sum() < inside.size
    check_coupling(conv, coupling)


@pytest.mark.parametrize("joint", [True, False])
def test_types_with_a_shared_kernel(joint):
    model = sequential(
        PrimaryCapsules(3, 4, 3, 2, name="primary"),
        SharedKernelConvCapsules2D(CLASSES, 7, joint_squash=joint, name="conv"),
    )
    images = make_images()
    _, conv = capsule_health(model, images, batch_size=4).layers
    poses = model.layers[0](images)
    poses, coupling = map(numpy, model.layers[1](poses, return_coupling=True))
    joined = np.sqrt(np.square(poses).sum(axis=(1, 2, 4)))
    check(conv, poses, joined if joint else None)
    # A type divides itself among all outputs at all positions.
    flat = coupling.reshape(*coupling.shape[:2], -1)
    assert conv.entropy == pytest.approx(entropy_of(flat).mean(), abs=1e-5)
    received = coupling.sum(axis=(2, 3)).mean(axis=(0, 1))
    np.testing.assert_allclose(conv.coupling, received, rtol=1e-4)


def test_layers_of_a_stack_and_scores():
    layers = [
        ConvCapsules2D(4, 6, 2, routing="inverted_attention", name="conv"),
        CapsuleLayer(CLASSES, 7, routing="inverted_attention", name="top"),
    ]
    stack = CapsuleStack(layers, num_iterations=3, name="stack")
    model = sequential(
        PrimaryCapsules(3, 4, 3, 2, activation=None, name="primary"),
        stack,
        PoseScores(name="scored"),
        CapsuleLength(),
    )
    images = make_images()
    found = capsule_health(model, images).layers
    names = ["primary", "stack/conv", "stack/top", "scored"]
    assert [layer.name for layer in found] == names
    poses = model.layers[0](images)
    # What the last of the three iterations starts from.
    conv = layers[0](poses)
    top = layers[1](conv)
    conv, top = layers[0](poses, outputs=conv), layers[1](conv, outputs=top)
    top, coupling = layers[1](conv, outputs=top, return_coupling=True)
    np.testing.assert_allclose(numpy(top), numpy(stack(poses)), rtol=1e-4)
    check_coupling(found[2], numpy(coupling))
    # These poses have no activations.
    assert np.isnan(found[1].activation).all() and not found[1].dead.any()
    check(found[3], *map(numpy, model.layers[2](top)))


def test_models_in_a_model():
    inner = sequential(PrimaryCapsules(3, 4, 3, 2, name="primary"))
    inner.name = "backbone"
    images = keras.Input(SHAPE)
    capsules = CapsuleLayer(CLASSES, 7, name="classes")(inner(images))
    model = keras.Model(images, CapsuleLength()(capsules))
    found = capsule_health(model, make_images())
    assert [x.name for x in found.layers] == ["backbone/primary", "classes"]
    same = sequential(*inner.layers, *model.layers[-2:])
    expected = capsule_health(same, make_images())
    for one, other in zip(found.layers, expected.layers, strict=True):
        check_equal(one[1:], other[1:])


def check_equal(one, other):
    for value, same in zip(one, other, strict=True):
        if value is None or same is None:
            assert value is same
        else:
            np.testing.assert_allclose(value, same, rtol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Means(Routing):
    """A routing without coupling."""

    def route(self, votes):
        return Routed(keras.ops.mean(votes, axis=2))


def test_padding_of_texts_does_not_count():
    words = keras.Input((None,), dtype="int32")  # 0 is padding
    x = keras.layers.Embedding(13, 4, mask_zero=True)(words)
    layer = CapsuleLayer(3, 5, share_over_positions=True, name="topics")
    model = keras.Model(words, CapsuleLength()(layer(x)))
    layer.kernel.assign(20 * layer.kernel)
    texts = np.random.default_rng(3).integers(1, 13, size=(5, 7))
    (alone,) = capsule_health(model, texts).layers
    (padded,) = capsule_health(model, np.pad(texts, [(0, 0), (0, 4)])).layers
    check_equal(alone[1:], padded[1:])
    assert alone.entropy < 0.99


def test_a_layer_that_is_called_twice():
    images = keras.Input(SHAPE)
    layer = PrimaryCapsules(3, 4, 3, 2, name="primary")
    both = keras.layers.Concatenate(1)([layer(images), layer(1 - images)])
    model = keras.Model(images, CapsuleLayer(CLASSES, 7)(both))
    primary, _ = capsule_health(model, make_images(), batch_size=4).layers
    both = [numpy(layer(x)) for x in (make_images(), 1 - make_images())]
    check(primary, np.concatenate(both))


def test_layers_without_coupling():
    for layer in [
        CapsuleLayer(CLASSES, 7, routing=Means(), name="classes"),
        ConvCapsules2D(CLASSES, 7, 2, routing=Means(), name="conv"),
    ]:
        model = sequential(PrimaryCapsules(3, 4, 3, 2), layer)
        _, found = capsule_health(model, make_images()).layers
        assert found.coupling is found.entropy is None
        check(found, numpy(model(make_images())))


def test_transposed_convolutions():
    layer = ConvCapsules2DTranspose(4, 6, 2, 2, name="up")
    model = sequential(PrimaryCapsules(3, 5, 3, 2), layer)
    _, found = capsule_health(model, make_images()).layers
    poses = model.layers[0](make_images())
    poses, coupling = layer(poses, return_coupling=True)
    check(found, numpy(poses))
    check_coupling(found, numpy(coupling))


# Known answers.


def test_entropies_at_both_ends():
    model = small(routing=DynamicRouting(num_iterations=1))
    assert capsule_health(model, make_images()).layers[1].entropy == 1.0
    model = small(routing="self_routing")
    model.layers[1].routing_weights["routing_bias"].assign(
        np.eye(CLASSES)[:, [2] * 18] * 200
    )
    layer = capsule_health(model, make_images()).layers[1]
    assert layer.entropy == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(layer.coupling, np.eye(CLASSES)[2], atol=1e-6)


def test_dead_capsules():
    model = small(use_bias=False)
    kernel = numpy(model.layers[1].kernel)
    kernel[:, :, [1, 3]] *= 1e-4
    model.layers[1].kernel.assign(kernel)
    health = capsule_health(model, make_images())
    assert health.layers[1].dead.tolist() == [False, True, False, True, False]
    assert health.problems == ()  # not all of them are
