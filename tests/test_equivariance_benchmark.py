"""The benchmark of equivariance: its figures, its table, its page."""

import importlib
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_capsules import datasets
from keras_capsules import inspection
from keras_capsules import models

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="as the claims"
)
# Almost the same images, so that the same class wins.
GENERATOR = np.random.default_rng(5)
IMAGES = GENERATOR.uniform(size=(28, 28, 1)).astype("float32")
IMAGES = IMAGES + 0.01 * GENERATOR.normal(size=(60, 28, 28, 1))


@pytest.fixture
def equivariance(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("equivariance")
    transforms = {
        name: (title, amounts[[0, -1]])
        for name, (title, amounts) in module.TRANSFORMS.items()
        if name in ("rotation", "scale")
    }
    monkeypatch.setattr(module, "TRANSFORMS", transforms)
    return module


def test_what_is_measured(equivariance):
    convolutional = models.ConvNet(filters=(3,), units=(17,))
    found = equivariance.measure(convolutional, IMAGES)
    assert set(found) == {"16", "all"}
    for numbers, components in (("16", 16), ("all", None)):
        expected = inspection.equivariance(
            convolutional, IMAGES, "scale", [0.7, 1.3], components=components
        )
        assert found[numbers]["scale"] == pytest.approx(expected[:3], abs=1e-4)
    # The pose of a capsule has 16 numbers as it is.
    capsules = models.CapsNet(
        filters=4, primary_dim=4, num_primary_capsules=2, decoder_units=None
    )
    found = equivariance.measure(capsules, IMAGES)
    assert set(found) == {"16"} and set(found["16"]) == {"rotation", "scale"}
    expected = inspection.equivariance(capsules, IMAGES, "rotation", [-30, 30])
    assert found["16"]["rotation"] == pytest.approx(expected[:3], abs=1e-4)


def test_page(equivariance, tmp_path, monkeypatch):
    labels = np.zeros(len(IMAGES), int)
    monkeypatch.setattr(
        datasets, "load_arrays", lambda *_, **__: (IMAGES, labels)
    )
    figures = {"16": [0.5, 0.6], "all": [0.75, 0.75]}
    every_kind = ["", "", "", "-few1000"]
    records = [
        {"network": network, "parameters": 7, "seed": seed, "commits": []}
        for network, seed in (
            ("efficient_capsnet", 0),
            ("conv_net", 0),
            ("conv_net", 1),
            ("capsnet", 1),
        )
    ]
    monkeypatch.setattr(
        equivariance.recorded,
        "recorded",
        lambda folder, kinds, networks: {
            f"mnist-{each['network']}{kind}-seed{each['seed']}": each
            for kind, each in zip(every_kind, records, strict=True)
        },
    )
    monkeypatch.setattr(
        equivariance.recorded, "load", lambda name, record, arguments: record
    )

    def measure(model, images):
        assert len(images) == 50
        kinds = ["16"] if "capsnet" in model["network"] else ["16", "all"]
        return {
            kind: {
                name: [figures[kind][model["seed"]], 0, 1]
                for name in equivariance.TRANSFORMS
            }
            for kind in kinds
        }

    monkeypatch.setattr(equivariance, "measure", measure)
    page = tmp_path / "docs" / "inspection.md"
    page.parent.mkdir()
    page.write_text((ROOT / "docs" / "inspection.md").read_text())
    arguments = ["equivariance", "--images=50", f"--page={page}"]
    arguments += [f"--output={tmp_path}"]
    monkeypatch.setattr("sys.argv", arguments)
    equivariance.main()
    text = page.read_text()
    for row in (
        "| R² of | seeds | numbers | rotation, ±30° | scale, 0.7 to 1.3 |",
        "| EfficientCapsNet | 1 | 16 | 0.500 | 0.500 |",
        "| ConvNet | 2 | 16 | 0.550 ± 0.071 | 0.550 ± 0.071 |",
        "| ConvNet | 2 | all | 0.750 ± 0.000 | 0.750 ± 0.000 |",
        "10,000 images, 10 epochs:",
        "| CapsNet | 1 | 16 | 0.600 | 0.600 |",
    ):
        assert f"\n{row}\n" in text
    results = json.loads((tmp_path / "equivariance.json").read_text())
    found = results["networks"]["mnist-conv_net-seed1"]
    assert found["r2"]["16"]["scale"] == [0.6, 0, 1]
    monkeypatch.setattr("sys.argv", [*arguments, "--redraw"])
    equivariance.main()
    assert page.read_text() == text
