"""Training by the command line: every option, and runs that are killed."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import models
from keras_capsules.datasets import viewpoints
from keras_capsules.training import augmentation
from keras_capsules.training import records
from keras_capsules.training import resumable
from keras_capsules.training import running
from keras_capsules.training import tasks
from keras_capsules.training.records import PROGRESS
from keras_capsules.training.records import Progress
from keras_capsules.training.settings import Settings
from keras_capsules.training.task import Task
from keras_capsules_cli import commands
from keras_capsules_cli import options
from tests.helpers.testing import numpy

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = {
    "filters": [7, 11, 13],
    "num_primary_capsules": 5,
    "decoder_units": [17],
    "reconstruction_weight": 0.006,
}
# Everything that has a state: averages, a schedule, an order, random changes.
COMMAND = [
    *("efficient_capsnet", "digits", "--options", json.dumps(SMALL)),
    *("--epochs", "5", "--batch-size", "61", "--learning-rate", "0.005"),
    *("--average", "0.9", "--warmup", "1", "--shift", "1", "--rotation", "9"),
    *("--noise", "0.1", "--seed", "3", "--test"),
]


def train(arguments, folder):
    """The record of a training with these arguments of the command."""
    parsed = options.make_parser().parse_args(["train", *arguments])
    settings = Settings.from_record(vars(parsed))
    command = " ".join(map(str, arguments))
    return running.train(settings, folder, test=parsed.test, command=command)


def start(folder):
    return subprocess.Popen(
        [sys.executable, EXAMPLES / "train.py", *COMMAND, "--output", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def results_of(folder):
    (folder,) = folder.iterdir()
    record = json.loads((folder / "record.json").read_text())
    weights = sorted(folder.glob("weights-*.npz"))
    with np.load(*weights) as arrays:
        return record, [arrays[name] for name in arrays.files]


def test_an_augmentation_moves_images_as_it_says():
    """Seen in where single pixels go, and that nothing of them is lost."""
    images = np.zeros((13, 11, 11, 1), "float32")
    images[:, 5, 5] = 1.0
    change = augmentation.Augmentation(shift=3)
    once = np.asarray(change(images, 1, 7))
    np.testing.assert_array_equal(once, np.asarray(change(images, 1, 7)))
    assert not np.allclose(once, np.asarray(change(images, 2, 7)))
    assert not np.allclose(once, np.asarray(change(images, 1, 8)))
    rows, columns = np.mgrid[:11, :11]
    mass = once[..., 0].sum(axis=(1, 2))
    np.testing.assert_allclose(mass, 1.0, atol=1e-5)
    down = (once[..., 0] * rows).sum(axis=(1, 2)) - 5
    right = (once[..., 0] * columns).sum(axis=(1, 2)) - 5
    for each in (down, right):
        assert np.abs(each).max() <= 3
        assert each.min() < -1
        assert each.max() > 1
    # The middle stays where it is.
    for option in ({"rotation": 30}, {"scale": 0.3}, {"shear": 0.3}):
        turned = augmentation.Augmentation(**option)(images, 1, 7)
        np.testing.assert_allclose(turned[:, 5, 5], 1.0, atol=1e-5)


@pytest.mark.parametrize("angle", [0, 37, 90, -90])
def test_a_shear_keeps_areas(angle):
    """Whatever the rotation: images are turned first, then slanted."""
    images = np.zeros((2, 81, 81, 1), "float32")
    images[:, 30:51, 30:51] = 1
    one = tf.ones(2)
    moved = viewpoints.moved(
        *(images, np.deg2rad(angle) * one, tf.constant([0.5, -0.3])),
        *(1.2 * one, 0.9 * one, 0 * one, 0 * one),
    )
    areas = moved.numpy().sum(axis=(1, 2, 3))
    np.testing.assert_allclose(areas, 21 * 21 * 1.2 * 0.9, rtol=0.01)


@pytest.mark.parametrize(
    ("option", "value"),
    [("flip", True), ("erase", 4), ("brightness", 0.5), ("noise", 0.1)],
)
def test_other_augmentations(option, value):
    numbers = np.random.default_rng(3)
    images = numbers.uniform(0.1, 0.6, (17, 9, 9, 2)).astype("float32")
    found = np.asarray(
        augmentation.Augmentation(**{option: value})(images, 0, 0)
    )
    assert found.min() >= 0
    assert found.max() <= 1
    changed = ~np.isclose(found, images).all(axis=-1)
    share = changed.mean(axis=(1, 2))
    if option == "flip":
        flipped = share > 0
        assert 3 < flipped.sum() < 14
        np.testing.assert_array_equal(found[flipped], images[flipped, :, ::-1])
    elif option == "erase":
        assert np.all(found[changed] == 0.5)
        assert (share * 81 <= 25).all()
        assert (share > 0).all()
    else:
        assert (share > 0.9).all()
    if option == "brightness":
        ratios = found / images
        flat = ratios.reshape(17, -1)
        clipped = (found == 1).reshape(17, -1)
        for one, cut in zip(flat, clipped, strict=True):
            assert np.ptp(one[~cut]) < 1e-4
            assert 0.5 <= one[~cut][0] <= 1.5


def test_every_pass_has_every_example_once():
    task = tasks.get("digits", seed=5)
    number = task.num_examples
    assert number == 1293
    both = list(task.train(0, 2 * number).as_numpy_iterator())
    passes = [
        np.array([image.tobytes() for image, _ in part])
        for part in (both[:number], both[number:])
    ]
    assert sorted(passes[0]) == sorted(passes[1])
    assert (passes[0] != passes[1]).mean() > 0.9
    # From anywhere, as it would have gone on.
    later = list(task.train(number + 7, number + 9).as_numpy_iterator())
    for (one, _), (other, _) in zip(later, both[number + 7 :][:2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(tasks.get("digits", validated=False).train(0, 9)) == 9


def test_a_few_images_of_each_class():
    found = []
    for seed in (0, 0, 1):
        task = tasks.get("digits", seed, per_class=3)
        assert task.num_examples == 30
        examples = list(task.train(0, 60).as_numpy_iterator())
        assert np.bincount([x for _, x in examples]).tolist() == [6] * 10
        found.append({image.tobytes() for image, _ in examples})
        assert len(found[-1]) == 30
    assert found[0] == found[1] and len(found[0] & found[2]) < 10
    with pytest.raises(ValueError, match="Expected at most 12.*per_class=130"):
        tasks.get("digits", per_class=130)
    with pytest.raises(
        ValueError, match="chosen by class.*per_class=3 and.*co"
    ):
        tasks.get("coil20", validated=False, per_class=3)


@pytest.mark.parametrize("average", [True, False])
def test_weights_have_statistics_of_their_own(average):
    """Means and variances of what the kernels that are used make of images."""
    generator = np.random.default_rng(3)
    images = generator.uniform(size=(50 * 16, 5, 5, 1)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, images[:, 0, 0, 0]))
    model = models.ConvNet((5, 5, 1), 3, (4,), normalization="batch")
    optimizer = keras.optimizers.SGD(0.1, use_ema=average, ema_momentum=0.5)
    model.compile(optimizer)
    model.optimizer.build(model.trainable_variables)
    gradients = [keras.ops.ones(x.shape) for x in model.trainable_variables]
    for _ in range(3):
        model.optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
    before = [numpy(each) for each in model.variables]
    convolution = model.get_layer("convolution_1")
    normalization = model.get_layer("normalization_1")
    with resumable.as_it_is_used(lambda first: data.batch(16), 50, model):
        used = numpy(convolution.kernel)
        made = numpy(convolution(images))
        np.testing.assert_allclose(
            numpy(normalization.moving_mean),
            made.mean(axis=(0, 1, 2)),
            rtol=1e-4,
        )
        np.testing.assert_allclose(
            numpy(normalization.moving_variance),
            np.stack(
                [part.var(axis=(0, 1, 2)) for part in np.split(made, 50)]
            ).mean(axis=0),
            rtol=1e-3,
        )
    # 0.1 less in each step: the mean of 0, 1 and 2 with weights 1, 1 and 2.
    difference = 0.075 if average else 0.0
    np.testing.assert_allclose(used - before[0], difference, atol=1e-6)
    assert normalization.momentum == 0.99
    for value, each in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, numpy(each))


def test_an_epoch_of_several_passes(tmp_path):
    arguments = ["--per-class", "2", "--passes", "4", "--batch-size", "16"]
    arguments += ["--epochs", "3", "--options", json.dumps(SMALL)]
    record = train([*COMMAND[:2], *arguments], tmp_path)
    assert record["settings"]["passes"] == 4 and record["epochs"] == 3
    assert record["device"]
    with np.load(next(tmp_path.glob("state-0003.npz"))) as arrays:
        numbers = [float(x) for x in arrays.values() if not x.ndim]
    assert 3 * 80 // 16 in numbers  # the optimizer's steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "2000"], "Expected at most 1293. Received: batch_si"),
        (["--options", '{"filters": 0}'], "`filters`.*Received"),
        (["--average", "0.999"], "Expected at most 0.9772 for 200 s"),
        (
            ["--no-validation", "--patience", "1"],
            "Expected patience=None with no_validation=True. Received: patien",
        ),
        (["--image-size", "64"], "None for a data set.*Received: image_size="),
        (["--color-mode", "rgb"], "None for a data set.*'rgb' and task='digit"),
        (["--scale", "1"], "`scale` to be below 1. Received: scale=1.0"),
        (["--seed", str(2**32)], "from 0 to 4294967295. Received: seed"),
        (
            ["--options", '{"num_classes": 3, "filtres": 5}'],
            "Expected options of EfficientCapsNet: filters, kernel_sizes.*"
            "Received: 'num_classes', 'filtres'",
        ),
    ],
)
def test_errors_before_training(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train([*COMMAND[:2], *arguments], tmp_path)


@pytest.mark.parametrize("value", [np.float32(0.1), {1, 2}, len])
def test_options_that_a_record_cannot_hold(value):
    with pytest.raises(ValueError, match="JSON can hold.*Received: options="):
        Settings("conv_net", "digits", options={"dropout": value})
    with pytest.raises(ValueError, match="`options`.*Received: options=7"):
        Settings("conv_net", "digits", options=7)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("conv_net", {"filters": [4], "units": [5]}),
        ("efficient_capsnet", {**SMALL, "filters": [4], "kernel_sizes": 3}),
    ],
)
def test_two_objects(network, options, tmp_path, monkeypatch):
    """Only a decoder takes the images of each object."""
    labels = {
        "scores": np.eye(3)[[0, 1, 2, 0, 1]] + np.eye(3)[[1, 2, 0, 2, 0]],
        "targets": np.ones((5, 2, 9, 9, 1), "float32"),
        "target_classes": np.array([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]]),
    }
    images = np.ones((5, 9, 9, 1), "float32")
    data = tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
    pairs = Task(
        *((9, 9, 1), 3, 20, lambda first, last: data.take(last - first)),
        *(None, None, 2, ("a", "b", "c")),
    )
    monkeypatch.setattr(running, "get_task", lambda *_: pairs)
    arguments = ["--no-validation", "--epochs", "1", "--batch-size", "10"]
    arguments += ["--options", json.dumps(options)]
    for change, found in (
        ("--shift=1", "shift=1.0$"),
        ("--flip", "flip=True$"),
    ):
        with pytest.raises(ValueError, match=f"not changed.*Received: {found}"):
            train([network, "multi_mnist", *arguments, change], tmp_path)
    record = train([network, "multi_mnist", *arguments], tmp_path)
    assert record["epochs"] == 1 and np.isfinite(record["curve"][0]["loss"])


def test_a_finished_run_is_not_another_one(tmp_path, monkeypatch):
    """The record says what trained, and the test images are looked at once."""
    np.savez(tmp_path / "mine.npz", [1.0])
    (tmp_path / "state-of-the-art.npz").touch()
    arguments = [*COMMAND[:4], "--epochs", "2", "--per-class", "9"]
    arguments += ["--batch-size", "30"]
    untested = train(arguments, tmp_path)
    first = train([*arguments, "--test"], tmp_path)
    assert 0 < first["test_error"] <= 100
    assert first["command"].endswith("--test")
    others = {"test_error", "test", "command"}
    assert {x: first[x] for x in first if x not in others} == {
        x: untested[x] for x in untested if x not in others
    }
    monkeypatch.setattr(running.provenance, "commit", lambda: "another")
    monkeypatch.setattr(
        running.records, "environment", lambda model: {"backend": "another"}
    )
    monkeypatch.setattr(running, "_measure_test", None)
    for further in ([], ["--test"]):
        assert train([*arguments, *further], tmp_path) == first
    # Of what else is there, nothing is deleted.
    names = {path.name for path in tmp_path.glob("*.npz")}
    assert {"mine.npz", "state-of-the-art.npz"} < names and len(names) == 4
    # The record of another run is not taken for it.
    (tmp_path / "progress.json").unlink()
    again = train([*arguments, "--seed", "4"], tmp_path)
    assert "test_error" not in again and again["commits"] == ["another"]
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(ValueError, match="is broken"):
        train([*arguments, "--seed", "4"], tmp_path)


@pytest.mark.parametrize(
    "useless", [{"patience": 3, "no_validation": True}, {"scale": 1.5}]
)
def test_runs_of_earlier_versions_can_be_read(useless, tmp_path):
    record = {"network": "conv_net", "task": "digits", **useless}
    settings = Settings.from_record(record)
    with pytest.raises(ValueError, match="Expected.*Received: "):
        running.train(settings, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_run_goes_on_with_its_backend(tmp_path, monkeypatch):
    started = Progress({})
    started.begin("none", {"backend": "jax"})  # killed in its first epoch
    started.begin("one", {"backend": "jax"})
    started.epoch = 1
    started.begin("two", {"backend": "jax", "device": "cpu"})
    assert started.commits == ["one", "two"]
    assert started.environment["device"] == "cpu"
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax. Received: 'ten"):
        started.begin("two", {"backend": "tensorflow"})
    # Nothing was trained yet, or nobody noted it.
    for free in (Progress({}, environment={"backend": "jax"}), Progress({}, 3)):
        free.begin("", {"backend": "tensorflow"})
        assert free.environment == {"backend": "tensorflow"}


def test_a_run_of_another_backend_stays_as_it_is(tmp_path, monkeypatch):
    arguments = ["conv_net", "digits", "--epochs=2", "--per-class=9"]
    arguments += ["--options", '{"filters": [5], "units": [7]}']
    stop = pytest.raises(InterruptedError)
    with stop, monkeypatch.context() as patch:

        def tidy(keeper):
            raise InterruptedError

        patch.setattr(resumable._Keeper, "_tidy", tidy)
        train(arguments, tmp_path)
    other = {"backend": "another", "device": "", "versions": {}}
    monkeypatch.setattr(running.records, "environment", lambda model: other)
    before = {x: x.read_bytes() for x in tmp_path.rglob("*") if x.is_file()}
    settings = Settings.from_record(
        vars(options.make_parser().parse_args(["train", *arguments]))
    )
    with pytest.raises(ValueError, match="Expected KERAS_BACKEND=.*'another'"):
        running.train(settings, tmp_path, tensorboard=True)
    after = {x: x.read_bytes() for x in tmp_path.rglob("*") if x.is_file()}
    assert after == before


def test_a_folder_with_another_run(tmp_path):
    Progress({"epochs": 3}).write(tmp_path)
    assert Progress.of_folder(tmp_path, {"epochs": 3}).epoch == 0
    with pytest.raises(ValueError, match="run of other settings.*Received"):
        Progress.of_folder(tmp_path, {"epochs": 4})


@pytest.mark.parametrize("content", ["{", "[]", '{"epoch": 1}'])
def test_a_broken_file_of_progress(tmp_path, content):
    (tmp_path / PROGRESS).write_text(content)
    with pytest.raises(ValueError, match="is broken.*Expected progress.json"):
        Progress.of_folder(tmp_path, {"epochs": 3})


def test_a_broken_file_of_variables(tmp_path):
    path = tmp_path / "state.npz"
    variables = [keras.Variable(np.ones(each)) for each in (3, 5)]
    resumable.write(path, variables)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="is broken.*Expected state.npz"):
        resumable.read(path, variables[:1])
    for wrong in (b"", b"PK", whole[:-9], whole[:99] + whole[120:]):
        path.write_bytes(wrong)
        with pytest.raises(
            ValueError, match="is broken.*Expected state.npz"
        ) as raised:
            resumable.read(path, variables)
        message = str(raised.value)
        assert f"remove the folder {str(tmp_path)!r}, or choose" in message
        # Neither an option of one command nor NumPy's unsafe advice.
        assert "--name" not in message and "pickle" not in message


def test_figures_that_are_not_finite():
    records.check_finite({"loss": 0.5, "accuracy": 0.0}, 3)
    message = "diverged in epoch 3, which is not kept.* Received: loss=nan$"
    with pytest.raises(ValueError, match=message):
        records.check_finite({"loss": np.nan, "accuracy": 0.5}, 3)


def test_the_command_without_folders():
    argv = ["train", "capsnet", "mnist", "--output", "/x", "--data-dir=/y"]
    assert commands.recorded(argv) == "keras-capsules train capsnet mnist"


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        ([(0.5, 0.3), (0.5, 0.2), (0.5, 0.25)], [1, 2, 2]),
        ([(0.5, 0.3), (0.7, 0.9), (0.6, 0.1)], [1, 2, 2]),
    ],
)
def test_the_best_epoch(curve, best, tmp_path):
    """The highest accuracy and, among equals, the least loss."""
    progress = Progress({})
    model = models.ConvNet((5, 5, 1), 3, (4,))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    found = iter(curve)
    model.evaluate = lambda *_, **__: dict(
        zip(("accuracy", "loss"), next(found), strict=True)
    )
    keeper = resumable._Keeper(
        model, ["data"], progress, tmp_path, None, lambda _: nullcontext()
    )
    keeper.set_params({"epochs": 3})
    for epoch, expected in enumerate(best):
        keeper.on_epoch_end(epoch)
        assert progress.best_epoch == expected


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_result(tmp_path):
    finish(start(tmp_path / "whole"))
    record, weights = results_of(tmp_path / "whole")
    numbers = random.Random(3)
    kills = 0
    for epoch in range(3):
        process = start(tmp_path / "killed")
        progress = (
            tmp_path / "killed/efficient_capsnet-digits" / "progress.json"
        )
        while not (
            progress.exists()
            and json.loads(progress.read_text())["epoch"] >= epoch + 1
        ):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(numbers.uniform(0, 0.3))  # somewhere in the next epoch
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 3
    finish(start(tmp_path / "killed"))
    again, same = results_of(tmp_path / "killed")
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_array_equal(one, other)
    for key in record.keys() - {"seconds"}:
        assert record[key] == again[key], key
    # Nothing is left of what was being written.
    names = {x.name for x in (tmp_path / "killed").glob("*/*")}
    assert names == {x.name for x in (tmp_path / "whole").glob("*/*")}
