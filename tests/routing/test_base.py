"""Names, configurations, and routings that users write."""

import math
import types

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import routing
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.routing import RoutingSpec
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing import SelfRouting
from keras_capsules.routing import VariationalBayesRouting
from keras_capsules.routing import mixtures
from tests.helpers.gradients import assert_close
from tests.helpers.routings import all_routings
from tests.helpers.testing import QUICK
from tests.helpers.testing import on_one_backend

# Distinct primes, so that no axis can be taken for another.
BATCH, INPUTS, ROWS, DIM, OUTPUTS, OUT_DIM = 13, 5, 2, 3, 7, 11
ROUTINGS = all_routings()

of_all_routings = pytest.mark.parametrize("name", ROUTINGS)


@keras.saving.register_keras_serializable(package="tests")
class GatedMean(Routing):
    """A routing with a weight and an option, as a user would write one."""

    def __init__(self, gain=1.0):
        self.gain = gain

    def build(self, layer, spec):
        shape = (spec.num_outputs, math.prod(spec.pose_shape))
        return {"gate": layer.add_weight(name="gate", shape=shape)}

    def route(self, votes, weights):
        return Routed(self.gain * ops.sum(votes, axis=2) * weights["gate"])

    def get_config(self):
        return {"gain": self.gain}


@keras.saving.register_keras_serializable(package="tests")
class Mean(Routing):
    """The smallest routing that a user can write."""

    averages = True

    def route(self, votes):
        return Routed(ops.mean(votes, axis=2))


@pytest.mark.parametrize("name", routing.ROUTINGS)
def test_get_by_name_and_class(name):
    cls = routing.ROUTINGS[name]
    for identifier in (name, cls.__name__, cls):
        found = routing.get(identifier)
        assert type(found) is cls
        assert found.get_config() == cls().get_config()


def test_get_of_a_class_of_ones_own():
    assert isinstance(routing.get(Mean), Mean)
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing=Mean)
    assert isinstance(layer.routing, Mean)


def test_get_by_a_registered_name():
    register = keras.saving.register_keras_serializable
    registered = register("my_package")(type("Registered", (Mean,), {}))
    assert type(routing.get("my_package>Registered")) is registered
    assert type(routing.get("keras_capsules>EMRouting")) is EMRouting
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing="my_package>Registered")
    assert type(layer.routing) is registered
    # The package is not left out, as in Keras.
    with pytest.raises(ValueError, match="Received: routing='Registered'"):
        routing.get("Registered")
    with keras.saving.custom_object_scope({"Mine": registered}):
        assert type(routing.get("Mine")) is registered


def test_get_of_an_instance_or_a_configuration():
    instance = DynamicRouting(num_iterations=2, leaky=True)
    assert routing.get(instance) is instance
    again = routing.get(routing.serialize(instance))
    assert isinstance(again, DynamicRouting)
    # A mapping that is no dictionary, as a configuration file may give.
    config = types.MappingProxyType(routing.serialize(instance))
    again = routing.get(config)
    assert isinstance(again, DynamicRouting)
    assert again.get_config() == instance.get_config()
    assert again.get_config() == {
        "num_iterations": 2,
        "leaky": True,
        "stop_gradient": False,
    }


@pytest.mark.parametrize(
    "identifier",
    [
        "dynamit",
        "Routing",
        "keras_capsules>CapsuleLayer",
        "",
        None,
        3,
        Routing,
        Routed,
        CapsuleLayer,
    ],
    ids=str,
)
def test_get_of_something_else_raises(identifier):
    names = ", ".join(map(repr, sorted(routing.ROUTINGS)))
    message = (
        r"Invalid value for argument `routing`\. Expected an instance or a "
        r"subclass of keras_capsules\.routing\.Routing, its configuration, "
        rf"or one of {names}\. Received: routing="
    )
    with pytest.raises(ValueError, match=message):
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
    assert repr(Mean()) == "Mean()"


# Routings that users write.


