"""Notebooks run, and hold the pictures that they speak of."""

import importlib.util
import json
import pathlib
import re
import shutil

import pytest

from keras_capsules import datasets
from tests.helpers.pages import blocks_with_errors
from tests.helpers.testing import on_one_backend

REPOSITORY = pathlib.Path(__file__).parents[1]
FOLDER = REPOSITORY / "examples" / "notebooks"
INSPECTION = FOLDER / "inspection.ipynb"
# Those that are made of guides.
OF_GUIDES = sorted(set(FOLDER.glob("*.ipynb")) - {INSPECTION})
ALL = [*OF_GUIDES, INSPECTION]
LARGEST = 300_000


def cells(path):
    """The code cells of a notebook's file."""
    return cells_of(json.loads(path.read_text()))


def cells_of(notebook):
    found = notebook["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def names_of_errors(cell):
    """The errors that a cell raised."""
    return [
        output["ename"]
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]


def kinds_of(cell):
    """Kinds of what a cell shows, such as texts and pictures."""
    outputs = (output.get("data", {}) for output in cell["outputs"])
    return {kind for output in outputs for kind in output}


@pytest.fixture(scope="module")
def maker():
    # Its folder has names of modules that others may have, too.
    spec = importlib.util.spec_from_file_location(
        "make_notebooks", REPOSITORY / "docs" / "make_notebooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_notebooks(maker):
    assert sorted(maker.GUIDES) == [path.stem for path in OF_GUIDES]


@pytest.mark.parametrize("path", OF_GUIDES, ids=lambda path: path.stem)
def test_it_is_its_guide(path, maker):
    """The guide's code runs in tests/test_docs.py, and it is the same."""
    guide = (REPOSITORY / "docs" / "guides" / f"{path.stem}.md").read_text()
    pairs = blocks_with_errors(guide)
    install, *rest = cells(path)
    assert install["source"].count("%pip install") == 1
    assert all(each.startswith("#") for each in install["source"].splitlines())
    assert [each["source"] + "\n" for each in rest] == [
        code for code, _ in pairs
    ]
    for cell, (_, shown) in zip(rest, pairs, strict=True):
        raises = shown is not None and shown[0].endswith("Error")
        assert (
            "raises-exception" in cell["metadata"].get("tags", [])
        ) == raises
    # And so are its sentences: `make notebooks` would change no source.
    for made, kept in zip(
        maker.made(path.stem)["cells"],
        json.loads(path.read_text())["cells"],
        strict=True,
    ):
        assert made["source"] == kept["source"]


@pytest.mark.parametrize("path", OF_GUIDES, ids=lambda path: path.stem)
def test_it_holds_what_was_seen(path):
    assert path.stat().st_size < LARGEST
    for cell in cells(path)[1:]:
        assert cell["execution_count"], cell["source"]
        raised = names_of_errors(cell)
        assert bool(raised) == ("tags" in cell["metadata"]), raised
    text = path.read_text()
    for trace in ("/home/", "/tmp/", "site-packages", "\\u001b", "\\b"):
        assert trace not in text


@on_one_backend
@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_runs(path, maker):
    """Every cell, in a kernel; an error that none was meant to be is raised."""
    if path == INSPECTION:
        try:
            datasets.load_arrays("mnist", "test")
        except ConnectionError as error:
            pytest.skip(str(error))
    run = maker.executed(json.loads(path.read_text()))
    for cell, kept in zip(cells_of(run), cells(path), strict=True):
        assert names_of_errors(cell) == names_of_errors(kept)
        assert kinds_of(cell) == kinds_of(kept)


def test_outputs_are_kept_if_the_code_is(maker, tmp_path, monkeypatch):
    def run(notebook):
        raise RuntimeError("run again")

    monkeypatch.setattr(maker, "executed", run)
    for path in ALL:
        shutil.copy(path, tmp_path)
    options = ["--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["make_notebooks", *options])
    maker.main()  # `make notebooks` changes nothing
    for path in ALL:
        assert (tmp_path / path.name).read_text() == path.read_text()
    (tmp_path / "own_arrays.ipynb").write_text('{"cells": []}')
    with pytest.raises(RuntimeError, match="again"):
        maker.main()


def test_links_of_a_notebook_lead_somewhere():
    for path in OF_GUIDES:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                found = re.findall(r"\]\((?!\w+:|#)([^)#]+)", cell["source"])
                for link in found:
                    assert (FOLDER / link).exists(), link


@pytest.mark.parametrize("path", [INSPECTION], ids=lambda path: path.stem)
def test_it_holds_its_pictures(path, maker):
    first, *rest = cells(path)
    assert first["source"] == maker.INSTALL
    for cell in rest:
        last = "".join(cell["source"]).splitlines()[-1]
        pictures = "image/png" in kinds_of(cell)
        assert pictures == last.startswith("plots."), last
        assert all(
            output["output_type"] != "error" for output in cell["outputs"]
        )
