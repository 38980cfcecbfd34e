"""The benchmark of the explorer: `make test-browser`."""

import importlib
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.browser


def test_strokes_are_measured(chromium, explorer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    stroke = importlib.import_module("stroke")
    page = chromium.new_page()
    page.goto(explorer)
    times = stroke.times_of(page, 6)
    assert len(times) == 6
    # The next stroke begins when the last one is answered.
    assert all(0 < each < 60_000 for each in times)
    page.close()
    monkeypatch.setattr(stroke, "measure", lambda number: [*range(number)])
    arguments = ["stroke", "--strokes=5", "--warm-up=4"]
    monkeypatch.setattr("sys.argv", [*arguments, f"--output={tmp_path}"])
    stroke.main()
    found = json.loads((tmp_path / "stroke.json").read_text())
    assert (found["strokes"], found["median_ms"]) == (5, 6)
    assert found["largest_ms"] == 8
