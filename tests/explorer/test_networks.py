"""The networks, and what they say of a drawing."""

import concurrent.futures
import zipfile

import keras
import numpy as np
import pytest

from keras_capsules import layers
from keras_capsules import models
from keras_capsules.explorer import drawing
from keras_capsules.explorer import networks
from keras_capsules.explorer import samples
from keras_capsules.inspection import places
from keras_capsules.models import pretrained
from keras_capsules.training import trained
from tests.helpers.testing import on_one_backend


def test_the_samples_are_known(shipped):
    assert list(samples.STROKES) == list("0123456789")
    for digit in samples.STROKES:
        image = shipped.frame(drawing.as_mnist(samples.draw(digit)))
        found = shipped.answer(image)
        assert found.winners == (int(digit),)
        assert found.scores[int(digit)] > 0.5


def test_an_answer_is_the_model_s(shipped):
    image = shipped.frame(drawing.as_mnist(samples.draw("3")))
    found = shipped.answer(image, num_winners=2)
    images = image[None, ..., None]
    scores = shipped.model.predict(images, verbose=0)[0]
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert found.winners == tuple(np.argsort(-scores)[:2])
    assert found.winners[0] == 3
    assert len(found.reconstructions) == len(found.supports) == 2
    for winner, picture in zip(
        found.winners, found.reconstructions, strict=True
    ):
        expected = shipped.model.reconstruct(images, np.array([winner]))
        np.testing.assert_allclose(picture, expected[0, ..., 0], atol=1e-5)
    for support in found.supports:
        assert support.shape == (28, 28) and support.min() >= 0
        assert abs(support.sum() - 1) < 1e-4


def test_bend_adds_to_the_winning_pose(shipped):
    image = shipped.frame(drawing.as_mnist(samples.draw("7")))
    assert shipped.pose_size == 16
    answer = shipped.answer(image)
    straight = shipped.bend(answer, [0.0] * 16)
    np.testing.assert_allclose(straight, answer.reconstructions[0], atol=1e-6)
    offsets = np.linspace(-0.5, 0.5, 16)
    capsules = shipped.model.encode(image[None, ..., None])
    capsules[0, 7] += offsets
    expected = shipped.model.decode(capsules, np.array([7]))
    bent = shipped.bend(answer, offsets)
    np.testing.assert_allclose(bent, expected[0, ..., 0], atol=1e-5)
    assert np.abs(bent - straight).max() > 0.1


@on_one_backend
def test_what_is_compiled_is_kept(monkeypatch):
    """A network that was warmed up compiles nothing when it is asked."""
    model = models.CapsNet((9, 8, 1), 3, filters=4, num_primary_capsules=2)
    network = networks.Network("pair", model, tuple("abc"))
    image = network.frame(np.eye(28, dtype="float32"))
    call, calls = layers.CapsuleLayer.call, []

    def counted(self, *args, **kwargs):
        calls.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(layers.CapsuleLayer, "call", counted)
    network.warm_up(num_winners=2)
    calls.clear()
    for _ in range(3):
        network.answer(image, num_winners=2)
    # Each map asks the layer itself for its coupling coefficients.
    assert len(calls) == 3


@on_one_backend
def test_errors_are_no_remarks(monkeypatch):
    """What is remarked is that a network cannot be taken apart."""
    model = models.CapsNet((9, 8, 1), 3, filters=4, num_primary_capsules=2)
    network = networks.Network("mine", model, tuple("abc"))
    monkeypatch.setattr(places, "paint", lambda *_: np.zeros(3).reshape(2))
    with pytest.raises(ValueError, match="cannot reshape"):
        network.answer(np.zeros((9, 8), "float32"))


@on_one_backend
@pytest.mark.parametrize("num_classes", [1, 2])
def test_more_winners_than_classes(num_classes):
    model = models.CapsNet((9, 8, 1), num_classes, filters=4)
    network = networks.Network("few", model, tuple("ab"[:num_classes]))
    found = network.answer(np.ones((9, 8), "float32"), num_winners=3)
    assert sorted(found.winners) == list(range(num_classes))
    assert found.remark == "" and len(found.supports) == num_classes
    assert found.supports[0].dtype == "float32"


