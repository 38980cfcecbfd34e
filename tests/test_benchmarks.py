"""Every benchmark runs, on sizes that tell nothing."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
RUNS = {
    "speed": (
        ["--batch=2", "--outputs=2", "--routings=2"],
        {"dynamic_ms", "self_attention_ms", "routings_ms"},
    ),
    "memory": (
        ["--large=0", "--routings=0"],
        {"mnist_mib", "gradients_mib"},
    ),
    "growth": (
        ["--shrink=2", "--points=2", "--sweeps=1"],
        {"sweeps", "tracing"},
    ),
    "network": (
        ["--batch=2", "--filters=4", "--xla-repeats=0"],
        {"step_ms", "latency_ms", "ratios"},
    ),
    "networks": (
        ["--only=ConvNet", "--epochs=1", "--images=32", "--validation=1"],
        {"digits"},
    ),
}


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="they measure TensorFlow"
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is Linux's")
@pytest.mark.parametrize(
    "name",
    # Two of these begin many processes, the third traces five networks.
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("growth", "memory", "network")
        else name
        for name in RUNS
    ],
)
def test_benchmark_runs(name, tmp_path):
    options, keys = RUNS[name]
    finished = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / f"{name}.py"),
            "--repeats=1",
            f"--output={tmp_path}",
            *options,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert keys < set(results)
    assert {"commit", "command", "machine", "versions"} < set(results)
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_every_benchmark_is_tested_and_made():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"harness"}
    assert scripts == set(RUNS)
    makefile = (BENCHMARKS.parent / "Makefile").read_text()
    for name in scripts:
        assert f"benchmarks/{name}.py" in makefile
