"""Every benchmark runs, on tiny sizes, and all forms compute the same."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_capsules.routing import ROUTINGS

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
# Modules that measure nothing.
SHARED = {"harness", "forms", "recorded", "runtimes", "textbook"}
# Those of trained networks, exports, data and the explorer have tests of their
# own.
OF_EVIDENCE = {
    "data",
    "trainings",
    "evidence",
    "claims",
    "weights",
    "cost",
    "equivariance",
    "readme",
    "formats",
    "pruning",
    "serving",
    "stroke",
}
SMALL = ["--backends=tensorflow", "--batch=2", "--inputs=20", "--outputs=2"]
RUNS = {
    "speed": (
        [
            *SMALL,
            "--repeats=1",
            "--routings=self_attention",
            "--eager-outputs=2",
        ],
        {"forms", "largest_difference", "eager", "against_baseline"},
    ),
    "memory": (
        [*SMALL, "--routings=self_routing", "--large-batch=0"],
        {"step_mib"},
    ),
    "growth": (
        [
            "--backends=tensorflow",
            "--repeats=1",
            "--shrink=8",
            "--points=2",
            "--sweeps=batch",
        ],
        {"base", "sweeps"},
    ),
    "network": (
        [
            "--repeats=1",
            "--batch=2",
            "--filters=4",
            "--xla-repeats=0",
            "--first-steps=0",
        ],
        {"step_ms", "latency_ms", "ratios", "first_step_seconds"},
    ),
    "devices": (
        [
            "--repeats=1",
            "--classes=4",
            "--batch=4",
            "--filters=4",
            "--capsules=4",
        ],
        {"classes", "kinds"},
    ),
    "networks": (
        [
            "--repeats=1",
            "--only=ConvNet",
            "--epochs=1",
            "--images=32",
            "--validation=1",
        ],
        {"digits"},
    ),
}

only_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="they begin all backends"
)


@pytest.mark.slow  # they begin many processes
@only_tensorflow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is Linux's")
@pytest.mark.parametrize("name", RUNS)
def test_benchmark_runs(name, tmp_path):
    options, keys = RUNS[name]
    script = str(BENCHMARKS / f"{name}.py")
    if name == "devices":  # it also writes a table
        page = tmp_path / "page.md"
        page.write_text("<!-- devices --><!-- end of devices -->")
        options = [*options, f"--page={page}"]
    finished = subprocess.run(
        [sys.executable, script, f"--output={tmp_path}", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert finished.returncode == 0, finished.stderr
    text = (tmp_path / f"{name}.json").read_text()
    results = json.loads(text)
    assert keys < set(results)
    assert {"commit", "command", "date", "machine", "versions"} < set(results)
    # Results are published: they name no folder of this machine.
    assert str(tmp_path.parent) not in text
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    if name == "devices":
        assert "\n| batch, 4 | " in page.read_text()


def test_every_benchmark_is_tested_and_made():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - SHARED
    assert scripts == set(RUNS) | OF_EVIDENCE
    makefile = (BENCHMARKS.parent / "Makefile").read_text()
    for name in scripts:
        assert f"benchmarks/{name}.py" in makefile


# What devices hold, and what they tell each other.

SIZES = {"classes": 12, "batch": 4, "filters": 4, "capsules": 4}
INPUTS = 3 * 3 * SIZES["capsules"]
KERNEL = INPUTS * 8 * SIZES["classes"] * 16


@pytest.fixture
def sharing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import devices

    return devices


def measured(sharing, kind):
    import harness

    arguments = (*sharing.KINDS[kind], SIZES, 1)
    return harness.call(sharing.measure, *arguments, backend="jax")


@only_tensorflow
def test_what_shared_classes_cost(sharing):
    found = measured(sharing, "classes, 2")
    # Of the kernel and two moments of it, each device has a half.
    assert found["state_mib"] < 0.6 * 3 * 4 * KERNEL / 2**20
    # Maxima and sums of the softmax over classes, and the gradient of poses:
    # numbers of input capsules, but never matrices or votes.
    assert set(found["collectives"]) == {"all-reduce"}
    assert found["largest"] <= SIZES["batch"] * INPUTS * 8


@pytest.mark.slow
@only_tensorflow
def test_what_other_ways_to_share_cost(sharing):
    one = measured(sharing, "one device")
    assert one["collectives"] == {}
    assert one["state_mib"] > 3 * 4 * KERNEL / 2**20
    batch = measured(sharing, "batch, 2")
    # Only the sums of gradients.
    assert set(batch["collectives"]) == {"all-reduce"}
    assert batch["state_mib"] == one["state_mib"]
    assert batch["largest"] == KERNEL
    inputs = measured(sharing, "input capsules, 2")
    assert inputs["state_mib"] < 0.6 * one["state_mib"]
    # Sums of votes, and the gradient of poses.
    assert set(inputs["collectives"]) == {"all-reduce", "all-gather"}
    assert inputs["largest"] < KERNEL / 2
    # Twice as many devices hold half as much each.
    for kind in ("classes", "input capsules"):
        quarter = measured(sharing, f"{kind}, 4")
        assert quarter["state_mib"] < 0.35 * one["state_mib"]


def test_collective_operations_are_counted(sharing):
    text = """
  %all-reduce.1 = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1
  ROOT %x = f32[7]{0} all-gather-start(%c), dimensions={0}
  %y = f32[7]{0} all-gather-done(%x)
  %z = f32[5]{0} add(%all-reduce.1, %y)
