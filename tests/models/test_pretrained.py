"""Weights by name: what is loaded, and what is refused."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from keras_capsules import datasets
from keras_capsules import models
from keras_capsules.models import pretrained
from keras_capsules.models import saving
from tests.helpers import networks
from tests.helpers.testing import numpy

ROOT = pathlib.Path(__file__).parents[2]
SHAPE, CLASSES = networks.SHAPE, networks.CLASSES


def publish(folder, network, name="small", **changes):
    """Writes weights and their card."""
    arrays = {
        each.path: numpy(each).astype("float16" if each.ndim > 1 else "float32")
        for each in network.weights
    }
    class_name = type(network).__name__
    path = folder / f"{class_name}-{name}.npz"
    np.savez(path, **arrays)
    card = {
        "network": class_name,
        "name": name,
        "description": "For tests.",
        "options": saving.arguments_of(network),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": network.count_params(),
        "test_error": 12.5,
        "data": "none",
        "record": {},
    }
    path.with_suffix(".json").write_text(json.dumps(card | changes))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path


def changed(name):
    """A network whose weights are not those of a new one."""
    network = networks.make(name)
    generator = np.random.default_rng(5)
    for each in network.weights:
        value = numpy(each)
        each.assign(value + 0.1 * generator.uniform(size=value.shape))
    return network


@pytest.mark.parametrize("name", networks.NAMES)
def test_a_network_by_name(name, folder):
    """It has the arguments, the decoder and the scores of the trained one."""
    network = changed(name)
    publish(folder, network)
    copy = getattr(models, name)(weights="small")
    assert copy.image_shape == SHAPE and copy.num_classes == CLASSES
    images = networks.images()
    np.testing.assert_allclose(
        numpy(copy(images)), numpy(network(images)), rtol=0.02, atol=0.002
    )
    theirs = {each.path: numpy(each) for each in network.weights}
    for each in copy.weights:
        np.testing.assert_allclose(
            numpy(each), theirs[each.path], rtol=1e-3, atol=1e-6
        )
    assert "weights" not in copy.get_config()
    again = type(copy).from_config(copy.get_config())
    assert [x.path for x in again.weights] == [x.path for x in copy.weights]


def test_arguments_that_are_given_win(folder):
    network = changed("EfficientCapsNet")
    publish(folder, network)
    copy = models.EfficientCapsNet(
        SHAPE, weights="small", name="mine", dtype="mixed_bfloat16"
    )
    assert copy.name == "mine" and copy.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_allclose(
        numpy(copy(networks.images())),
        numpy(network(networks.images())),
        atol=0.05,
    )


def test_subclasses_and_trained_copies(folder):
    class Mine(models.EfficientCapsNet):
        pass

    publish(folder, changed("EfficientCapsNet"))
    copy = Mine(weights="small")
    copy.compile("adam", "mse")
    copy.fit(networks.images(), np.eye(3)[[0, 1, 2, 0, 1]], verbose=0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_classes", 5, "num_classes=3. Received: num_classes=5"),
        ("activation", "tanh", "activation='relu'. Received: activation='tan"),
        ("padding", "valid", "padding='same'. Received: padding='valid'"),
        ("decoder_units", (7, 7), r"=\[7\]. Received: decoder_units=\[7, 7\]"),
        ("routing", "dynamic", "Received: routing={.*DynamicRouting"),
    ],
)
def test_arguments_that_do_not_fit(folder, option, value, message):
    publish(folder, changed("EfficientCapsNet"))
    message = f"'small' do not fit an argument that was given.*{message}"
    with pytest.raises(ValueError, match=message):
        models.EfficientCapsNet(weights="small", **{option: value})


def test_a_preset_of_another_size(folder):
    publish(folder, changed("EfficientCapsNet"))
    message = "Expected image_shape=.*Received: image_shape=.36, 36, 1."
    with pytest.raises(ValueError, match=message):
        models.EfficientCapsNet.multi_mnist(weights="small")


def test_arguments_of_training_are_free(folder):
    publish(folder, changed("ConvNet"))
    publish(folder, changed("EfficientCapsNet"))
    assert models.ConvNet(weights="small", dropout=0.1).dropout == 0.1
    model = models.EfficientCapsNet(weights="small", reconstruction_weight=2)
    assert model.reconstruction_weight == 2


@pytest.mark.parametrize("name", networks.NAMES)
def test_a_network_without_its_decoder(name, folder):
    network = changed(name)
    if getattr(network, "decoder", None) is None:
        pytest.skip("it has none")
    publish(folder, network)
    none = "decoder_filters" if name == "DeepCaps" else "decoder_units"
    copy = getattr(models, name)(weights="small", **{none: None})
    assert copy.decoder is None
    np.testing.assert_allclose(
        numpy(copy(networks.images())),
        numpy(network(networks.images())),
        rtol=0.02,
        atol=0.002,
    )


def test_weights_without_a_decoder(folder):
    publish(folder, networks.make("EfficientCapsNet", decoder_units=None))
    assert models.EfficientCapsNet(weights="small").decoder is None
    with pytest.raises(ValueError, match="Expected decoder_units=None.*Rec"):
        models.EfficientCapsNet(weights="small", decoder_units=(7,))


def test_subclasses_that_hand_weights_on_do_not_save_them(folder):
    class Handing(models.EfficientCapsNet):
        def __init__(self, weights=None):
            super().__init__(weights=weights)

    publish(folder, changed("EfficientCapsNet"))
    network = Handing(weights="small")
    assert set(network.get_config()) <= {"name", "trainable", "dtype"}


def test_arguments_of_the_weights_are_named_where_others_do_not_fit(folder):
    publish(folder, changed("EfficientCapsNet"))
    with pytest.raises(ValueError, match="kernel_sizes") as raised:
        models.EfficientCapsNet(weights="small", filters=(8, 8))
    (note,) = raised.value.__notes__
    assert "not given are those of the weights 'small': {'image_shape'" in note
    with pytest.raises(ValueError, match="Received: primary_kernel_size=4"):
        models.EfficientCapsNet(
            weights="small", primary_kernel_size=np.int64(4)
        )


def test_a_class_of_the_same_name(folder):
    class ConvNet(models.CapsNet):
        pass

    publish(folder, changed("ConvNet"))
    with pytest.raises(ValueError, match="Expected the path of a file"):
        ConvNet(weights="small")


@pytest.mark.parametrize(
    "weights", ["mnits", "", 3, b"small", ["small"], "x" * 300, "a\0b"]
)
def test_unknown_names(folder, weights):
    publish(folder, changed("EfficientCapsNet"))
    publish(folder, changed("ConvNet"), name="other")
    message = (
        "no such weights of EfficientCapsNet. Expected 'small' or the path of "
        "a file that `save_weights` wrote. Received: weights="
    )
    with pytest.raises(ValueError, match=message) as raised:
        models.EfficientCapsNet(weights=weights)
    assert str(raised.value).endswith(f"weights={weights!r}")


def test_a_file_of_the_user(folder, tmp_path):
    network = changed("ConvNet")
    path = tmp_path / "mine.weights.h5"
    network.save_weights(path)
    options = networks.OPTIONS["ConvNet"]
    for given in (path, str(path)):
        copy = models.ConvNet(SHAPE, CLASSES, **options, weights=given)
        for one, other in zip(copy.weights, network.weights, strict=True):
            np.testing.assert_array_equal(numpy(one), numpy(other))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file(folder, damage):
    publish(folder, changed("ConvNet"))
    path = folder / "ConvNet-small.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage == "changed":
        path.write_bytes(content)
    message = "not the one that was published: install keras_capsules again"
    with pytest.raises(ValueError, match=message):
        models.ConvNet(weights="small")


def test_a_package_without_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "none")
    assert pretrained.cards() == []
    with pytest.raises(ValueError, match="Expected the path of a file"):
        models.CapsNet(weights="mnist")


# The weights that come with the package.

SHIPPED = pretrained.cards()
by_name = pytest.mark.parametrize(
    "card", SHIPPED, ids=[card.stem for card in SHIPPED]
)


def test_weights_come_with_the_package():
    assert {card.stem for card in SHIPPED} >= {"EfficientCapsNet-mnist"}


@by_name
def test_files_are_small_and_described(card):
    files = pretrained.FOLDER
    size = len((files / f"{card.stem}.npz").read_bytes())
    with_decoder = card.record["parameters_with_decoder"] > card.parameters
    assert size <= (4e6 if with_decoder else 1.5e6)
    assert card.description and "licence" in card.data
    assert card.record["parameters"] == card.parameters
    assert card.record["test_error"] >= 0
    # Sixteen bits cost nothing.
    assert abs(card.test_error - card.record["test_error"]) <= 0.021


@by_name
def test_figures_on_real_images(card):
    """The first thousand test images, as often right as all of them."""
    network = getattr(models, card.network)(weights=card.name)
    assert network.input_shape[1:] == tuple(network.image_shape)
    task = card.record["task"]
    try:
        if task == "multi_mnist":
            data = datasets.multi_mnist("test", targets=False)
        elif task == "affine_mnist":
            data = datasets.affine_mnist("test")
        else:
            data = datasets.load(task, "test")
    except ConnectionError as error:
        pytest.skip(str(error))
    images, labels = next(iter(data.batch(1000)))
    images, labels = images.numpy(), labels.numpy()
    scores = numpy(network.predict(images, verbose=0))
    if labels.ndim > 1:
        two = np.argsort(scores)[:, -2:]
        right = np.take_along_axis(labels, two, 1).all(axis=1)
    else:
        right = scores.argmax(axis=1) == labels
    expected = card.test_error / 100
    deviation = np.sqrt(expected * (1 - expected) / 1000)
    assert abs(1 - right.mean() - expected) <= 4 * deviation + 0.002
    if getattr(network, "decoder", None) is not None:
        decoded = numpy(network.decode(network.encode(images[:5])))
        assert decoded.shape[-3:] == tuple(network.image_shape)


def test_the_page_names_all():
    page = (ROOT / "docs" / "weights.md").read_text()
    for card in SHIPPED:
        assert f'{card.network}(weights="{card.name}")' in page
