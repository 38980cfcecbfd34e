"""Networks with capsules that are no vectors, or not of this package."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models.decoders import dense_decoder
from keras_capsules.models.parts import class_capsules
from keras_capsules.routing import ROUTINGS
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from tests.helpers.capsnet import small
from tests.helpers.testing import QUICK
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])
ONE_HOT = np.eye(3)[LABELS]


@keras.saving.register_keras_serializable(package="test_network")
class MeanPoses(Routing):
    """Poses are means of votes, and say nothing of presence."""

    activation_from = "nothing"
    averages = True

    def route(self, votes):
        return Routed(ops.mean(votes, axis=2))


@keras.saving.register_keras_serializable(package="test_network")
class ActiveMeans(Routing):
    """The same, with activations that are not their lengths."""

    activation_from = "routing"
    averages = True

    def route(self, votes):
        poses = ops.mean(votes, axis=2)
        return Routed(poses, ops.sigmoid(ops.sum(poses, axis=2)))


@keras.saving.register_keras_serializable(package="test_network")
class MatrixNetwork(CapsuleNetwork):
    """A network of one's own with options, and with matrices for poses."""

    def __init__(
        self, reconstruction_weight=0.03, decoder_units=(6,), **kwargs
    ):
        self.decoder_units = decoder_units
        dtype = keras.dtype_policies.get(kwargs.get("dtype"))
        images = keras.Input((8, 8, 1), name="images")
        x = PrimaryCapsules(2, 4, 5, strides=3, dtype=dtype)(images)
        x = keras.layers.Reshape((8, 2, 2), dtype=dtype)(x)
        capsules = CapsuleLayer(
            3, (2, 5), ActiveMeans(), name="class_capsules", dtype="float32"
        )(x)
        decoder = dense_decoder(capsules, (8, 8, 1), decoder_units, dtype)
        super().__init__(
            images, capsules, decoder, reconstruction_weight, **kwargs
        )


def vectors(routing, **options):
    return small(routing=routing, **options)


# The shape of the poses, and a network that has them.
NETWORKS = {
    "vectors": ((5,), lambda **options: vectors(ActiveMeans(), **options)),
    "matrices": ((2, 5), MatrixNetwork),
    "poses-alone": ((5,), lambda **options: vectors(MeanPoses(), **options)),
}
networks = pytest.mark.parametrize(
    "pose, make", NETWORKS.values(), ids=NETWORKS.keys()
)


def compiled(model, **options):
    model.compile("adam", MarginLoss(), **options)
    return model


@networks
def test_scores_are_activations(pose, make):
    model = make()
    poses, activations = model.encode(IMAGES)
    assert poses.shape == (7, 3, *pose)
    assert activations.shape == (7, 3)
    scores = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(scores, activations, atol=1e-6)
    lengths = np.linalg.norm(poses.reshape(7, 3, -1), axis=-1)
    assert np.abs(lengths - scores).max() > 0.1

    # In batches, and tensors at once.
    for one, other in zip(
        model.encode(IMAGES, batch_size=3), (poses, activations), strict=True
    ):
        assert isinstance(one, np.ndarray)
        np.testing.assert_allclose(one, other, atol=1e-6)
    tensors = model.encode(ops.convert_to_tensor(IMAGES))
    assert isinstance(tensors, tuple)
    decoded = model.decode(tensors, ops.convert_to_tensor(LABELS))
    assert ops.is_tensor(decoded)
    np.testing.assert_allclose(
        numpy(decoded), model.reconstruct(IMAGES, LABELS), atol=1e-6
    )