def test_a_routing_needs_one_method():
    layer = CapsuleLayer(OUTPUTS, (ROWS, OUT_DIM), routing=Mean())
    poses, _, _ = make_arrays()
    means = ops.convert_to_numpy(layer(poses))
    assert [weight.name for weight in layer.weights] == ["kernel"]
    kernel = ops.convert_to_numpy(layer.kernel)
    exact = np.einsum("bipd,idje->bjpe", poses, kernel) / INPUTS
    assert_close(means, exact, 1e-5)


def test_a_routing_with_weights_trains_saves_and_loads(tmp_path):
    model = keras.Sequential(
        [keras.Input((5, 3)), CapsuleLayer(7, 2, routing=GatedMean(0.5))]
    )
    # No bias, which the routing does not take.
    assert [weight.name for weight in model.weights] == ["kernel", "gate"]
    images = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    model.compile("sgd", "mse", **QUICK)
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    exact = np.einsum("bid,idje->bje", images, before[0]) * 0.5 * before[1]
    assert_close(model.predict(images, verbose=0), exact, 1e-5)
    model.fit(images, np.ones((4, 7, 2), "float32"), verbose=0)
    for old, weight in zip(before, model.weights, strict=True):
        assert np.abs(ops.convert_to_numpy(weight) - old).max() > 0

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert isinstance(loaded.layers[0].routing, GatedMean)
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


class SoftClusters(Routing):
    """One step of soft k-means, made of the public helpers for mixtures."""

    activation_from = "routing"
    averages = True

    def route(self, votes, activations=None, windows=None):
        log_a = mixtures.log_activations(activations, votes)
        log_r = mixtures.first_log_shares(votes, windows)
        _, _, means = mixtures.masses_and_means(votes, log_r + log_a)
        distances = ops.sum(ops.square(votes - means[:, :, None]), axis=3)
        log_r = mixtures.log_shares(-distances, windows)
        masses, _, means = mixtures.masses_and_means(votes, log_r + log_a)
        return Routed(means, masses, ops.exp(log_r))


def test_a_mixture_of_ones_own():
    poses, kernel, activations = make_arrays()
    routed = SoftClusters()(poses, kernel, activations)
    votes = np.einsum("bipd,idje->bjipe", poses, kernel)
    votes = votes.reshape(BATCH, OUTPUTS, INPUTS, ROWS * OUT_DIM)
    means = np.stack(
        [
            np.average(votes[b], axis=1, weights=activations[b])
            for b in range(BATCH)
        ]
    )
    shares = np.exp(-np.square(votes - means[:, :, None]).sum(axis=3))
    shares /= shares.sum(axis=1, keepdims=True)
    masses = shares * activations[:, None]
    means = (masses[..., None] * votes).sum(axis=2)
    means /= masses.sum(axis=2)[..., None]
    exact = means, masses.sum(axis=2), shares
    for value, expected in zip(routed, exact, strict=True):
        assert_close(ops.convert_to_numpy(value), expected, 1e-4)


# Arguments of routings, and their iterations.


