"""The package as a whole: its names, its imports, its documentation.

Each test lists all that is wrong at once.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import keras_capsules
from tests.helpers.pages import blocks
from tests.helpers.pages import not_on_torch
from tests.helpers.pages import train_quickly
from tests.helpers.testing import on_one_backend

ROOT = pathlib.Path(keras_capsules.__file__).parent
REPOSITORY = pathlib.Path(__file__).parents[1]
SOURCES = sorted(ROOT.rglob("*.py"))
# Files that may import backends, inside functions: `export` and `datasets` make
# objects of TensorFlow, and a callback its files of events; two files of the
# engine compile for each backend. Those of `training` are not imported with the
# package, and so may import TensorFlow at once.
BACKENDS_ALLOWED = {
    ROOT / "callbacks" / "event_files.py",
    ROOT / "engine" / "compilation.py",
    ROOT / "engine" / "in_tensorflow.py",
    *(ROOT / "export").glob("*.py"),
    *(ROOT / "datasets").glob("*.py"),
    *(ROOT / "training").glob("*.py"),
}
BACKENDS = {"jax", "torch", "tensorflow"}

MOST_LINES = 300
MOST_LINES_OF_TESTS = 600
# Library files that are longer, each with its reason.
LONG_FILES = {
    "models/capsule_network.py": "one class, half of it docstrings",
    "models/efficient_capsnet.py": "seventeen options, half of it docstrings",
}

# A folder or module imports only from those in earlier lines, and from itself.
LEVELS = [
    ["types", "version"],
    ["utils"],
    ["activations", "datasets", "engine", "losses", "metrics"],
    ["routing"],
    ["layers"],
    ["models"],
    ["inspection"],
    ["callbacks", "distribution", "export", "plots", "pruning"],
    ["training"],
    ["explorer"],
]
# Modules that cannot be imported without an extra, and a package of it.
OF_EXTRAS = {"explorer.page": "gradio", "explorer.pads": "gradio"}


def modules():
    found = pkgutil.walk_packages([str(ROOT)], "keras_capsules.")
    names = [each.name for each in found]
    for name, package in OF_EXTRAS.items():
        if importlib.util.find_spec(package) is None:
            names.remove(f"keras_capsules.{name}")
    return [importlib.import_module(name) for name in names]


@functools.cache
def public_objects():
    """Every documented class, function and method, by its name."""
    found = {}
    for module in [keras_capsules, *modules()]:
        if "._" in module.__name__:
            continue
        for name, value in vars(module).items():
            module_name = getattr(value, "__module__", "") or ""
            is_ours = module_name.startswith("keras_capsules.")
            if name.startswith("_") or not is_ours:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
            if inspect.isclass(value):
                for key, method in vars(value).items():
                    if inspect.isfunction(method) and not key.startswith("_"):
                        full = f"{value.__module__}.{method.__qualname__}"
                        found[full] = method
    return found


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """The imports of a file: modules, or names of modules, in full."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


EXAMPLES = [
    pytest.param(
        block,
        id=f"{name}-{number}",
        marks=[not_on_torch] if "export" in block else [],
    )
    for name, value in sorted(public_objects().items())
    for number, block in enumerate(blocks(value.__doc__))
    if "import " in block
]


# Names.


def test_every_documented_name_of_the_top_level_is_there():
    for name in (
        "CapsuleLayer CapsuleLength CapsuleMask ExactMatchAccuracy MarginLoss "
        "PrimaryCapsules activations datasets export_saved_model layers losses "
        "margin_loss metrics models routing squash __version__"
    ).split():
        assert hasattr(keras_capsules, name)


def test_public_packages_list_their_names():
    wrong = []
    for module in modules():
        listed = getattr(module, "__all__", None)
        if listed is None:
            continue
        wrong += [
            f"{module.__name__} has no {name}"
            for name in listed
            if not hasattr(module, name)
        ]
        wrong += [
            f"{module.__name__}.__all__ lacks {name}"
            for name, value in vars(module).items()
            if (inspect.isclass(value) or inspect.isfunction(value))
            and not name.startswith("_")
            and name not in listed
            # Others are imported by the module.
            and value.__module__ == module.__name__
        ]
    assert wrong == []


def test_public_names_are_annotated():
    wrong = []
    for name, value in sorted(public_objects().items()):
        function = value
        if inspect.isclass(value):
            function = vars(value).get("__init__")
            if not inspect.isfunction(function):
                continue
        hints = function.__annotations__
        wrong += [
            f"{name}: {argument}"
            for argument in inspect.signature(function).parameters
            if argument not in hints and argument not in ("self", "cls")
        ]
    assert wrong == []