def test_scores_of_poses_alone():
    """A dense layer with one output, which all classes share."""
    model = vectors(MeanPoses())
    dense = model.get_layer("class_scores").dense
    kernel, bias = map(numpy, dense.weights)
    assert kernel.shape == (5, 1) and bias.shape == (1,)
    poses, _ = model.encode(IMAGES)
    expected = 1 / (1 + np.exp(-(poses @ kernel[:, 0] + bias)))
    np.testing.assert_allclose(numpy(model(IMAGES)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["vectors", "matrices"])
def test_decodes_the_labelled_or_the_most_active(name):
    pose, make = NETWORKS[name]
    model = make(decoder_units=(32,))
    poses = np.random.default_rng(2).normal(size=(4, 3, *pose))
    poses = poses.astype("float32")
    most_active = np.array([2, 0, 1, 1])
    activations = np.full((4, 3), 0.2, "float32")
    activations[range(4), most_active] = 0.4
    others = np.array([0, 2, 0, 2])
    poses[range(4), others] *= 9  # the longest, which does not count
    decoded = model.decode((poses, activations))
    assert decoded.shape == (4, 8, 8, 1)
    labelled = model.decode((poses, activations), most_active)
    np.testing.assert_allclose(decoded, labelled, atol=1e-6)
    elsewhere = model.decode((poses, activations), others)
    assert np.abs(elsewhere - decoded).max(axis=(1, 2, 3)).min() > 1e-3
    # The decoder does not see activations, nor other classes.
    alone = np.zeros_like(poses)
    alone[range(4), others] = poses[range(4), others]
    np.testing.assert_allclose(
        model.decode([alone, 0 * activations], others), elsewhere, atol=1e-6
    )


@networks
def test_evaluate_equals_the_formula(pose, make):
    model = compiled(make(), **QUICK)
    scores = model.predict(IMAGES, verbose=0)
    decoded = model.reconstruct(IMAGES, LABELS)
    margins = ONE_HOT * np.maximum(0, 0.9 - scores) ** 2
    margins += 0.5 * (1 - ONE_HOT) * np.maximum(0, scores - 0.1) ** 2
    squares = np.sum((decoded - IMAGES) ** 2, axis=(1, 2, 3))
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert float(logs["reconstruction_error"]) == pytest.approx(
        np.mean(squares) / 64, rel=1e-5
    )
    expected = np.mean(np.sum(margins, axis=1) + 0.03 * squares)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)
    # As in a custom loop.
    loss = model.compute_loss(
        *map(ops.convert_to_tensor, (IMAGES, LABELS)), model(IMAGES)
    )
    assert numpy(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@networks
def test_fits_is_saved_and_loaded(pose, make, tmp_path):
    # One of them in a graph, which takes long to trace.
    mode = {} if pose == (2, 5) else QUICK
    model = compiled(make(), metrics=["accuracy"], **mode)
    before = model.get_weights()
    history = model.fit(IMAGES, LABELS, batch_size=7, verbose=0).history
    assert set(history) == {"accuracy", "loss", "reconstruction_error"}
    assert np.isfinite(float(history["loss"][0]))
    for old, weight in zip(before, model.weights, strict=True):
        assert not np.array_equal(old, numpy(weight)), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is type(model)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    for one, other in zip(
        loaded.encode(IMAGES), model.encode(IMAGES), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@networks
def test_scores_are_not_rounded_to_16_bits(pose, make):
    model = compiled(make(dtype="mixed_bfloat16"), **QUICK)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert np.isfinite([float(value) for value in logs.values()]).all()
    scores = model(IMAGES)
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    rounded = numpy(ops.cast(ops.cast(scores, "bfloat16"), "float32"))
    assert not np.array_equal(rounded, numpy(scores))
    exact = make()
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(scores), numpy(exact(IMAGES)), atol=0.02)
    decoded = model.reconstruct(ops.convert_to_tensor(IMAGES))
    assert keras.backend.standardize_dtype(decoded.dtype) == "float32"


@networks
def test_a_pixel_that_is_no_number_shows_in_its_own_scores(pose, make):
    model = make()
    images = IMAGES.copy()
    images[2, 3, 3, 0] = np.nan
    scores = numpy(model(images))
    assert np.isnan(scores[2]).all()
    assert np.isfinite(np.delete(scores, 2, axis=0)).all()


@pytest.mark.slow
def test_every_routing_fits_by_its_name():
    for routing in sorted({*ROUTINGS} - {"dynamic"}):
        model = vectors(routing)
        assert tuple(model(IMAGES).shape) == (7, 3)
        scores = numpy(model(IMAGES))
        assert (scores > 0).all() and (scores < 1).all()
        capsules = model.encode(ops.convert_to_tensor(IMAGES))
        if isinstance(capsules, tuple):
            np.testing.assert_allclose(numpy(capsules[1]), scores, atol=1e-6)


# Errors.


@pytest.mark.parametrize(
    "capsules, message",
    [
        (np.zeros((7, 3, 5), "float32"), "to be a pair of poses and"),
        ((np.zeros((7, 3, 5)),), "to be a pair of poses and"),
        ((np.zeros((7, 3, 6)), np.zeros((7, 3))), r"`capsules\[0\]` of shape"),
        ((np.zeros((7, 3, 5)), np.zeros((7, 4))), r"`capsules\[1\]` of shape"),
        ((np.zeros((7, 3, 5)), np.zeros((1, 3))), "or a pair of poses"),
    ],
    ids=["one", "single", "poses", "activations", "batches"],
)
def test_decode_rejects_what_is_no_pair(capsules, message):
    with pytest.raises(ValueError, match=message):
        vectors(ActiveMeans()).decode(capsules)


def test_nothing_of_no_images():
    model = MatrixNetwork()
    capsules = model.encode(IMAGES[:0])
    assert [each.shape for each in capsules] == [(0, 3, 2, 5), (0, 3)]
    assert model.decode(capsules).shape == (0, 8, 8, 1)


def test_without_decoder():
    model = MatrixNetwork(decoder_units=None)
    with pytest.raises(
        ValueError, match="without a decoder. Received: decoder_units=None"
    ):
        model.decode(model.encode(IMAGES))


def test_capsule_layers_may_have_other_routings_below():
    """Only what ends the encoder says what the scores are."""

    images = keras.Input((8, 8, 1))
    x = PrimaryCapsules(2, 4, 5, strides=3)(images)
    x = CapsuleLayer(4, 3, routing=ActiveMeans())(x)
    dtype = keras.dtype_policies.get("float32")
    capsules = class_capsules(x, 3, 5, MeanPoses(), dtype)
    model = CapsuleNetwork(images, capsules)
    poses, activations = model.encode(ops.convert_to_tensor(IMAGES))
    assert tuple(poses.shape) == (7, 3, 5)
    assert tuple(activations.shape) == (7, 3)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_the_decoder_is_no_part_of_another_model(kind, tmp_path):
    """Which would find no gradients for it, and say so at every step."""
    network = small()
    inputs = keras.Input((8, 8, 1))
    top = keras.layers.Dense(2, name="top")
    if kind == "functional":
        model = keras.Model(inputs, top(network({"images": inputs})))
    else:
        part = keras.Model(network.input, network.output)
        model = keras.Sequential([inputs, part, top])
    assert not [w.path for w in model.weights if "decoder" in w.path]
    assert len(model.trainable_variables) == 6 + 2
    model.compile("sgd", "mse", **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(IMAGES, np.ones((7, 2)), verbose=0)
    # The layers are the network's own.
    scores = network.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(
        numpy(top(scores)), model.predict(IMAGES, verbose=0), rtol=1e-5
    )
    check_saving(model, IMAGES, tmp_path)
    # And the network trains its decoder as before.
    assert len(network.trainable_variables) == 10
    before = numpy(network.decoder.trainable_variables[0])
    compiled(network, **QUICK).fit(IMAGES, LABELS, verbose=0)
    assert not np.allclose(
        before, numpy(network.decoder.trainable_variables[0])
    )
