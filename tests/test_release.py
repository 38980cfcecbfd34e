"""What is said of versions, and what `make release` checks."""

import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

import keras_capsules
from release import check
from release import lowest
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend
ROOT = pathlib.Path(keras_capsules.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_output_of_a_failed_command_is_printed(capfd):
    quiet = check.run(sys.executable, "-c", "print('all is well')")
    assert quiet.stdout == "all is well\n"
    assert not capfd.readouterr().out
    program = "print('1 failed'); raise SystemExit(3)"
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        check.run(sys.executable, "-c", program)
    assert "1 failed" in capfd.readouterr().out


# Versions.


def test_the_page_names_the_lowest_versions():
    page = (ROOT / "docs" / "releases.md").read_text()
    table = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", page, re.MULTILINE))
    bounds = lowest.lowest_versions()
    names = {"PyTorch": "torch"}
    python = table.pop("Python")
    assert table == {
        name: bounds[names.get(name, name.lower())] for name in table
    }
    assert {"Keras", "TensorFlow", "JAX", "PyTorch", "NumPy"} == set(table)
    assert PROJECT["requires-python"] == f">={python}"
    # The order of the list is that of the versions.
    listed = re.findall(r":: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert listed[0] == python


def test_requirements_of_every_form(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(
        "[project]\n"
        'dependencies = ["keras>=3.12", "numpy >= 1.26, <3", "absl-py"]\n'
        "[project.optional-dependencies]\n"
        'one = ["mkdocstrings[python]>=0.29", "keras-capsules[two]"]\n'
        'two = ["keras>=3.12", "scikit-learn>=1.4"]\n'
    )
    assert lowest.lowest_versions(path) == {
        "keras": "3.12",
        "numpy": "1.26",
        "mkdocstrings": "0.29",
        "scikit-learn": "1.4",
    }
    path.write_text(
        path.read_text().replace('two = ["keras>=3.12"', 'x = ["keras>=3.13"')
    )
    with pytest.raises(
        ValueError, match=r"keras in .*Received: 3\.12 and 3\.13"
    ):
        lowest.lowest_versions(path)


# Distributions.

LICENCE = "keras_capsules-0.1.0.dist-info/licenses/LICENSE"


def wheel(folder, names):
    path = folder / "keras_capsules-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "text")
    return path


def test_a_wheel_has_the_package_and_nothing_else(tmp_path):
    names = check.sources() | {LICENCE}
    assert "keras_capsules/py.typed" in names
    assert "keras_capsules/weights/EfficientCapsNet-mnist.npz" in names
    check.check_wheel(wheel(tmp_path, names))
    for wrong, message in [
        (names - {"keras_capsules/py.typed"}, r"lacks.*py\.typed"),
        (names - {LICENCE}, "lacks.*LICENSE"),
        (names | {"tests/test_files.py"}, r"has also.*tests/test_files\.py"),
    ]:
        with pytest.raises(SystemExit, match=message):
            check.check_wheel(wheel(tmp_path, wrong))


def test_a_large_wheel_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(check.MOST_BYTES, "wheel", 100)
    with pytest.raises(SystemExit, match="at most 100 bytes. Received: "):
        check.check_wheel(wheel(tmp_path, check.sources() | {LICENCE}))


def test_there_is_one_distribution(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"Expected one dist/\*\.whl"):
        check.the_only("*.whl")
