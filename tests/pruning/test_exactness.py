"""Removing capsules equals zeroing their votes, with every routing."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules1D
from keras_capsules import ConvCapsules2D
from keras_capsules import MatrixPrimaryCapsules
from keras_capsules import PrimaryCapsules
from keras_capsules import pruning
from keras_capsules.layers import CapsuleDropout
from keras_capsules.layers import CapsuleSelection
from keras_capsules.layers import PoseNormalization
from keras_capsules.models import CapsuleNetwork
from keras_capsules.routing import EMRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing import SelfRouting
from tests.helpers.pruning import CAPSULES
from tests.helpers.pruning import CLASSES
from tests.helpers.pruning import GRID
from tests.helpers.pruning import ROUTINGS
from tests.helpers.pruning import SHAPE
from tests.helpers.pruning import TYPES
from tests.helpers.pruning import assert_close
from tests.helpers.pruning import images
from tests.helpers.pruning import inputs_of
from tests.helpers.pruning import labels
from tests.helpers.pruning import masked
from tests.helpers.pruning import network
from tests.helpers.pruning import outputs_of
from tests.helpers.pruning import predict
from tests.helpers.pruning import scores_one_by_one
from tests.helpers.pruning import set_weights
from tests.helpers.testing import arrays
from tests.helpers.testing import numpy

of_all_routings = pytest.mark.parametrize(
    "routing", ROUTINGS.values(), ids=ROUTINGS
)


@of_all_routings
def test_types(routing):
    model, x = network(routing), images()
    result = pruning.prune(model, x, 0.6, batch_size=3)
    rows = scores_one_by_one(model, "class_capsules", x)
    scores = rows.reshape(-1, TYPES).mean(axis=0)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
    order = np.argsort(scores)
    assert result.layer == "primary_capsules"
    assert result.removed.tolist() == sorted(order[:3])
    assert result.kept.tolist() == sorted(order[3:])
    new = result.model
    assert new.get_layer("primary_capsules").num_capsules == 2
    assert_close(
        outputs_of(new, "class_capsules", x),
        masked(model, "class_capsules", x, result.kept),
    )
    assert result.votes == pytest.approx(0.4)
    share = new.encoder.count_params() / model.encoder.count_params()
    assert result.parameters == share < 0.6


@of_all_routings
def test_single_capsules(routing):
    model, x = network(routing), images()
    result = pruning.prune(model, x, 0.75, unit="capsule", batch_size=3)
    scores = scores_one_by_one(model, "class_capsules", x)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
    order = np.argsort(scores)
    assert result.removed.tolist() == sorted(order[: CAPSULES * 3 // 4])
    assert result.kept.tolist() == sorted(order[CAPSULES * 3 // 4 :])
    new = result.model
    selection = new.get_layer("primary_capsules_selection")
    assert isinstance(selection, CapsuleSelection)
    assert selection.indices == tuple(result.kept)
    assert_close(
        outputs_of(new, "class_capsules", x),
        masked(model, "class_capsules", x, result.kept, "capsule"),
    )
    assert result.votes == 0.25


@pytest.mark.parametrize("form", ["integers", "one-hot", "multi-hot"])
def test_labels_count_instead_of_active_classes(form):
    model, x = network(ROUTINGS["dynamic"]), images()
    given = labels()
    expected = scores_one_by_one(model, "class_capsules", x, given)
    if form != "integers":
        given = np.eye(CLASSES, dtype="float32")[given]
    if form == "multi-hot":
        given[0] = 1
        expected += (
            np.mean(
                [
                    scores_one_by_one(
                        model, "class_capsules", x[:1], np.array([each])
                    )
                    for each in range(CLASSES)
                    if each != labels()[0]
                ],
                axis=0,
            )
            * (CLASSES - 1)
            / len(x)
        )
    result = pruning.prune(model, x, 0.5, "capsule", labels=given)
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4)


def test_the_cost_of_normalized_em_is_that_of_before():
    model = network(ROUTINGS["em-normalized"])
    for unit in ("type", "capsule"):
        new = pruning.prune(model, images(), 0.5, unit).model
        routing = new.get_layer("class_capsules").routing
        assert routing.cost_scale == pytest.approx(100 * CLASSES / CAPSULES)
    assert model.get_layer("class_capsules").routing.cost_scale == "normalized"


def deep(routing=None, padding="valid", dim=(2, 3)):
    """Matrices on a grid, convolved twice."""
    routing = routing or EMRouting(2, inverse_temperature=1.0, min_variance=1.0)
    inputs = keras.Input(SHAPE)
    x = MatrixPrimaryCapsules(TYPES, dim, kernel_size=2, name="first")(inputs)
    x = PoseNormalization(name="first_normalization")(x)
    x = CapsuleDropout(0.1, name="dropout")(x)
    x = ConvCapsules2D(
        4, dim, 2, padding=padding, routing=routing, name="second"
    )(x)
    x = PoseNormalization(name="second_normalization")(x)
    x = CapsuleLayer(
        CLASSES,
        dim,
        routing=routing,
        share_over_positions=True,
        coordinate_addition=True,
        name="class_capsules",
    )(x)
    return set_weights(CapsuleNetwork(inputs, x))


@pytest.mark.parametrize(
    ("routing", "padding"),
    [
        (EMRouting(2, 1.0, min_variance=1.0), "valid"),
        (EMRouting(2, 0.1, min_variance=1.0, cost_scale="normalized"), "same"),
        (SelfRouting(), "same"),
    ],
    ids=["em", "em-normalized-same", "self_routing-same"],
)
def test_types_below_a_convolution(routing, padding):
    model, x = deep(routing, padding), images()
    result = pruning.prune(model, x, 0.4)
    assert result.layer == "first"
    assert_close(
        outputs_of(result.model, "second", x),
        masked(model, "second", x, result.kept),
        1e-4,
    )
    assert_close(
        outputs_of(result.model, "first_normalization", x),
        [
            outputs_of(model, "first_normalization", x)[0][
                ..., result.kept, :, :
            ],
            outputs_of(model, "first_normalization", x)[1][..., result.kept],
        ],
    )


def test_scores_below_a_convolution():
    model, x = deep(padding="same"), images(3)
    layer = model.get_layer("second")
    _, activations = inputs_of(model, "second", x)
    inputs = inputs_of(model, "second", x)
    (_, outputs), coupling = layer(inputs, return_coupling=True)
    outputs, coupling = numpy(outputs), numpy(coupling)
    total, places = np.zeros(TYPES), 0
    for image in range(len(x)):
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                for down in range(2):
                    for right in range(2):
                        places += 1
                        if row + down >= GRID[0] or column + right >= GRID[1]:
                            continue  # padding
                        for kind in range(TYPES):
                            place = (2 * down + right) * TYPES + kind
                            received = (
                                coupling[image, row, column, place]
                                @ outputs[image, row, column]
                            )
                            total[kind] += (
                                received
                                * (
                                    activations[
                                        image, row + down, column + right, kind
                                    ]
                                )
                            )
    result = pruning.prune(model, x, 0.4, batch_size=2)
    np.testing.assert_allclose(result.scores, total / places, rtol=1e-4)


def test_inner_types():
    """They are gone from the competition as well."""
    model, x = deep(), images()
    result = pruning.prune(model, x, 0.5, layer="second")
    kept = result.kept
    assert len(kept) == 2
    old, new = model.get_layer("second"), result.model.get_layer("second")
    # The same layer for fewer output capsules, made by hand.
    inputs = inputs_of(model, "second", x)
    by_hand = ConvCapsules2D(2, (2, 3), 2, routing=old.routing)
    by_hand.build([each.shape for each in inputs])
    by_hand.kernel.assign(numpy(old.kernel)[..., kept, :])
    for name in ("beta_u", "beta_a"):
        weight = numpy(old.routing_weights[name])
        by_hand.routing_weights[name].assign(weight[kept])
    exact = by_hand(inputs)
    assert_close(outputs_of(result.model, "second", x), arrays(exact))
    assert new.num_capsules == 2
    np.testing.assert_array_equal(
        result.model.get_layer("class_capsules").kernel,
        numpy(model.get_layer("class_capsules").kernel)[kept],
    )


def test_capsules_of_an_inner_layer_without_positions():
    inputs = keras.Input((7, 2))
    x = PrimaryCapsules(2, 3, kernel_size=2, name="first")(inputs)
    x = ConvCapsules1D(3, 2, 2, routing=SelfAttentionRouting())(x)
    x = CapsuleLayer(5, 2, routing=SelfAttentionRouting(), name="inner")(x)
    x = CapsuleLayer(2, 3, routing=SelfAttentionRouting(), name="last")(x)
    model = set_weights(CapsuleNetwork(inputs, x))
    x = np.random.default_rng(1).normal(size=(5, 7, 2)).astype("float32")
    result = pruning.prune(model, x, 0.4, "capsule", layer="inner")
    assert_close(
        outputs_of(result.model, "last", x),
        masked(model, "last", x, result.kept),
    )
    # As types, they no longer compete.
    result = pruning.prune(model, x, 0.4, layer="inner")
    layer = result.model.get_layer("inner")
    assert layer.num_capsules == 3
    bias = numpy(model.get_layer("inner").routing_weights["coupling_bias"])
    np.testing.assert_array_equal(
        layer.routing_weights["coupling_bias"], bias[result.kept]
    )


def depthwise(dim=3, normalization="batch", activation=None):
    """Numbers of capsules that are channels of a convolution."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(7, 2, activation="softmax", name="before")(inputs)
    x = keras.layers.Conv2D(
        TYPES * dim, 2, activation=activation, name="convolution"
    )(x)
    if normalization == "batch":
        x = keras.layers.BatchNormalization(name="normalization")(x)
    else:
        x = keras.layers.GroupNormalization(-1, name="normalization")(x)
    x = keras.layers.Activation("relu")(x)
    x = PrimaryCapsules(TYPES, dim, 2, depthwise=True, name="first")(x)
    x = CapsuleLayer(CLASSES, 2, name="last")(x)
    return set_weights(CapsuleNetwork(inputs, x))


