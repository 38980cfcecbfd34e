"""`CapsuleHealth`: figures, files for TensorBoard, and that training is as it
would be without it.
"""

import contextlib
import importlib
import pathlib
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules.callbacks import CapsuleHealth
from keras_capsules.callbacks import CapsuleHealthWarning
from keras_capsules.inspection import capsule_health
from keras_capsules.layers import CapsuleDropout
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.losses import MarginLoss
from tests.helpers import networks
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy

ROOT = pathlib.Path(__file__).parents[1] / "keras_capsules"
# The module, which has the name of its class in lower case.
MODULE = importlib.import_module("keras_capsules.callbacks.capsule_health")


def compiled(model, rate=0.001, **options):
    optimizer = keras.optimizers.Adam(rate, **options)
    model.compile(optimizer, MarginLoss(), **QUICK)
    return model


def make(name="CapsNet", **options):
    return compiled(networks.make(name), **options)


def fit(model, callback, batches=3, **options):
    number = 4 * batches
    options = {"batch_size": 4, "verbose": 0, **options}
    return model.fit(
        networks.images(number),
        networks.labels(number),
        callbacks=[] if callback is None else [callback],
        **options,
    ).history


@contextlib.contextmanager
def caught():
    """Gathers the warnings of the callback; others are errors."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", CapsuleHealthWarning)
        yield found


def messages(found):
    return [str(one.message) for one in found]


# Figures.


def test_figures_in_the_history():
    model = make()
    callback = CapsuleHealth(networks.images(7), networks.labels(7))
    history = fit(model, callback, epochs=2)
    health = capsule_health(model, networks.images(7))
    for layer in health.layers:
        expected = {
            "activation": layer.activation.mean(),
            "dead": layer.dead.mean(),
            "entropy": layer.entropy,
        }
        for name, value in expected.items():
            key = f"{layer.name}_{name}"
            if value is None:
                assert key not in history
                continue
            assert len(history[key]) == 2
            assert isinstance(history[key][1], float)
            assert history[key][1] == pytest.approx(value, rel=1e-5)
    primary = history["primary_capsules_activation"]
    assert primary[0] != primary[1]


def test_figures_of_poses_without_activations():
    model = make("InvertedAttentionCapsNet")
    history = fit(model, CapsuleHealth(networks.images(7)), batches=1)
    assert "class_capsules/classes_entropy" in history
    assert "class_capsules/classes_activation" not in history
    assert "class_scores_activation" in history


@pytest.mark.parametrize(
    ("frequency", "steps"),
    [("epoch", [0, 5, 10]), (2, [0, 2, 4, 5, 7, 9, 10]), (7, [0, 5, 10])],
)
def test_when_it_looks(frequency, steps, monkeypatch):
    model, seen = make(), []

    def look(*args):
        seen.append(int(model.optimizer.iterations))
        return capsule_health(*args)

    monkeypatch.setattr(MODULE, "capsule_health", look)
    callback = CapsuleHealth(networks.images(3), frequency=frequency)
    fit(model, callback, batches=5, epochs=2)
    assert seen == steps


# Training.


def noisy():
    """A network with states of every kind."""
    keras.utils.set_random_seed(5)
    return compiled(
        keras.Sequential(
            [
                keras.Input(networks.SHAPE),
                keras.layers.BatchNormalization(),
                PrimaryCapsules(2, 4, 3, 2),
                CapsuleDropout(0.3),
                CapsuleLayer(networks.CLASSES, 4),
                CapsuleLength(),
            ]
        )
    )


def test_training_is_the_same_without_it(tmp_path):
    results = []
    for callback in (
        None,
        CapsuleHealth(
            networks.images(7),
            networks.labels(7),
            frequency=1,
            log_dir=tmp_path,
        ),
    ):
        model = noisy()
        fit(model, callback, epochs=2, shuffle=True)
        weights = [numpy(each) for each in model.variables]
        results.append((weights, random.random(), np.random.uniform()))
    (before, *states), (after, *same) = results
    assert states == same
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, 1),
        ({}, 3),
        ({"gradient_accumulation_steps": 2}, 4),
    ],
)
def test_the_first_step_is_found(options, batches):
    model = make(rate=1.0, **options)
    with caught() as found:
        fit(model, CapsuleHealth(networks.images(3)), batches)
    (message,) = messages(found)
    assert message.startswith("learning_rate in ")


@pytest.mark.skipif(BACKEND == "torch", reason="Keras makes single steps there")
def test_several_steps_at_once():
    """Three good steps are no single one that goes too far."""
    for rate, expected in ((0.1, 0), (1.0, 1)):
        model = noisy()
        model.compile(
            keras.optimizers.Adam(rate),
            MarginLoss(),
            steps_per_execution=3,
            **QUICK,
        )
        with caught() as found:
            fit(model, CapsuleHealth(networks.images(3)), batches=6)
        assert len(messages(found)) == expected


def test_each_training_is_warned_of_once():
    callback = CapsuleHealth(255 * networks.images(3), frequency=1)
    model = make()
    for _ in range(2):
        with caught() as found:
            fit(model, callback, epochs=2)
        (message,) = messages(found)
        assert message.startswith("large_pixels in ")


# TensorBoard.


def events_in(folder):
    """The events of all files: names, steps and tensors."""
    found = {}
    for path in sorted(folder.glob("*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found.setdefault((plugin, value.tag), {})[event.step] = (
                    tf.make_ndarray(value.tensor)
                )
    return found


def test_files_for_tensorboard(tmp_path):
    model, images = make(), networks.images(11)
    fit(model, CapsuleHealth(images, log_dir=tmp_path / "logs"))
    events = events_in(tmp_path / "logs")
    health = capsule_health(model, images)
    primary, classes = health.layers
    for layer in health.layers:
        for name, value in {
            "activation": layer.activation.mean(),
            "dead": layer.dead.mean(),
            "norm": layer.norm[1],
        }.items():
            values = events["scalars", f"{layer.name}/{name}"]
            assert sorted(values) == [0, 3]
            assert values[3] == pytest.approx(value, rel=1e-5)
    entropy = events["scalars", "class_capsules/entropy"][3]
    assert entropy == pytest.approx(classes.entropy, rel=1e-5)
    assert ("scalars", "primary_capsules/entropy") not in events
    width, height, *pictures = events["images", "reconstructions"][3]
    assert (int(width), int(height), len(pictures)) == (16, 8, 8)
    drawn = numpy(model.reconstruct(images[:8]))
    both = np.concatenate([images[:8], drawn], axis=2)
    for picture, expected in zip(pictures, both, strict=True):
        pixels = tf.io.decode_png(picture).numpy() / 255
        np.testing.assert_allclose(pixels, expected, atol=0.003)


def test_no_pictures_without_a_decoder(tmp_path):
    callback = CapsuleHealth(networks.images(3), log_dir=str(tmp_path))
    fit(noisy(), callback, batches=1)
    assert {plugin for plugin, _ in events_in(tmp_path)} == {"scalars"}


# Errors and documentation.


@pytest.mark.parametrize(
    "value", ["batch", 0, -1, 1.5, None, True, np.array([1, 2])]
)
def test_bad_frequency(value):
    message = invalid("frequency", "'epoch' or a positive integer")
    with pytest.raises(ValueError, match=message):
        CapsuleHealth(networks.images(3), frequency=value)


def test_bad_log_dir(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for value, problem in (
        (5, "no path"),
        (b"logs", "no path"),
        (file, "is a file"),
        (str(file / "logs"), "'.*file' is a file"),
    ):
        message = invalid("log_dir", "the path of a folder, or None")
        with pytest.raises(ValueError, match=f"{message}.*{problem}"):
            CapsuleHealth(networks.images(3), log_dir=value)
    folder = tmp_path / "some" / "logs"
    callback = CapsuleHealth(networks.images(3), log_dir=folder)
    assert callback.log_dir == folder and not folder.exists()


def test_bad_batch_size():
    with pytest.raises(ValueError, match=invalid("batch_size", "a positive")):
        CapsuleHealth(networks.images(3), batch_size=0)


@pytest.mark.parametrize(
    ("name", "images", "labels", "message"),
    [
        ("CapsNet", np.zeros((3, 5, 5, 1)), None, r"images.shape=\(3, 5, 5"),
        ("CapsNet", np.zeros((3, 8, 8, 1)), np.zeros(2), "labels.shape"),
        ("ConvNet", np.zeros((3, 8, 8, 1)), None, "with layers of capsules"),
    ],
)
def test_errors_before_the_first_step(name, images, labels, message):
    model = make(name)
    with pytest.raises(ValueError, match=message):
        fit(model, CapsuleHealth(images, labels))
    assert int(model.optimizer.iterations) == 0


def test_all_problems_are_documented():
    found = set()
    for path in [
        ROOT / "callbacks" / "training_problems.py",
        ROOT / "inspection" / "data_diagnosis.py",
        ROOT / "inspection" / "diagnosis.py",
    ]:
        for part in path.read_text().split("Problem(\n")[1:]:
            found.add(part.split('"')[1])
    assert len(found) == 11
    for name in found:
        assert f"- `{name}`: " in CapsuleHealth.__doc__
