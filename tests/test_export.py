import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_capsules
from keras_capsules import export_saved_model
from tests.helpers.capsnet import small

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() == "torch",
        reason="Keras makes no SavedModels of PyTorch models",
    ),
]

IMAGES = np.random.default_rng(1).uniform(size=(3, 8, 8, 1)).astype("float32")


def endpoints(served):
    """The endpoints that were made by name."""
    return set(served.signatures) - {"serving_default"}


def assert_near(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return small()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """The path of a SavedModel of the model, which tests must not change."""
    path = str(tmp_path_factory.mktemp("export") / "saved")
    assert export_saved_model(model, path) == path
    return path


@pytest.fixture(scope="module")
def served(saved):
    return tf.saved_model.load(saved)


@pytest.fixture
def older(saved, tmp_path):
    """A SavedModel that may be changed, alone in its folder."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "parent" / "model"))


def contents(folder):
    """All files below a folder, by their path, with their content."""
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
    }


# Endpoints.


def test_endpoints_compute_what_the_methods_do(model, served):
    assert endpoints(served) == {"serve", "capsules", "reconstruct"}
    assert_near(served.serve(IMAGES), model.predict(IMAGES, verbose=0))
    assert_near(served.capsules(IMAGES), model.encode(IMAGES))
    assert_near(served.reconstruct(IMAGES), model.reconstruct(IMAGES))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_of_any_size(model, served, size):
    images = IMAGES[-size:]
    expected = model.predict(IMAGES, verbose=0)[-size:]
    assert_near(served.serve(images), expected)
    assert_near(served.serve(tf.constant(images)), expected)
    assert served.capsules(images).shape == (size, 3, 5)
    assert served.reconstruct(images).shape == (size, 8, 8, 1)


def test_serve_is_the_default_signature(model, served):
    signature = served.signatures["serving_default"]
    _, arguments = signature.structured_input_signature
    ((name, spec),) = arguments.items()
    assert spec.shape.as_list() == [None, 8, 8, 1]
    assert spec.dtype == tf.float32
    (scores,) = signature(**{name: tf.constant(IMAGES)}).values()
    assert_near(scores, model.predict(IMAGES, verbose=0))


SERVE = """
import sys

import numpy as np

BLOCKED = ("keras", "keras_capsules", "jax", "torch")
for name in BLOCKED:
    sys.modules[name] = None  # as if it was not installed
    try:
        __import__(name)
    except ImportError:
        pass
    else:
        sys.exit(f"{name} is not blocked")

import tensorflow as tf

path, images, results = sys.argv[1:]
images = np.load(images)
served = tf.saved_model.load(path)
np.savez(
    results,
    serve=served.serve(images),
    capsules=served.capsules(images),
    reconstruct=served.reconstruct(images),
)
if any(sys.modules[name] for name in BLOCKED):
    sys.exit("something blocked was imported")
"""


def test_needs_tensorflow_alone(model, saved, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    subprocess.run(
        [
            sys.executable,
            "-c",
            SERVE,
            saved,
            str(tmp_path / "images.npy"),
            str(tmp_path / "results.npz"),
        ],
        check=True,
        cwd=tmp_path,
    )
    results = np.load(tmp_path / "results.npz")
    assert_near(results["serve"], model.predict(IMAGES, verbose=0))
    assert_near(results["capsules"], model.encode(IMAGES))
    assert_near(results["reconstruct"], model.reconstruct(IMAGES))


def test_a_network_without_decoder_has_no_reconstruct(tmp_path):
    model = small(decoder_units=None)
    served = tf.saved_model.load(export_saved_model(model, tmp_path / "model"))
    assert endpoints(served) == {"serve", "capsules"}
    assert not hasattr(served, "reconstruct")
    scores = model.predict(IMAGES, verbose=0)
    assert_near(served.serve(IMAGES), scores)
    assert_near(served.capsules(IMAGES), model.encode(IMAGES))
    # The model can be trained on, which is no affair of the SavedModel's.
    model.compile("sgd", loss="mse")
    model.train_on_batch(IMAGES, np.eye(3))
    assert_near(served.serve(IMAGES), scores)
    assert np.abs(model.predict(IMAGES, verbose=0) - scores).max() > 1e-4


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_other_models_serve(kind, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras_capsules.PrimaryCapsules(2, 4, kernel_size=3, strides=2),
            keras_capsules.CapsuleLayer(3, 5),
            keras_capsules.CapsuleLength(),
        ]
    )
    if kind == "functional":
        inputs = keras.Input((8, 8, 1))
        model = keras.Model(inputs, model(inputs))
    served = tf.saved_model.load(export_saved_model(model, tmp_path / "model"))
    assert endpoints(served) == {"serve"}
    for size in (1, 3):
        assert_near(
            served.serve(IMAGES[:size]),
            model.predict(IMAGES, verbose=0)[:size],
        )


def test_mixed_bfloat16(tmp_path):
    model = small(dtype="mixed_bfloat16", decoder_units=None)
    served = tf.saved_model.load(export_saved_model(model, tmp_path / "model"))
    scores = served.serve(IMAGES)
    assert scores.dtype == tf.float32
    np.testing.assert_allclose(
        scores, model.predict(IMAGES, verbose=0), atol=0.02
    )


def test_the_export_of_keras(model, tmp_path):
    model(IMAGES)  # Keras wants models to have been called before
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    for size in (1, 3):
        assert_near(
            served.serve(IMAGES[:size]),
            model.predict(IMAGES, verbose=0)[:size],
        )


# Where it is written.


def test_takes_paths_and_makes_parents(model, tmp_path, monkeypatch):
    mock_writing(monkeypatch)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some" / "folders" / "model"
    assert export_saved_model(model, path) == str(path)
    assert export_saved_model(model, "here") == str(tmp_path / "here")
    assert contents(tmp_path) == {
        "some": False,
        "some/folders": False,
        "some/folders/model": False,
        "some/folders/model/saved_model.pb": b"new",
        "here": False,
        "here/saved_model.pb": b"new",
    }


def test_others_may_read_it(saved):
    """Unlike the temporary folder in which it was made."""
    expected = pathlib.Path(saved, "variables").stat().st_mode
    assert pathlib.Path(saved).stat().st_mode == expected


def mock_writing(monkeypatch, error=None):
    """Writes a file that stands for a SavedModel, then perhaps fails."""

    def write_out(self, path, *arguments, **options):
        os.makedirs(path)
        pathlib.Path(path, "saved_model.pb").write_bytes(b"new")
        if error is not None:
            raise error

    # The class itself is only a factory of others.
    kind = type(keras.export.ExportArchive())
    monkeypatch.setattr(kind, "write_out", write_out)
    monkeypatch.setattr(kind, "add_endpoint", lambda *_, **__: None)


def test_does_not_overwrite_by_itself(model, older):
    before = contents(older.parent)
    with pytest.raises(ValueError, match="overwrite=True") as raised:
        export_saved_model(model, older)
    assert str(older) in str(raised.value)
    assert contents(older.parent) == before


def test_overwrites_an_older_one(model, older, monkeypatch):
    mock_writing(monkeypatch)
    assert export_saved_model(model, older, overwrite=True) == str(older)
    # Nothing of the old one is left, inside or beside it.
    assert contents(older.parent) == {
        "model": False,
        "model/saved_model.pb": b"new",
    }


def test_overwrite_needs_nothing_to_overwrite(model, tmp_path, monkeypatch):
    mock_writing(monkeypatch)
    export_saved_model(model, tmp_path / "model", overwrite=True)
    assert contents(tmp_path) == {
        "model": False,
        "model/saved_model.pb": b"new",
    }


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["empty", "full", "more", "file", "link"])
def test_leaves_alone_what_is_no_saved_model(model, kind, overwrite, tmp_path):
    path = tmp_path / "thesis"
    if kind == "file":
        path.write_text("dear")
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
    if kind in ("full", "more"):
        (path / "chapter.txt").write_text("dear")
    if kind == "more":
        (path / "saved_model.pb").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="path that does not exist") as raised:
        export_saved_model(model, path, overwrite=overwrite)
    assert str(path) in str(raised.value)
    assert contents(tmp_path) == before
    assert path.is_symlink() == (kind == "link")


@pytest.mark.parametrize("there", [False, True], ids=["new", "older"])
def test_a_failure_while_writing_leaves_no_trace(
    model, older, there, monkeypatch
):
    before = contents(older.parent)
    path = older if there else older.parent / "other"
    mock_writing(monkeypatch, OSError("the disk is full"))
    with pytest.raises(OSError, match="the disk is full"):
        export_saved_model(model, path, overwrite=True)
    assert contents(older.parent) == before


@pytest.mark.parametrize("there", [False, True], ids=["new", "older"])
def test_a_failure_while_moving_leaves_no_trace(
    model, older, there, monkeypatch
):
    before = contents(older.parent)
    path = older if there else older.parent / "other"
    mock_writing(monkeypatch)
    replace, failed = os.replace, []

    def replace_but_once(source, destination):
        if str(destination) == str(path) and not failed:
            failed.append(source)
            raise OSError("the network is down")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", replace_but_once)
    with pytest.raises(OSError, match="the network is down"):
        export_saved_model(model, path, overwrite=True)
    assert failed
    assert contents(older.parent) == before


# Errors.


def test_rejects_models_that_are_not_built(tmp_path):
    model = keras.Sequential([keras_capsules.CapsuleLength()])
    with pytest.raises(ValueError, match="a Keras model that is built"):
        export_saved_model(model, tmp_path / "model")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["layer", "path", "none"])
def test_rejects_what_is_no_model(kind, tmp_path):
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    model = {"layer": layer, "path": "model.keras", "none": None}[kind]
    with pytest.raises(ValueError, match="a Keras model that is built"):
        export_saved_model(model, tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_rejects_models_of_several_inputs(tmp_path):
    inputs = [keras.Input((2,)), keras.Input((3,))]
    model = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    with pytest.raises(ValueError, match="one input of known shape"):
        export_saved_model(model, tmp_path / "model")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("path", [None, 3, b"model"], ids=str)
def test_rejects_what_is_no_path(model, path):
    message = rf"`path`. Expected a string or .* Received: path={path!r}"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, path)


@pytest.mark.parametrize("below", ["model", "some/folders/model"])
def test_rejects_paths_below_files(model, below, tmp_path):
    file = tmp_path / "thesis.txt"
    file.write_text("dear")
    with pytest.raises(ValueError, match="thesis.txt' is not a folder. Re"):
        export_saved_model(model, file / below)
    assert contents(tmp_path) == {"thesis.txt": b"dear"}


@pytest.mark.parametrize("overwrite", ["no", 2, None], ids=str)
def test_rejects_overwrite_that_is_no_boolean(model, older, overwrite):
    before = contents(older.parent)
    message = rf"Expected True or False. Received: overwrite={overwrite!r}"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, older, overwrite=overwrite)
    assert contents(older.parent) == before
