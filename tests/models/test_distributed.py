"""Devices that share a batch, or a network, train as one device does.

With `MirroredStrategy` in TensorFlow, and with `keras.distribution` in JAX.
"""

import pathlib

import keras
import numpy as np
import pytest

from keras_capsules.models import saving
from tests.helpers import parallel
from tests.helpers.markdown import blocks
from tests.helpers.networks import NAMES
from tests.helpers.networks import make
from tests.helpers.testing import BACKEND
from tests.helpers.testing import only_tensorflow

pytestmark = pytest.mark.skipif(
    BACKEND == "torch", reason="Keras leaves it to PyTorch's own tools"
)
only_jax = pytest.mark.skipif(
    BACKEND != "jax", reason="Keras cuts weights with JAX's compiler"
)
# Every network of a kind of sharing is trained by one process.
QUICK = ["CapsNet"]
OTHERS = [name for name in NAMES if name not in QUICK]


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """What networks come to on one device, each trained once."""
    found = {}

    def get(names):
        missing = [name for name in names if name not in found]
        if missing:
            folder = tmp_path_factory.mktemp("one") / "results"
            found.update(parallel.train("data", 1, folder, missing))
        return found

    return get


def check(kind, devices, names, tmp_path, on_one_device):
    expected = on_one_device(names)
    found = parallel.train(kind, devices, tmp_path / "results", names)
    for name in names:
        assert found[name].keys() == expected[name].keys()
        assert len(found[name]["loss"]) == 4
        for key, value in expected[name].items():
            np.testing.assert_allclose(
                found[name][key],
                value,
                rtol=1e-5,
                atol=1e-6,
                err_msg=f"{name}, {key}",
            )


@pytest.mark.parametrize(
    "devices", [2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_shared_batch(devices, tmp_path, on_one_device):
    check("data", devices, QUICK, tmp_path, on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_a_shared_batch_of_other_networks(devices, tmp_path, on_one_device):
    check("data", devices, OTHERS, tmp_path, on_one_device)


@only_jax
@pytest.mark.parametrize(
    ("kind", "devices"),
    [("outputs", 6), pytest.param("inputs", 4, marks=pytest.mark.slow)],
)
def test_a_shared_network(kind, devices, tmp_path, on_one_device):
    check(kind, devices, QUICK, tmp_path, on_one_device)


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "devices"), [("outputs", 6), ("inputs", 4)])
def test_other_shared_networks(kind, devices, tmp_path, on_one_device):
    names = [name for name in parallel.OPTIONS if name not in QUICK]
    check(kind, devices, names, tmp_path, on_one_device)


@only_tensorflow
@pytest.mark.parametrize("name", NAMES)
def test_batch_normalization_is_found(name):
    """By the code of the page."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "many_devices.md"
    (code,) = [x for x in blocks(page.read_text()) if "def parts_of" in x]
    code = code.partition("if keras.backend")[0]
    exec(code, names := {"keras": keras})
    model = make(name)
    names["synchronize"](model)
    for path, layer in saving.walk(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.synchronized, path