@on_one_backend
def test_bend_matrix_poses():
    inputs = keras.Input((5, 5, 1))
    poses = keras.layers.Reshape((5, 3, 1))(
        keras.layers.Dense(15)(keras.layers.Flatten()(inputs))
    )
    activations = keras.layers.Dense(5, activation="sigmoid")(
        keras.layers.Flatten()(inputs)
    )
    decoder = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(25),
            keras.layers.Reshape((5, 5, 1)),
        ]
    )
    model = models.CapsuleNetwork(inputs, (poses, activations), decoder)
    network = networks.Network("pairs", model, tuple("01234"))
    assert network.pose_size == 3
    image = np.random.default_rng(0).uniform(size=(5, 5)).astype("float32")
    found = network.answer(image)
    bent = network.bend(found, [1.0, -2.0, 3.0])
    poses, activations = model.encode(image[None, ..., None])
    winner = int(activations[0].argmax())
    poses[0, winner, :, 0] += [1.0, -2.0, 3.0]
    expected = model.decode((poses, activations), np.array([winner]))
    np.testing.assert_allclose(bent, expected[0, ..., 0], atol=1e-5)
    # Nothing is routed here.
    assert found.supports == () and len(found.reconstructions) == 1
    assert "layer that routes" in found.remark


def test_several_threads_ask_at_once():
    """On JAX, a compiled call gives the weights away until it returns."""
    model = models.CapsNet((9, 8, 1), 3, filters=4, num_primary_capsules=2)
    network = networks.Network("shared", model, tuple("abc"))
    images = np.random.default_rng(0).uniform(size=(4, 9, 8)).astype("float32")
    expected = [network.answer(image) for image in images]

    def ask(index):
        return [network.answer(images[index]) for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(len(images)) as pool:
        found = [*pool.map(ask, range(len(images)))]
    for answers, known in zip(found, expected, strict=True):
        for answer in answers:
            assert (answer.winners, answer.remark) == (known.winners, "")
            for name in ("scores", "supports", "reconstructions"):
                np.testing.assert_allclose(
                    getattr(answer, name), getattr(known, name), atol=1e-5
                )


@on_one_backend
def test_a_network_without_capsules():
    model = models.ConvNet((9, 11, 1), 3, filters=(2,), units=())
    network = networks.Network("plain", model, tuple("abc"))
    assert not network.has_capsules and network.pose_size == 0
    image = network.frame(np.eye(28, dtype="float32"))
    assert image.shape == (9, 11)
    found = network.answer(image)
    expected = model.predict(image[None, ..., None], verbose=0)[0]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert found.winners == (int(expected.argmax()),)
    assert found.reconstructions == found.supports == ()


@on_one_backend
def test_find_lists_the_weights_of_the_package():
    found, pair = networks.find([])
    assert pair.name == "EfficientCapsNet, multi_mnist" and pair.pose_size == 16
    names = [each.name for each in found]
    cards = [
        card
        for card in pretrained.cards()
        if card.options["image_shape"][-1] == 1 and card.name != "multi_mnist"
    ]
    assert sorted(names) == [f"{x.network}, {x.name}" for x in cards]
    assert "EfficientCapsNet, mnist" in names
    assert all(name.endswith(", mnist") for name in names[:1])
    left, right = networks.two_kinds(found)
    assert left.has_capsules
    assert right.has_capsules == all(each.has_capsules for each in found)


@on_one_backend
def test_find_takes_files(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "cards", lambda: [])
    plain = str(tmp_path / "plain.keras")
    models.ConvNet((9, 11, 1), 3, filters=(2,), units=()).save(plain)
    capsules = str(tmp_path / "capsules.keras")
    shipped.model.save(capsules)
    pair = str(tmp_path / "pair.weights.h5")
    models.EfficientCapsNet.multi_mnist().save_weights(pair)
    found, two = networks.find([plain, capsules], pair)
    assert [each.name for each in found] == [plain, capsules]
    assert found[0].classes == ("0", "1", "2")
    assert networks.two_kinds(found) == (found[1], found[0])
    assert two.name == pair and two.pose_size == 16
    assert two.frame(np.eye(28, dtype="float32")).shape == (36, 36)


@on_one_backend
def test_files_that_do_not_fit_are_refused(tmp_path):
    colours = str(tmp_path / "colours.keras")
    models.ConvNet((9, 9, 3), 2, filters=(2,), units=()).save(colours)
    with pytest.raises(ValueError, match=r"grey pictures.*colours.keras"):
        networks.of_file(colours)
    small = str(tmp_path / "small.keras")
    models.ConvNet((36, 36, 1), 2, filters=(2,), units=()).save(small)
    with pytest.raises(ValueError, match="a decoder for pictures of"):
        networks.of_two_digits(small)
    one = str(tmp_path / "one.keras")
    models.EfficientCapsNet((36, 36, 1), 1).save(one)
    with pytest.raises(ValueError, match=r"two classes.* and 1 classes"):
        networks.of_two_digits(one)
    with pytest.raises(ValueError, match="weights='none.h5'"):
        networks.of_two_digits("none.h5")


def flat(*inputs):
    """A small network, with other layers in front."""
    own = keras.layers
    return keras.Sequential(
        [*inputs, own.Flatten(), own.Dense(3, activation="softmax")]
    )


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return x


def without(name, source, path):
    """Copies a zip file without one of its files."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as part:
        for each in whole.namelist():
            if each != name:
                part.writestr(each, whole.read(each))


@on_one_backend
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "there is no such file"),
        ("rubbish", "it is no zip file"),
        ("cut off", "it is no zip file"),
        ("config.json", "There is no item named 'config.json'"),
        ("model.weights.h5", "Expected a model.weights.h5"),
        ("own layer", "it needs 'Unregistered', which is not known here"),
        ("not built", "the model was saved before it was built"),
        ("lambda", "Lambda"),
        ("a layer", "it holds a Dense"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet")
def test_files_that_hold_no_network_are_refused(tmp_path, kind, reason):
    path, inputs = tmp_path / "network.keras", keras.Input((8, 8, 1))
    good = tmp_path / "good.keras"
    flat(inputs).save(good)
    if kind == "rubbish":
        path.write_bytes(b"rubbish" * 10)
    elif kind == "cut off":
        content = good.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "own layer":
        flat(inputs, Unregistered()).save(path)
    elif kind == "not built":
        flat().save(path)
    elif kind == "lambda":
        flat(inputs, keras.layers.Lambda(lambda x: x)).save(path)
    elif kind == "a layer":
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        keras.saving.save_model(layer, path)
    elif kind != "missing":
        without(kind, good, path)
    expected = r"Expected the path of a `\.keras` file .*Received: path="
    for load in (networks.of_file, networks.of_two_digits):
        with pytest.raises(ValueError, match=expected) as raised:
            load(str(path))
        assert reason in str(raised.value)
        assert len(str(raised.value)) < 500 + len(str(path))


@on_one_backend
def test_files_that_hold_no_weights_are_refused(tmp_path):
    for name in ("network.weights.h5", "network.h5", "network.txt"):
        path = tmp_path / name
        path.write_bytes(b"rubbish" * 10)
        with pytest.raises(ValueError, match="cannot be loaded into Eff"):
            networks.of_two_digits(str(path))
    other = tmp_path / "other.weights.h5"
    models.ConvNet((9, 11, 1), 3, filters=(2,), units=()).save_weights(other)
    with pytest.raises(ValueError, match="cannot be loaded.*other.weights.h5"):
        networks.of_two_digits(str(other))


@on_one_backend
def test_a_network_of_nan_is_refused(tmp_path):
    network = flat(keras.Input((8, 8, 1)))
    network.layers[-1].kernel.assign(np.full((64, 3), np.nan))
    path = str(tmp_path / "nan.keras")
    network.save(path)
    with pytest.raises(ValueError, match=r"not finite.*Received: .*nan.keras"):
        networks.of_file(path)


@on_one_backend
def test_an_output_in_a_dictionary(tmp_path):
    network = flat(keras.Input((8, 8, 1)))
    path = str(tmp_path / "named.keras")
    keras.Model(network.inputs[0], {"scores": network.outputs[0]}).save(path)
    image = np.eye(8, dtype="float32")
    found = networks.of_file(path).answer(image)
    expected = network.predict(image[None, ..., None], verbose=0)[0]
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)


@on_one_backend
def test_a_run_has_the_names_of_its_classes(tmp_path, monkeypatch):
    model = models.ConvNet((9, 11, 1), 2, filters=(2,), units=())
    found = trained.Trained("run", model, ("cat", "owl"), {})
    monkeypatch.setattr(trained, "load", lambda path: found)
    network = networks.of_file(str(tmp_path))
    assert network.classes == ("cat", "owl")
    assert network.model is model


@on_one_backend
@pytest.mark.parametrize("scale", [-1.0, 9.0])
def test_logits_are_no_scores(tmp_path, scale):
    network = keras.Sequential(
        [
            keras.Input((9, 11, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_initializer="ones"),
            keras.layers.Rescaling(scale),
        ]
    )
    path = str(tmp_path / "logits.keras")
    network.save(path)
    with pytest.raises(ValueError, match=r"ends in a softmax.*logits.keras"):
        networks.of_file(path)
