"""No warnings and messages but those that Keras makes by itself."""

import collections
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers.testing import BACKEND

# Import, training, saving, loading, export, and the SavedModel, of a network
# of this package or of one without capsules.
LIFE = """
import sys
import warnings

warnings.simplefilter("always")
import keras
import numpy as np

kind, backend, folder = sys.argv[1:]


def say(text):
    print(f"# {text}", file=sys.stderr, flush=True)


say("import")
if kind == "capsules":
    import keras_capsules
say("model")
if kind == "capsules":
    model = keras_capsules.models.CapsNet(
        (28, 28, 1), 10, filters=16, num_primary_capsules=32
    )
    loss = keras_capsules.MarginLoss()
else:
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="images"),
            keras.layers.Conv2D(4, 9),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
images = np.zeros((20, 28, 28, 1), "float32")
labels = np.zeros(20, int)
say("train")
model.fit(images, labels, batch_size=10, verbose=0)
say("evaluate")
model.evaluate(images, labels, verbose=0)
model.predict(images, verbose=0)
say("save")
model.save(f"{folder}/model.keras")
loaded = keras.saving.load_model(f"{folder}/model.keras")
loaded.fit(images, labels, verbose=0)
if backend != "torch":
    say("export")
    if kind == "capsules":
        keras_capsules.export_saved_model(model, f"{folder}/saved")
    else:
        model.export(f"{folder}/saved", verbose=False)
    say("load")
    import tensorflow as tf

    served = tf.saved_model.load(f"{folder}/saved")
    served.serve(images)
say("end")
"""


def messages(kind, folder):
    """The lines of each part, without numbers and TensorFlow's information."""
    process = subprocess.run(
        [sys.executable, "-c", LIFE, kind, BACKEND, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
        env={
            **os.environ,
            "KERAS_BACKEND": BACKEND,
            "TF_CPP_MIN_LOG_LEVEL": "1",
        },
    )
    part, found = "", collections.defaultdict(set)
    for line in (process.stdout + process.stderr).splitlines():
        if line.startswith("# "):
            part = line
        elif not line.startswith("I0000"):
            found[part].add(re.sub(r"[\d.:]+", "#", line))
    assert part == "# end"
    return found


@pytest.mark.slow
def test_nothing_is_said_that_keras_does_not_say(tmp_path):
    for kind in ("capsules", "plain"):
        (tmp_path / kind).mkdir()
    ours = messages("capsules", tmp_path / "capsules")
    plain = messages("plain", tmp_path / "plain")
    for part, lines in ours.items():
        assert lines <= plain.get(part, set()), part
