"""The command as a process of its own, and what it writes where."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

import keras_capsules_cli
from keras_capsules_cli import libraries
from tests.cli.conftest import SIZE
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def start(folder, *arguments, script="", **environment):
    """Runs the command, after a script, with these variables alone set."""
    root = keras_capsules_cli.__path__[0] + "/.."
    script += "\nimport sys, keras_capsules_cli as c; sys.exit(c.main())"
    inherited = {k: x for k, x in os.environ.items() if k != LEVEL}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        cwd=folder,
        env={**inherited, "PYTHONPATH": root, **environment},
        text=True,
    )


def test_nothing_but_json_is_printed_for_programs(trained, tmp_path):
    folder, _ = trained
    path = tmp_path / "bar.png"
    Image.new("L", SIZE).save(path)
    finished = start(tmp_path, "predict", folder, path, "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)[0]["image"] == str(path)
    assert finished.stderr == ""


def test_a_refusal_is_one_sentence(tmp_path):
    """TensorFlow says nothing before it."""
    command = "predict", "EfficientCapsNet-mnist", "none.png"
    finished = start(tmp_path, *command)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("keras-capsules predict: An image cannot be read.")
    # Unless the user wants to hear it.
    finished = start(tmp_path, *command, **{LEVEL: "0"})
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) > 1


# A TensorFlow that writes past Python, as the real one does.
TENSORFLOW = """
import os
os.write(2, b"what it said\\n")
{}
class config:
    def list_physical_devices():
        os.write(2, b"and of devices\\n")
"""


@pytest.mark.parametrize("level", [None, "0", "3"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_written_while_importing(tmp_path, fails, level):
    (tmp_path / "tensorflow.py").write_text(
        TENSORFLOW.format("int('no number')" if fails else "")
    )
    script = """\
import os, sys, types
sys.path.insert(0, os.getcwd())
sys.modules["keras"] = types.ModuleType("keras")
from keras_capsules_cli import commands, libraries
commands.datasets = lambda arguments: libraries.load()
"""
    environment = {} if level is None else {LEVEL: level}
    finished = start(tmp_path, "datasets", script=script, **environment)
    assert finished.returncode == fails, finished.stderr
    assert ("what it said" in finished.stderr) == (fails or level == "0")
    assert ("no number" in finished.stderr) == fails
    assert ("devices" in finished.stderr) == (level == "0" and not fails)


def test_a_process_without_standard_error(monkeypatch):
    def refuse(number):
        raise OSError("bad file descriptor")

    monkeypatch.setattr(libraries.os, "dup", refuse)
    monkeypatch.delenv(LEVEL, raising=False)
    libraries.load()
    assert os.environ[LEVEL] == "2"
