"""What an installation brings along, and what an import does.

Times differ from machine to machine, so nearly all of it is counted.
"""

import functools
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import keras_capsules

ROOT = pathlib.Path(keras_capsules.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
MOST_BYTES_OF_CODE = 1_000_000
MOST_BYTES_OF_WEIGHTS = 10_000_000  # of five networks
MOST_MODULES = 200
MOST_SECONDS = 1.5

# The modules that importing the package adds to those of Keras.
ADDED = """
import json
import sys
import time

import keras

before, start = set(sys.modules), time.process_time()
import keras_capsules

seconds = time.process_time() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


@functools.cache
def added():
    result = subprocess.run(
        [sys.executable, "-c", ADDED],
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(result.stdout)


def size(paths):
    return sum(path.stat().st_size for path in paths)


def test_the_package_is_small():
    assert size(ROOT.rglob("*.py")) < MOST_BYTES_OF_CODE
    assert size((ROOT / "weights").iterdir()) < MOST_BYTES_OF_WEIGHTS


def test_the_base_installation_has_few_requirements():
    names = {re.match(r"[\w.-]+", each)[0] for each in PROJECT["dependencies"]}
    assert names == {"keras", "tensorflow", "numpy"}


def test_importing_adds_modules_of_the_package_alone():
    """Whatever else a function needs is imported by that function."""
    _, names = added()
    packages = {name.partition(".")[0] for name in names}
    assert packages - set(sys.stdlib_module_names) == {"keras_capsules"}
    ours = [name for name in names if name.startswith("keras_capsules")]
    assert len(ours) < MOST_MODULES


def test_importing_takes_little_beyond_keras():
    seconds, _ = added()  # of the processor, however busy it is
    assert seconds < MOST_SECONDS
