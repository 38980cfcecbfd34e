"""Notebooks run, and hold the pictures that they speak of."""

import json
import pathlib

import pytest

from keras_capsules import datasets
from tests.helpers.testing import on_one_backend

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path):
    """The code cells of a notebook."""
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["inspection"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_its_pictures(path):
    for cell in cells(path):
        last = "".join(cell["source"]).splitlines()[-1]
        kinds = [
            kind
            for output in cell["outputs"]
            for kind in output.get("data", {})
        ]
        assert ("image/png" in kinds) == last.startswith("plots."), last
        assert all(
            output["output_type"] != "error" for output in cell["outputs"]
        )


@pytest.mark.slow
@on_one_backend
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    try:
        datasets.load_arrays("mnist", "test")
    except ConnectionError as error:
        pytest.skip(str(error))
    namespace = {"__name__": "notebook"}
    for cell in cells(path):
        exec(compile("".join(cell["source"]), path.name, "exec"), namespace)