# Files and imports.


def test_no_file_is_long():
    lengths = {
        name_of(path): len(path.read_text().splitlines()) for path in SOURCES
    }
    long = {name: n for name, n in lengths.items() if n > MOST_LINES}
    # Nor does the list name a file that is short, or gone.
    assert set(long) == set(LONG_FILES), long


def test_no_file_of_tests_is_long():
    tests = (REPOSITORY / "tests").rglob("*.py")
    lengths = {path: len(path.read_text().splitlines()) for path in tests}
    assert [p for p, n in lengths.items() if n > MOST_LINES_OF_TESTS] == []


def test_no_import_runs_upward():
    levels = {name: n for n, line in enumerate(LEVELS) for name in line}
    wrong = []
    for path in SOURCES:
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for name in imports(path):
            package, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if package != "keras_capsules" or other == own:
                continue
            if own not in levels or other not in levels:
                wrong.append(f"{own} or {other} is at no level")
            elif levels[other] >= levels[own]:
                wrong.append(f"{name_of(path)}: {name}")
    assert wrong == []


def test_no_private_name_is_imported_across_folders():
    wrong = []
    for path in SOURCES:
        folder = ".".join(
            ["keras_capsules", *path.relative_to(ROOT).parts[:-1]]
        )
        for name in imports(path):
            parts = name.split(".")
            private = [
                n for n, part in enumerate(parts) if re.match("_[^_]", part)
            ]
            if parts[0] != "keras_capsules" or not private:
                continue
            owner = ".".join(parts[: private[0]])
            if owner != folder:
                private_name = ".".join(parts[: private[0] + 1])
                wrong.append(f"{name_of(path)}: {private_name}")
    assert wrong == []


def test_importing_loads_no_extra():
    """Packages that only some functions need are imported by those."""
    script = (
        "import sys, keras; before = set(sys.modules); import keras_capsules\n"
        "extras = {'tensorflow_datasets', 'sklearn', 'matplotlib', 'gradio'}\n"
        "extras |= {'keras_capsules.training', 'keras_capsules.explorer'}\n"
        "extras |= {'keras_capsules_cli'}\n"
        "print(sorted(extras & (set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        text=True,
    )
    assert result.stdout.strip() == "[]"


def test_library_code_uses_public_keras_only():
    wrong = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
            wrong.append(f"{name_of(path)}: assert is not for users")
        for name in imports(path):
            is_backend = name.split(".")[0] in BACKENDS
            if name.startswith("keras.src") or (
                is_backend and path not in BACKENDS_ALLOWED
            ):
                wrong.append(f"{name_of(path)}: {name}")
    assert wrong == []


def test_backends_are_imported_inside_functions_only():
    wrong = []
    for path in BACKENDS_ALLOWED - {*(ROOT / "training").glob("*.py")}:
        todo = ast.parse(path.read_text()).body
        while todo:
            node = todo.pop()
            if isinstance(node, ast.FunctionDef) or (
                isinstance(node, ast.If)
                and ast.unparse(node.test) == "TYPE_CHECKING"
            ):
                continue
            todo.extend(ast.iter_child_nodes(node))
            if isinstance(node, ast.Import | ast.ImportFrom):
                text = ast.unparse(node)
                for name in (*BACKENDS, "sklearn"):
                    if re.search(rf"\b{name}", text):
                        wrong.append(f"{name_of(path)}: {text}")
    assert wrong == []


# Documentation.


def test_public_names_have_docstrings():
    inherited = {"build", "call", "get_config", "from_config"}
    inherited |= {"compute_output_shape", "compute_output_spec"}
    inherited |= {"train_step", "test_step", "compute_metrics", "quantize"}
    # Their contract is in Keras or in our base class.
    assert [
        name
        for name, value in sorted(public_objects().items())
        if not value.__doc__ and name.split(".")[-1] not in inherited
    ] == []


def test_docstrings_name_every_argument():
    wrong = []
    for name, value in sorted(public_objects().items()):
        doc = value.__doc__ or ""
        if not (inspect.isclass(value) or "Args:" in doc):
            continue
        if inspect.isclass(value) and "__init__" not in vars(value):
            continue
        wrong += [
            f"{name} does not document `{argument}`"
            for argument in inspect.signature(value).parameters
            if argument not in ("self", "kwargs", "args")
            and not re.search(rf"^\s+{argument}: ", doc, re.M)
        ]
    assert wrong == []


@on_one_backend
@pytest.mark.parametrize("block", EXAMPLES)
def test_docstring_examples_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_quickly(monkeypatch)
    exec(compile(block, "example", "exec"), {"__name__": "example"})