@pytest.mark.parametrize(
    "activation",
    ["gelu", "tanh", keras.layers.LeakyReLU(0.2)],
    ids=["gelu", "tanh", "layer"],
)
def test_activations_that_treat_each_number_by_itself(activation):
    model, x = depthwise(activation=activation), images()
    result = pruning.prune(model, x, 0.4)
    assert result.model.get_layer("convolution").filters == 9
    assert_close(
        outputs_of(result.model, "last", x),
        masked(model, "last", x, result.kept),
    )


@pytest.mark.parametrize("normalization", ["batch", "groups"])
def test_channels_that_only_feed_removed_types(normalization):
    model, x = depthwise(normalization=normalization), images()
    result = pruning.prune(model, x, 0.4)
    assert result.model.get_layer("convolution").filters == 9
    assert result.model.get_layer("before").filters == 7
    channels = [
        3 * kind + number for kind in result.kept for number in (0, 1, 2)
    ]
    assert_close(
        outputs_of(result.model, "normalization", x),
        [outputs_of(model, "normalization", x)[0][..., channels]],
    )
    assert_close(
        outputs_of(result.model, "last", x),
        masked(model, "last", x, result.kept),
    )
    # Single capsules leave the convolution as it is.
    result = pruning.prune(model, x, 0.4, "capsule")
    assert result.model.get_layer("convolution").filters == 15
    assert_close(
        outputs_of(result.model, "last", x),
        masked(model, "last", x, result.kept, "capsule"),
    )