@pytest.mark.parametrize(
    ("one", "taken"),
    [
        (Mean(), {"votes"}),
        (GatedMean(), {"votes", "weights"}),
        (DynamicRouting(), {"votes", "bias"}),
        (SelfAttentionRouting(), {"votes", "bias", "weights"}),
        (InvertedAttentionRouting(), {"votes", "weights", "outputs"}),
        (EMRouting(), {"votes", "weights", "activations", "windows"}),
        (VariationalBayesRouting(), {"votes", "activations", "windows"}),
        (SelfRouting(), {"sum_votes", "poses", "weights", "activations"}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_routing_takes_what_its_signature_names(one, taken):
    names = [
        "votes",
        "activations",
        "poses",
        "bias",
        "weights",
        "windows",
        "sum_votes",
        "outputs",
    ]
    assert {name for name in names if one.takes(name)} == taken
    assert not one.takes("self") and not one.takes("inputs")


def make_arrays(batch=BATCH):
    """Poses, kernel and activations, in float32."""
    random = np.random.default_rng(0)
    arrays = (
        random.normal(size=(batch, INPUTS, ROWS, DIM)),
        0.3 * random.normal(size=(INPUTS, DIM, OUTPUTS, OUT_DIM)),
        random.uniform(0.1, 1, size=(batch, INPUTS)),
    )
    return [array.astype("float32") for array in arrays]


def make_weights(one):
    """The weights of `build`, with values that are neither zeros nor ones."""
    spec = RoutingSpec(INPUTS, OUTPUTS, (ROWS, OUT_DIM), (ROWS, DIM))
    weights = one.build(keras.layers.Layer(), spec)
    random = np.random.default_rng(1)
    return {
        name: random.normal(0, 0.5, weight.shape).astype("float32")
        for name, weight in weights.items()
    }


def make_bias():
    bias = np.random.default_rng(2).normal(size=(OUTPUTS, ROWS * OUT_DIM))
    return bias.astype("float32")


def iterations(one):
    """All that a routing goes through, for examples as in `make_arrays`."""
    poses, kernel, activations = make_arrays()
    votes = np.einsum("bipd,idje->bjipe", poses, kernel)
    votes = votes.reshape(*votes.shape[:3], -1)
    arguments = {
        "votes": ops.convert_to_tensor(votes),
        "sum_votes": lambda coupling: ops.einsum(
            "bji,bjif->bjf", coupling, votes
        ),
        "poses": ops.convert_to_tensor(poses.reshape(BATCH, INPUTS, -1)),
        "activations": ops.convert_to_tensor(activations),
        "bias": ops.convert_to_tensor(make_bias()),
        "weights": {
            name: ops.convert_to_tensor(weight)
            for name, weight in make_weights(one).items()
        },
    }
    return list(one.iterate(**arguments))


def route(one, batch=BATCH, **kwargs):
    poses, kernel, activations = make_arrays()
    routed = one(
        poses[:batch],
        kernel,
        activations=activations[:batch],
        bias=make_bias(),
        weights=make_weights(one),
        **kwargs,
    )
    return Routed(
        *(x if x is None else ops.convert_to_numpy(x) for x in routed)
    )


@of_all_routings
def test_iterate_yields_the_result_of_each_iteration(name):
    one = ROUTINGS[name]
    steps = iterations(one)
    assert len(steps) == getattr(one, "num_iterations", 1)
    for step in steps:
        assert isinstance(step, Routed)
        assert step.poses.shape == (BATCH, OUTPUTS, ROWS * OUT_DIM)
        assert step.coupling.shape == (BATCH, OUTPUTS, INPUTS)
    result = route(one)
    last = one.finish(steps[-1], make_weights(one), False)
    for value, exact in zip(last, result, strict=True):
        assert (value is None) == (exact is None)
        if exact is not None:
            assert_close(ops.convert_to_numpy(value), exact, 1e-5)


@pytest.mark.parametrize("leaky", [False, True], ids=["softmax", "leaky"])
def test_an_iteration_is_the_result_of_as_many(leaky):
    steps = iterations(DynamicRouting(4, leaky=leaky))
    for number, step in enumerate(steps, start=1):
        result = route(DynamicRouting(number, leaky=leaky))
        poses, coupling = (
            ops.convert_to_numpy(x) for x in (step.poses, step.coupling)
        )
        assert_close(poses, result.poses, 1e-5)
        assert_close(coupling, result.coupling, 1e-5)


def test_iterations_of_a_routing_without_any():
    votes = np.random.default_rng(0).normal(size=(2, 3, 5, 7))
    # Arguments that it does not take are left out.
    (step,) = Mean().iterate(votes=votes, bias=None, windows=None)
    assert_close(ops.convert_to_numpy(step.poses), votes.mean(axis=2), 1e-6)
    assert step.activations is None and step.coupling is None


@of_all_routings
def test_the_coupling_is_left_out_if_it_is_not_asked_for(name):
    with_it, without = (
        route(ROUTINGS[name], return_coupling=asked) for asked in (True, False)
    )
    assert with_it.coupling.shape == (BATCH, OUTPUTS, INPUTS)
    assert_close(without.poses, with_it.poses, 1e-6)
    if with_it.activations is not None:
        assert_close(without.activations, with_it.activations, 1e-6)


@on_one_backend
@pytest.mark.parametrize("batch", [0, 1])
@of_all_routings
def test_a_batch_of_none_and_of_one(name, batch):
    few, many = (route(ROUTINGS[name], number) for number in (batch, BATCH))
    for value, exact in zip(few, many, strict=True):
        assert (value is None) == (exact is None)
        if exact is not None:
            assert value.shape == (batch, *exact.shape[1:])
            assert_close(value, exact[:batch], 1e-5)


@pytest.mark.parametrize(
    "one",
    [Mean(), GatedMean(), *(ROUTINGS[name] for name in ROUTINGS)],
    ids=["mean", "gated_mean", *ROUTINGS],
)
def test_outputs_are_for_routings_that_take_them(one):
    outputs = np.zeros((BATCH, OUTPUTS, ROWS * OUT_DIM), "float32")
    if one.takes("outputs"):
        assert_close(route(one, outputs=outputs).coupling, 1 / OUTPUTS, 1e-6)
        return
    message = (
        r"cannot start from earlier outputs\. Expected outputs=None\. "
        rf"Received: routing={type(one).__name__}\(.*\), outputs of shape "
        r"\(13, 7, 22\)"
    )
    with pytest.raises(ValueError, match=message):
        route(one, outputs=outputs)


class ReturnsTensor(Routing):
    """A mistake that is easily made."""

    def route(self, votes):
        return ops.mean(votes, axis=2)


class StopsWithoutCombine(Routing):
    stop_gradient = True

    def route(self, votes):
        return Routed(ops.mean(votes, axis=2), None, votes[..., 0])


def test_route_has_to_return_a_routed():
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing=ReturnsTensor())
    message = (
        r"has to return a Routed, or an iterator of them\. Received: \w+ from "
        r"routing=ReturnsTensor\(\)"
    )
    with pytest.raises(ValueError, match=message):
        layer(np.ones((BATCH, INPUTS, DIM), "float32"))


class Returns(Routing):
    """Returns what it is given, in the wrong places or of wrong shapes."""

    def __init__(self, make):
        self.make = make

    def get_config(self):
        return {"make": self.make}

    def route(self, votes):
        return self.make(votes, ops.mean(votes, axis=2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda votes, mean: Routed(ops.swapaxes(mean, 1, 2)),
            r"returned poses of another shape\. Expected \(None, 7, 11\), for "
            r"examples, output capsules and the numbers of a pose\. Received: "
            r"poses\.shape=\(13, 11, 7\) from routing=Returns",
        ),
        (
            lambda votes, mean: Routed(mean, mean),
            r"returned activations of another shape\. Expected \(None, 7\), "
            r"for examples, output capsules\. Received: "
            r"activations\.shape=\(13, 7, 11\) from",
        ),
        (
            lambda votes, mean: Routed(
                mean, None, ops.swapaxes(votes[..., 0], 1, 2)
            ),
            r"returned coupling of another shape\. Expected \(None, 7, 5\), "
            r"for examples, output capsules and input capsules\. Received: "
            r"coupling\.shape=\(13, 5, 7\) from",
        ),
        (
            lambda votes, mean: iter([]),
            r"has to yield a Routed after each iteration\. Received: no iter",
        ),
    ],
)
def test_what_route_returns_has_to_fit(make, message):
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing=Returns(make))
    with pytest.raises(ValueError, match=message):
        layer(np.ones((BATCH, INPUTS, DIM), "float32"))


class Forgetful(Mean):
    """Its option would be lost where a model is saved."""

    def __init__(self, power=2):
        self.power = power


def test_options_need_a_configuration():
    one = Forgetful(3)
    message = r"Expected a method `get_config`.*options=\['power'\]"
    with pytest.raises(NotImplementedError, match=message):
        one.get_config()
    with pytest.raises(NotImplementedError, match=message):
        CapsuleLayer(OUTPUTS, OUT_DIM, routing=one).get_config()
    assert repr(one) == "Forgetful(...)"
    assert Mean().get_config() == {}


def test_a_stopped_gradient_needs_combine():
    layer = CapsuleLayer(OUTPUTS, OUT_DIM, routing=StopsWithoutCombine())
    with pytest.raises(NotImplementedError, match="has to implement `combine`"):
        layer(np.ones((BATCH, INPUTS, DIM), "float32"))
