"""Fixed coupling in the place of routing."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules2D
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import inspection
from keras_capsules import pruning
from keras_capsules.activations import exponential_squash
from keras_capsules.activations import squash
from keras_capsules.models import CapsuleNetwork
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import FixedRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing import SelfRouting
from tests.helpers import networks
from tests.helpers.pruning import CLASSES
from tests.helpers.pruning import ROUTINGS
from tests.helpers.pruning import SHAPE
from tests.helpers.pruning import assert_close
from tests.helpers.pruning import call
from tests.helpers.pruning import images
from tests.helpers.pruning import inputs_of
from tests.helpers.pruning import labels
from tests.helpers.pruning import network
from tests.helpers.pruning import outputs_of
from tests.helpers.pruning import predict
from tests.helpers.pruning import set_weights
from tests.helpers.testing import QUICK
from tests.helpers.testing import check_saving
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import only_tensorflow
from tests.helpers.testing import slow_on_jax

FREEZABLE = {
    name: ROUTINGS[name] for name in ("dynamic", "leaky", "self_attention")
}


def expected_capsules(model, name, x):
    """Class capsules with the mean coupling, and the dependence, in NumPy."""
    layer = model.get_layer(name)
    (poses,) = inputs_of(model, name, x)
    _, coupling = call(layer, [poses], return_coupling=True)
    poses = poses.reshape(len(x), -1, poses.shape[-1])
    mean = coupling.mean(axis=0)
    differences = [
        np.abs(each - np.delete(coupling, number, axis=0).mean(axis=0))
        for number, each in enumerate(coupling)
    ]
    dependence = np.mean(np.sum(differences, axis=2) / 2)
    votes = np.einsum("bid,idje->bije", poses, numpy(layer.kernel))
    function = squash
    if isinstance(layer.routing, SelfAttentionRouting):
        mean = mean + numpy(layer.routing_weights["coupling_bias"]).T
        function = exponential_squash
    sums = np.einsum("ij,bije->bje", mean, votes) + numpy(layer.bias)
    return numpy(function(sums)), dependence, mean


@pytest.mark.parametrize("name", FREEZABLE)
def test_equals_the_mean_coupling(name, tmp_path):
    model, x = network(FREEZABLE[name]), images()
    before = [numpy(weight).copy() for weight in model.weights]
    exact, dependence, mean = expected_capsules(model, "class_capsules", x)
    result = pruning.freeze_routing(model, x, limit=1, batch_size=3)
    new = result.model
    assert type(new) is CapsuleNetwork and not new.compiled
    layer = new.get_layer("class_capsules")
    assert isinstance(layer.routing, FixedRouting)
    assert_close([numpy(layer.routing_weights["coupling"])], [mean.T])
    assert_close(outputs_of(new, "class_capsules", x), [exact])
    (found,) = result.layers
    assert found.name == "class_capsules" and found.frozen
    assert found.reason is None
    assert found.dependence == pytest.approx(dependence, rel=1e-4)
    change = np.abs(predict(new, x) - predict(model, x)).mean()
    assert found.change == pytest.approx(change, rel=1e-3)
    assert result.change == pytest.approx(change, rel=1e-3)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)
    # They can be inspected.
    (shares,) = inspection.couplings(new, x)
    np.testing.assert_allclose(
        shares.coupling[0].reshape(mean.shape), mean, rtol=1e-5
    )
    check_saving(new, x, tmp_path)


def test_uniform_coupling_changes_nothing():
    model, x = network(DynamicRouting(1)), images()
    result = pruning.freeze_routing(model, x)
    (found,) = result.layers
    assert found.frozen and found.dependence < 1e-7 and found.change < 1e-6
    assert_close([predict(result.model, x)], [predict(model, x)], 1e-6)


def test_few_images_depend_as_much_as_many():
    """Alone, an image would be like the mean of itself."""
    model = network(ROUTINGS["dynamic"])
    x = np.random.default_rng(3).uniform(size=(60, *SHAPE)).astype("float32")

    def dependence(some):
        (found,) = pruning.freeze_routing(model, some, limit=1).layers
        return found.dependence

    many = dependence(x)
    few = np.mean([dependence(x[k : k + 3]) for k in range(0, 60, 3)])
    assert many < few < 1.5 * many
    # Of two images, each is compared with the other.
    _, coupling = call(
        model.get_layer("class_capsules"),
        inputs_of(model, "class_capsules", x[:2]),
        return_coupling=True,
    )
    difference = np.abs(coupling[0] - coupling[1]).sum(axis=1).mean() / 2
    assert dependence(x[:2]) == pytest.approx(difference, rel=1e-4)
    message = (
        "One image does not say.* at least two images.* Received: "
        r"images.shape=\(1, 5, 4, 1\)"
    )
    with pytest.raises(ValueError, match=message):
        dependence(x[:1])


def test_the_limit():
    model, x = network(ROUTINGS["dynamic"]), images()
    (found,) = pruning.freeze_routing(model, x, limit=1).layers
    below, above = 0.9 * found.dependence, 1.1 * found.dependence
    assert pruning.freeze_routing(model, x, limit=above).layers == (found,)
    result = pruning.freeze_routing(model, x, limit=below)
    reason = f"Its coupling depends on the input by more than limit={below:g}."
    assert result.layers == (found._replace(frozen=False, reason=reason),)
    assert result.change == 0.0
    np.testing.assert_array_equal(predict(result.model, x), predict(model, x))


@slow_on_jax
@pytest.mark.parametrize("name", ["CapsNet", "EfficientCapsNet", "DeepCaps"])
def test_the_same_class(name, tmp_path):
    model, x = set_weights(networks.make(name)), networks.images()
    new = pruning.freeze_routing(model, x, limit=1).model
    assert type(new) is type(model)
    assert isinstance(new.routing, FixedRouting)
    for one, other in zip(
        new.decoder.weights, model.decoder.weights, strict=True
    ):
        np.testing.assert_array_equal(numpy(one), numpy(other))
    check_saving(new, x, tmp_path)


def deep(padding):
    inputs = keras.Input(SHAPE)
    x = PrimaryCapsules(3, 2, kernel_size=2, name="first")(inputs)
    x = ConvCapsules2D(
        4, 3, 2, padding=padding, routing=DynamicRouting(2), name="second"
    )(x)
    x = CapsuleLayer(
        CLASSES,
        2,
        routing=SelfAttentionRouting(),
        share_over_positions=True,
        coordinate_addition=True,
        name="classes",
    )(x)
    return set_weights(CapsuleNetwork(inputs, x), 1.0)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolutions(padding):
    model, x = deep(padding), images()
    result = pruning.freeze_routing(model, x, ["second"], limit=1)
    (found,) = result.layers
    layer = result.model.get_layer("second")
    _, coupling = call(
        model.get_layer("second"),
        inputs_of(model, "second", x),
        return_coupling=True,
    )
    coupling = coupling.reshape(len(x), *coupling.shape[1:3], 2, 2, 3, 4)
    total, count, places = np.zeros((2, 2, 3, 4)), np.zeros((2, 2, 1, 1)), []
    of_images = np.zeros((len(x), *total.shape))
    for row in range(coupling.shape[1]):
        for column in range(coupling.shape[2]):
            for down in range(2):
                for right in range(2):
                    # The grid is 4 x 3.
                    if row + down < 4 and column + right < 3:
                        place = (slice(None), row, column, down, right)
                        places.append((place, (down, right)))
                        total[down, right] += coupling[place].sum(axis=0)
                        of_images[:, down, right] += coupling[place]
                        count[down, right] += len(x)
    mean = total / count

    def mean_without(image):
        return (total - of_images[image]) / (count - count / len(x))

    assert_close(
        [numpy(layer.routing_weights["coupling"])], [mean.reshape(12, 4).T]
    )
    # Every image is compared with the others.
    dependence = (
        np.mean(
            [
                np.abs(coupling[place][image] - mean_without(image)[which]).sum(
                    1
                )
                for place, which in places
                for image in range(len(x))
            ]
        )
        / 2
    )
    assert found.dependence == pytest.approx(dependence, rel=1e-4)
    assert result.model.get_layer("classes").routing.get_config() == (
        SelfAttentionRouting().get_config()
    )


def test_several_layers():
    model, x = deep("same"), images()
    result = pruning.freeze_routing(model, x, limit=1)
    assert [each.name for each in result.layers] == ["second", "classes"]
    for each in result.layers:
        alone = pruning.freeze_routing(model, x, [each.name], limit=1)
        assert alone.layers == (each,)
        assert alone.change == pytest.approx(each.change)
    change = np.abs(predict(result.model, x) - predict(model, x)).mean()
    assert result.change == pytest.approx(change, rel=1e-3)
    # What is frozen is not frozen again.
    again = pruning.freeze_routing(alone.model, x, limit=1)
    assert [each.name for each in again.layers] == ["second"]


def mixed():
    """Only the first of the layers with routing can be frozen."""
    inputs = keras.Input(SHAPE)
    x = PrimaryCapsules(3, 2, kernel_size=2, name="first")(inputs)
    x = CapsuleLayer(4, 3, routing=DynamicRouting(2), name="second")(x)
    x = CapsuleLayer(CLASSES, 2, routing="self_routing", name="classes")(x)
    return set_weights(CapsuleNetwork(inputs, x), 1.0)


def test_layers_that_cannot_be_frozen_keep_their_routing():
    model, x = mixed(), images()
    result = pruning.freeze_routing(model, x, limit=1)
    second, classes = result.layers
    assert second.name == "second" and second.frozen
    assert (classes.name, classes.frozen) == ("classes", False)
    assert classes.dependence is None and classes.change is None
    assert "are no activation of a sum of votes" in classes.reason
    assert isinstance(result.model.get_layer("second").routing, FixedRouting)
    assert isinstance(result.model.get_layer("classes").routing, SelfRouting)
    assert result.change == pytest.approx(second.change)
    alone = pruning.freeze_routing(model, x, ["second"], limit=1)
    assert alone.layers == (second,)
    # If it is named, it is an error.
    with pytest.raises(ValueError, match="no activation.* layer 'classes'"):
        pruning.freeze_routing(model, x, ["second", "classes"])


def test_trains():
    model, x = network(ROUTINGS["self_attention"]), images()
    new = pruning.freeze_routing(model, x, limit=1).model
    new.compile("adam", MarginLoss(), **QUICK)
    layer = new.get_layer("class_capsules")
    coupling = layer.routing_weights["coupling"]
    before = numpy(coupling).copy(), numpy(layer.kernel).copy()
    history = new.fit(x, labels(), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_array_equal(numpy(coupling), before[0])
    assert np.abs(numpy(layer.kernel) - before[1]).max() > 0


@only_tensorflow
def test_exports(tmp_path):
    import tensorflow as tf

    x = images()
    new = pruning.freeze_routing(network(ROUTINGS["dynamic"]), x, limit=1).model
    new.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.serve(x), predict(new, x), rtol=1e-5, atol=1e-6
    )


def test_sequential_models():
    model = keras.Sequential(
        [
            keras.Input((7, 2)),
            CapsuleLayer(5, 3, name="first"),
            CapsuleLayer(2, 3, routing="self_attention", name="last"),
            CapsuleLength(),
        ]
    )
    x = np.random.default_rng(1).normal(size=(4, 7, 2)).astype("float32")
    result = pruning.freeze_routing(model, x, ["last"], limit=1)
    (poses,) = inputs_of(model, "last", x)
    layer = result.model.get_layer("last")
    scores = CapsuleLength()(layer(poses))
    assert_close([predict(result.model, x)], [numpy(scores)])


def test_pruned_and_frozen():
    """In either order."""
    model, x = network(ROUTINGS["dynamic"]), images()
    pruned = pruning.prune(model, x, 0.5, "capsule").model
    frozen = pruning.freeze_routing(pruned, x, limit=1).model
    exact, _, _ = expected_capsules(pruned, "class_capsules", x)
    assert_close(outputs_of(frozen, "class_capsules", x), [exact])
    frozen = pruning.freeze_routing(model, x, limit=1).model
    result = pruning.prune(frozen, x, 0.6)
    coupling = frozen.get_layer("class_capsules").routing_weights["coupling"]
    kept = numpy(coupling).reshape(CLASSES, -1, 5)[..., result.kept]
    layer = result.model.get_layer("class_capsules")
    np.testing.assert_array_equal(
        numpy(layer.routing_weights["coupling"]), kept.reshape(CLASSES, -1)
    )


@pytest.mark.parametrize("name", ["em", "self_routing", "inverted_attention"])
def test_other_routings_raise(name):
    message = (
        "The poses of this routing are no activation of a sum of votes.* "
        "Expected `layers`, names of layers with DynamicRouting, "
        "SelfAttentionRouting. Received: the layer 'class_capsules' with "
        "routing="
    )
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(network(ROUTINGS[name]), images())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("limit", 1.5, "a finite number of at least 0 and at most 1"),
        ("batch_size", 0, "a positive integer"),
        ("verbose", 2, "True or False"),
        (
            "layers",
            [],
            r"names of layers with routing, of \['class_capsules'\]",
        ),
        ("layers", "class_capsules", "names of layers with routing"),
        ("layers", ["primary_capsules"], "names of layers with routing"),
    ],
)
def test_invalid_arguments(name, value, expected):
    model = network(ROUTINGS["dynamic"], decoder=False)
    with pytest.raises(ValueError, match=invalid(name, expected)):
        pruning.freeze_routing(model, images(), **{name: value})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite(value):
    broken = images()
    broken[2, 0, 0, 0] = value
    with pytest.raises(ValueError, match="`images` to be finite.*in image 2 "):
        pruning.freeze_routing(network(ROUTINGS["dynamic"]), broken)


def test_scores_that_are_not_finite():
    model = network(ROUTINGS["dynamic"])
    model.layers[1].kernel.assign(model.layers[1].kernel * np.nan)
    message = (
        "Coupling has to be finite to be averaged.* without NaN.* Received: "
        "scores that are not finite"
    )
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(model, images())


def test_coupling_that_is_not_finite():
    """Scores may be finite all the same."""
    inputs = keras.Input((7, 2))
    x = CapsuleLayer(5, 3, name="first")(inputs)
    x = keras.layers.Lambda(keras.ops.nan_to_num)(x)
    model = keras.Model(inputs, CapsuleLength()(CapsuleLayer(3, 2)(x)))
    x = np.ones((2, 7, 2), "float32")
    model.layers[1].kernel.assign(model.layers[1].kernel * np.nan)
    with pytest.raises(ValueError, match="coupling that is not .*'first'"):
        pruning.freeze_routing(model, x)


def test_nothing_to_freeze():
    for model, names in (
        (networks.make("ConvNet"), r"\['convolution"),
        (networks.make("InvertedAttentionCapsNet"), r"\['convolution_1'"),
    ):
        message = rf"no routing to freeze.* network with the layers {names}"
        with pytest.raises(ValueError, match=message):
            pruning.freeze_routing(model, networks.images())


def test_layers_that_are_called_twice():
    inputs = keras.Input((7, 2))
    layer = CapsuleLayer(3, 2, name="twice")
    x = CapsuleLayer(2, 3)(
        keras.layers.Concatenate(1)([layer(inputs), layer(inputs)])
    )
    model = CapsuleNetwork(inputs, x)
    x = np.ones((2, 7, 2), "float32")
    message = "Received: the layer 'twice', which is called 2 times"
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(model, x, ["twice"])
    inner = keras.Model(inputs, CapsuleLayer(3, 2, name="deep")(inputs))
    others = keras.Input((7, 2))
    around = CapsuleNetwork(others, inner(others))
    part = "Received: the layer '.*/deep', which is part of another model"
    with pytest.raises(ValueError, match=part):
        pruning.freeze_routing(around, x)
    twice, other = pruning.freeze_routing(model, x, limit=1).layers
    assert not twice.frozen and message in twice.reason
    assert other.frozen
