"""The benchmark of reading images: what it measures, its table."""

import importlib
import json
import pathlib
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="measures TensorFlow"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is Linux's"),
]


def test_images_are_read_and_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    data = importlib.import_module("data")
    monkeypatch.setattr(
        data.harness, "call", lambda function, *each: function(*each)
    )
    limits = []
    monkeypatch.setattr("resource.setrlimit", lambda *each: limits.append(each))
    page = tmp_path / "page.md"
    page.write_text(data.PAGE.read_text())
    arguments = ["data", f"--output={tmp_path}", f"--page={page}"]
    sizes = ["--images=57", "--size=23", "--shards=3", "--batch=7"]
    monkeypatch.setattr("sys.argv", [*arguments, *sizes])
    data.main()
    found = json.loads((tmp_path / "data.json").read_text())["processes"]
    # Of 57 images in 3 files, one process has 2 files and one a single one, but
    # all have as many steps.
    images = [each["images"] for each in found.values()]
    assert images == [56, 14, 14]
    for each in found.values():
        assert 0 < each["waiting"] < 100 and each["seconds"] >= 0
        assert 0 <= each["memory_mib"] < 500
    assert len(limits) == 3  # one in each process
    # Pixels are floats of 32 bits.
    assert found["all of them"]["decoded_mib"] == round(
        56 * 23 * 23 * 3 * 4 / 2**20
    )
    text = page.read_text()
    assert "| all of them | 56 |" in text and "| 1 of 2 | 14 |" in text
    monkeypatch.setattr("sys.argv", [*arguments, "--redraw"])
    data.main()
    assert page.read_text() == text
