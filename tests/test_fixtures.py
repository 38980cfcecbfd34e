"""Files of earlier releases load, compute the same, and train on.

`make fixtures` wrote them; see tests/fixtures/make.py.
"""

import functools
import inspect
import pathlib
import re
import tarfile
import zipfile

import keras
import numpy as np
import pytest

from keras_capsules import layers
from keras_capsules import models
from keras_capsules import routing
from tests.fixtures import make
from tests.fixtures import networks
from tests.helpers.testing import arrays
from tests.helpers.testing import only_tensorflow
from tests.helpers.testing import outputs_of

FIXTURES = pathlib.Path(make.__file__).parent
FILES = sorted(FIXTURES.glob("*/*.keras"))
every_file = pytest.mark.parametrize(
    "path", FILES, ids=[f"{each.parent.name}-{each.stem}" for each in FILES]
)
MOST_BYTES = 1_000_000


@functools.cache
def stored(folder):
    with np.load(folder / "arrays.npz", allow_pickle=False) as file:
        return dict(file)


def array(path, kind):
    """What is stored about a network, or `None`."""
    return stored(path.parent).get(f"{path.stem}.{kind}")


def close(ours, exact, tolerance=1e-5):
    assert np.isfinite(exact).all()
    np.testing.assert_allclose(ours, exact, rtol=tolerance, atol=tolerance)


@every_file
def test_a_saved_file_loads_and_trains_on(path, tmp_path):
    model = keras.saving.load_model(path, safe_mode=True)
    inputs, labels = array(path, "inputs"), array(path, "labels")
    close(outputs_of(model, inputs)[0], array(path, "outputs"))
    assert int(model.optimizer.iterations) == 2
    networks.fit(model, inputs, labels)
    trained = outputs_of(model, inputs)[0]
    after = array(path, "after")
    if after is not None:
        close(trained, after, 1e-4)
    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras", safe_mode=True)
    assert type(again) is type(model)
    assert int(again.optimizer.iterations) == 3
    close(outputs_of(again, inputs)[0], trained)


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """The SavedModels of each version, in a folder of its name."""
    folder = tmp_path_factory.mktemp("saved_models")
    for path in FIXTURES.glob("*/saved_models.tar.xz"):
        with tarfile.open(path) as file:
            file.extractall(folder / path.parent.name, filter="data")
    return folder


@only_tensorflow
@every_file
def test_a_saved_model_serves(path, saved_models):
    import tensorflow as tf

    served = tf.saved_model.load(saved_models / path.parent.name / path.stem)
    inputs = array(path, "inputs")
    close(arrays(served.serve(inputs))[0], array(path, "outputs"))
    close(arrays(served.serve(inputs[:2]))[0], array(path, "outputs")[:2])
    capsules = array(path, "capsules")
    assert hasattr(served, "capsules") == (capsules is not None)
    if capsules is not None:
        close(arrays(served.capsules(inputs))[0], capsules)


# What the files are.


def test_this_version_has_all_files():
    folder = FIXTURES / make.VERSION
    found = {path.name for path in folder.iterdir()}
    expected = {f"{name}.keras" for name in networks.NETWORKS}
    assert found == expected | {"arrays.npz", "saved_models.tar.xz"}
    for path in folder.glob("*.keras"):
        assert (array(path, "after") is None) == (path.stem in networks.RANDOM)


def test_every_network_routing_and_layer_is_in_a_file():
    text = ""
    for path in (FIXTURES / make.VERSION).glob("*.keras"):
        with zipfile.ZipFile(path) as file:
            text += file.read("config.json").decode()
    found = set(re.findall(r'"keras_capsules>(\w+)"', text))
    public = {
        name
        for module in (layers, models)
        for name, value in vars(module).items()
        if inspect.isclass(value)
    }
    public |= {each.__name__ for each in routing.ROUTINGS.values()}
    # What a network makes in its constructor is not in its configuration.
    inside = {"CapsuleMask", "PoseNormalization", "PropagateNaN"}
    assert public - found <= inside | {"CapsuleStack"}


def test_files_hold_no_pickles_and_are_small():
    for folder in {path.parent for path in FILES}:
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert size < MOST_BYTES
    members = re.compile(r"(config|metadata)\.json|model\.weights\.h5|assets/")
    for path in FILES:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                assert members.fullmatch(name), f"{path.name}: {name}"
        stored(path.parent)  # which allows no pickles


def test_the_files_of_a_release_are_not_written_again(monkeypatch, tmp_path):
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    (tmp_path / make.VERSION).mkdir()
    with pytest.raises(SystemExit, match="never change"):
        make.main()
