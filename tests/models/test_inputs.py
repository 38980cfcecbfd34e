"""Inputs, labels and weights of networks, in every structure."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import MarginLoss
from keras_capsules.models import CapsuleNetwork
from tests.helpers.networks import CLASSES
from tests.helpers.networks import images
from tests.helpers.networks import labels
from tests.helpers.networks import make
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0], "float32")


def evaluate(model, *args, **kwargs):
    logs = model.evaluate(*args, verbose=0, return_dict=True, **kwargs)
    return {name: float(value) for name, value in logs.items()}


def compiled(model, **options):
    model.compile("sgd", MarginLoss(), **QUICK, **options)
    return model


def two_inputs(structure):
    """A network that reconstructs the first of two inputs."""
    keras.utils.set_random_seed(3)
    zeta = keras.Input((6,), name="zeta")
    alpha = keras.Input((6,), name="alpha")
    x = keras.layers.Concatenate(name="both")([zeta, alpha])
    x = keras.layers.Reshape((3, 4), name="parts")(x)
    capsules = CapsuleLayer(CLASSES, 4, name="class_capsules")(x)
    decoder = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(6)], name="decoder"
    )
    inputs = {"zeta": zeta, "alpha": alpha}
    if structure == "list":
        inputs = [zeta, alpha]
    return compiled(
        CapsuleNetwork(inputs, capsules, decoder, reconstruction_weight=0.1)
    )


@pytest.mark.parametrize("structure", ["list", "dictionary"])
def test_the_first_input_is_reconstructed(structure):
    model = two_inputs(structure)
    first, second = (each.name for each in model.inputs)
    assert first == ("zeta" if structure == "list" else "alpha")
    numbers = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    data = dict(zip((first, second), numbers, strict=True))
    y = labels()
    logs = evaluate(model, data, y)
    # Other keys do not matter, wherever they are in the alphabet.
    for more in ("a", "zzz"):
        assert evaluate(model, {more: 9 * data[first], **data}, y) == logs
    assert evaluate(model, [data[first], data[second]], y) == logs
    decoded = model.reconstruct(data, y)
    error = np.mean((decoded - data[first]) ** 2)
    assert logs["reconstruction_error"] == pytest.approx(error, rel=1e-5)
    reconstructed = model.reconstruct([data[first], data[second]], y)
    np.testing.assert_allclose(reconstructed, decoded, rtol=1e-5)
    # As in a custom loop.
    tensors = {key: ops.convert_to_tensor(x) for key, x in data.items()}
    loss = model.compute_loss(tensors, y, model(tensors), training=False)
    assert float(numpy(loss)) == pytest.approx(logs["loss"], rel=1e-5)


def test_other_arrays_in_a_dictionary_are_no_images():
    model, x, y = compiled(make("CapsNet")), images(), labels()
    data = {"images": x, "aaa": np.zeros_like(x)}
    assert evaluate(model, data, y) == evaluate(model, x, y)
    np.testing.assert_array_equal(model.encode(data), model.encode(x))


STRUCTURES = {
    "tensor": lambda x: x,
    "list": lambda x: [x],
    "tuple": lambda x: (x,),
    "dictionary": lambda x: {"pictures": x},
}
structures = pytest.mark.parametrize(
    "structure", STRUCTURES.values(), ids=STRUCTURES.keys()
)


def one_input(structure, decoder=True):
    keras.utils.set_random_seed(3)
    pictures = keras.Input((8, 8, 1), name="pictures")
    x = keras.layers.Reshape((16, 4), name="parts")(pictures)
    capsules = CapsuleLayer(CLASSES, 4, name="class_capsules")(x)
    head = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(64),
            keras.layers.Reshape((8, 8, 1)),
        ],
        name="decoder",
    )
    head = head if decoder else None
    return compiled(CapsuleNetwork(structure(pictures), capsules, head))


@structures
def test_one_input_comes_in_every_structure(structure):
    """Whatever the structure that the network was made with."""
    model, twin = one_input(structure), one_input(STRUCTURES["tensor"])
    x, y = images(), labels()
    tensor = ops.convert_to_tensor(x)
    scores, capsules = numpy(twin(x)), numpy(twin.encode(tensor))
    decoded = numpy(twin.reconstruct(tensor, y))
    logs = evaluate(twin, x, y)
    for form in STRUCTURES.values():
        np.testing.assert_allclose(numpy(model(form(x))), scores, rtol=1e-5)
        assert evaluate(model, form(x), y) == pytest.approx(logs, rel=1e-5)
        given = numpy(model.encode(form(tensor)))
        np.testing.assert_allclose(given, capsules, rtol=1e-5, atol=1e-6)
        given = numpy(model.reconstruct(form(tensor), y))
        np.testing.assert_allclose(given, decoded, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@structures
def test_arrays_come_in_every_structure(structure, tmp_path):
    model, twin = one_input(structure), one_input(STRUCTURES["tensor"])
    x, y = images(), labels()
    scores, capsules = twin.predict(x, verbose=0), twin.encode(x)
    for form in STRUCTURES.values():
        given = model.predict(form(x), verbose=0)
        np.testing.assert_allclose(given, scores, rtol=1e-5)
        given = model.encode(form(x))
        np.testing.assert_allclose(given, capsules, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    given = loaded.encode({"pictures": x})
    np.testing.assert_allclose(given, capsules, rtol=1e-5, atol=1e-6)
    for form in STRUCTURES.values():
        history = model.fit(form(x), y, verbose=0).history
        assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("decoder", [True, False], ids=["decoder", "without"])
def test_labels_and_weights_come_in_every_structure(decoder):
    model = one_input(STRUCTURES["tensor"], decoder)
    compiled(model, metrics=["accuracy"])
    x, y = images(), labels()
    expected = evaluate(model, x, y, sample_weight=WEIGHTS)
    for form in (lambda a: [a], lambda a: (a,)):
        logs = evaluate(model, x, form(y), sample_weight=form(WEIGHTS))
        assert logs == pytest.approx(expected, rel=1e-6)
    history = model.fit(x, [y], sample_weight=[WEIGHTS], verbose=0).history
    assert history["loss"][0] == pytest.approx(expected["loss"], rel=1e-5)