"""
    assert sharing.collectives(text) == {
        "all-reduce": [6, 1],
        "all-gather": [7],
    }


# Textbook forms.

NAMES = (*ROUTINGS, "dynamic, stop_gradient")


@pytest.fixture
def forms(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import forms

    return forms


@pytest.fixture
def float64():
    """Without it, some forms differ by rounding errors of one example."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(policy)


def make(forms, name, training):
    """All forms of a routing at a small shape, and their arguments."""
    shape = forms.shape_of(name, batch=3, inputs=20, outputs=4)
    layer = forms.make_layer(name, shape)
    tensors = forms.operands(layer, shape)
    return forms.all_forms(name, layer, training), tensors


def test_every_textbook_form_is_that_of_a_routing(forms):
    assert set(forms.textbook.FORMS) <= set(NAMES)
    assert sorted(NAMES) == sorted(forms.names())


@only_tensorflow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_forms_have_the_same_outputs(name, training, forms, float64):
    found, tensors = make(forms, name, training)
    ours = keras.tree.flatten(found.pop("ours")(*tensors))
    assert found
    for form in found.values():
        theirs = keras.tree.flatten(form(*tensors))
        for x, y in zip(ours, theirs, strict=True):
            x, y = map(keras.ops.convert_to_numpy, (x, y))
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)


@only_tensorflow
@pytest.mark.parametrize("name", NAMES)
def test_forms_have_the_same_gradients(name, forms, float64):
    found, tensors = make(forms, name, training=True)
    ours = forms.with_gradients(found.pop("ours"))(*tensors)
    for form in found.values():
        theirs = forms.with_gradients(form)(*tensors)
        for x, y in zip(ours, theirs, strict=True):
            x, y = map(keras.ops.convert_to_numpy, (x, y))
            np.testing.assert_allclose(x, y, atol=1e-9 * np.abs(y).max())


def test_pictures_say_what_was_not_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import harness

    texts = []
    monkeypatch.setattr(
        harness,
        "save",
        lambda figure, *_: texts.extend(
            text.get_text() for axis in figure.axes for text in axis.texts
        ),
    )
    groups = {"group": {"none": None, "zero": 0.0, "short": 1.0, "long": 99.0}}
    harness.draw("picture", {"row": {"": groups}}, tmp_path, {"row": "ms"})
    assert sorted(texts) == [
        "0",
        "1",
        "99",
        "none: not measured",
    ]