def test_nothing_removed():
    model, x = network(ROUTINGS["self_routing"]), images()
    for unit in ("type", "capsule"):
        result = pruning.prune(model, x, 0.0, unit)
        assert result.removed.size == 0
        assert (result.parameters, result.votes) == (1.0, 1.0)
        assert result.model is not model
        np.testing.assert_array_equal(
            predict(result.model, x), predict(model, x)
        )


def test_at_least_one_stays():
    model, x = network(ROUTINGS["dynamic"]), images()
    result = pruning.prune(model, x, 1.0)
    assert result.kept.tolist() == [np.argmax(result.scores)]
    result = pruning.prune(model, x, 1, "capsule")
    assert result.kept.tolist() == [np.argmax(result.scores)]
    assert predict(result.model, x).shape == (len(x), CLASSES)


def test_equal_capsules():
    """The first are removed."""
    model = network(InvertedAttentionRouting())
    for weight in model.get_layer("primary_capsules").weights:
        weight.assign(np.zeros(weight.shape))
    result = pruning.prune(model, images(), 0.4)
    assert result.kept.tolist() == [2, 3, 4]


def test_pruned_again():
    model, x = network(ROUTINGS["self_routing"]), images()
    first = pruning.prune(model, x, 0.5, "capsule")
    # Single capsules of those that are left.
    second = pruning.prune(first.model, x, 0.5, "capsule")
    kept = first.kept[second.kept]
    layer = second.model.get_layer("primary_capsules_selection")
    assert layer.indices == tuple(kept)
    assert second.scores.shape == (30,) and second.votes == 0.5
    assert_close(
        outputs_of(second.model, "class_capsules", x),
        masked(model, "class_capsules", x, kept, "capsule"),
    )
    # Types, of which single capsules are gone already.
    third = pruning.prune(first.model, x, 0.4)
    stay = [each for each in first.kept if each % TYPES in third.kept]
    assert third.votes == len(stay) / 30
    rows = scores_one_by_one(first.model, "class_capsules", x)
    expected = [
        rows[first.kept % TYPES == kind].sum() / 12 for kind in range(TYPES)
    ]
    np.testing.assert_allclose(third.scores, expected, rtol=1e-4)
    assert_close(
        outputs_of(third.model, "class_capsules", x),
        masked(model, "class_capsules", x, stay, "capsule"),
    )
    # Single capsules of the types that are left.
    types = pruning.prune(model, x, 0.6)
    fourth = pruning.prune(types.model, x, 0.5, "capsule")
    assert_close(
        outputs_of(fourth.model, "class_capsules", x),
        masked(types.model, "class_capsules", x, fourth.kept, "capsule"),
    )
