"""The benchmark of costs: when it stops, its page and its picture."""

import importlib
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_capsules import datasets

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="measures TensorFlow"
)


@pytest.fixture
def cost(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("cost")


def test_it_stops_where_enough_are_right(cost, monkeypatch):
    generator = np.random.default_rng(1)
    images = generator.uniform(0, 0.2, (70, 28, 28, 1)).astype("float32")
    labels = np.arange(70) % 2
    images[labels == 1, 4:20, 4:20] = 1
    monkeypatch.setattr(
        datasets, "load_arrays", lambda *_, **__: (images, labels)
    )
    found = cost.measure("conv_net", 3, 0.9, 200, None)
    assert found["steps"] in (50, 100, 150, 200)
    assert found["parameters"] == 159_254
    # Seconds of so many steps, of which an epoch has 937.
    each = found["seconds"] / found["steps"]
    assert each == pytest.approx(found["seconds_per_epoch"] / 937, rel=0.05)
    assert found["peak_mib"] > 0
    found = cost.measure("conv_net", 3, 1.1, 50, None)
    assert found["steps"] is None and found["seconds"] is None


def test_page_and_picture(cost, tmp_path, monkeypatch, capsys):
    change = 0

    def measure(function, name, seed, *arguments):
        assert function is cost.measure and arguments == (0.99, 4000, None)
        return {
            "seed": seed,
            "parameters": 1234,
            "seconds_per_epoch": 10.0 + seed + change,
            "peak_mib": 100,
            "steps": None if name == "conv_net" and seed else 50,
            "seconds": None if name == "conv_net" and seed else 0.5,
        }

    monkeypatch.setattr(cost.harness, "call", measure)
    page = tmp_path / "docs" / "claims.md"
    page.parent.mkdir()
    page.write_text((ROOT / "docs" / "claims.md").read_text())
    arguments = ["cost", f"--page={page}", f"--output={tmp_path}"]
    monkeypatch.setattr("sys.argv", arguments)
    cost.main()
    text = page.read_text()
    first = "| 1,234 | 11 (10 to 12) | 100 |"
    assert f"| EfficientCapsNet {first} 0.5 | 50 |" in text
    assert f"| ConvNet {first} not reached | not reached |" in text
    assert (page.parent / "claims-cost.png").stat().st_size > 1000
    results = json.loads((tmp_path / "cost.json").read_text())
    assert len(results["networks"]["squeeze_excitation_net"]) == 3
    monkeypatch.setattr("sys.argv", [*arguments, "--redraw"])
    cost.main()
    assert page.read_text() == text
    # Others than those that are asked for stay as they are.
    change = 50
    monkeypatch.setattr(
        "sys.argv", [*arguments, "--networks", "conv_net", "--seeds", "1", "5"]
    )
    cost.main()
    assert "| EfficientCapsNet | 1,234 | 11 (10 to 12) " in page.read_text()
    assert "| ConvNet | 1,234 | 36.5 (10 to 65) | 100 " in page.read_text()
    results = json.loads((tmp_path / "cost.json").read_text())
    rows = results["networks"]["conv_net"]
    assert [each["seed"] for each in rows] == [0, 1, 2, 5]
    commands = [each["command"] for each in rows]
    assert [" --seeds 1 5" in each for each in commands] == [0, 1, 0, 1]
    monkeypatch.setattr(cost.harness.provenance, "processor", lambda: "X")
    before = (tmp_path / "cost.json").read_bytes()
    with pytest.raises(SystemExit):
        cost.main()
    assert "Received: machine={'processor': 'X'" in capsys.readouterr().err
    assert (tmp_path / "cost.json").read_bytes() == before
