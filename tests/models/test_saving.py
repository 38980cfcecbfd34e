"""Networks saved, and loaded in a new process."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_capsules import MarginLoss
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import evaluate
from tests.helpers.capsnet import small
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


RELOAD = """
import json
import sys

import keras
import numpy as np

import keras_capsules

folder = sys.argv[1]
data = dict(np.load(folder + "/data.npz"))
model = keras.saving.load_model(folder + "/model.keras", safe_mode=True)
results = {
    "type": type(model).__name__,
    "config": model.get_config(),
    "loss": keras.saving.serialize_keras_object(model.loss),
    "iterations": int(model.optimizer.iterations),
    "evaluation": model.evaluate(
        data["images"], data["labels"], verbose=0, return_dict=True
    ),
}
np.save(folder + "/scores.npy", model.predict(data["images"], verbose=0))
np.save(folder + "/decoded.npy", model.reconstruct(data["images"]))
model.fit(data["images"], data["labels"], batch_size=7, verbose=0)
results["iterations_after"] = int(model.optimizer.iterations)
weights = [keras.ops.convert_to_numpy(each) for each in model.weights]
np.savez(folder + "/weights.npz", *weights)
with open(folder + "/results.json", "w") as file:
    json.dump(results, file, default=float)
"""


def test_loads_in_a_new_process_and_trains_on(tmp_path):
    model = small(
        conv_strides=1,
        primary_strides=1,
        routing=DynamicRouting(2, leaky=True),
        decoder_units=(6, 7),
        dtype="float32",
        name="mine",
    )
    loss = MarginLoss(0.8, 0.2, absent_weight=0.7)
    model.compile("adam", loss=loss, metrics=["accuracy"], **QUICK)
    model.fit(IMAGES, LABELS, batch_size=3, epochs=2, verbose=0)
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    model.save(tmp_path / "model.keras")
    subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": BACKEND},
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["type"] == "CapsNet"
    assert results["config"] == json.loads(json.dumps(model.get_config()))
    assert results["loss"] == keras.saving.serialize_keras_object(loss)
    assert results["iterations"] == 6
    assert results["evaluation"] == pytest.approx(
        evaluate(model, IMAGES, LABELS), rel=1e-5
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "scores.npy"),
        model.predict(IMAGES, verbose=0),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "decoded.npy"), model.reconstruct(IMAGES), atol=1e-6
    )
    # Adam's moments were saved too, or else the next step would differ.
    model.fit(IMAGES, LABELS, batch_size=7, verbose=0)
    assert results["iterations_after"] == 7
    trained = np.load(tmp_path / "weights.npz")
    assert len(trained.files) == len(model.weights)
    for name, weight in zip(trained.files, model.weights, strict=True):
        np.testing.assert_allclose(trained[name], numpy(weight), atol=1e-5)


def test_weights_alone(tmp_path):
    model, twin = small(), small()
    assert not np.allclose(model.get_weights()[0], twin.get_weights()[0])
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
