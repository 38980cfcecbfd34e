"""The package as a whole: its names, its imports, its documentation."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import pytest

import keras_capsules
from tests.helpers.testing import on_one_backend

ROOT = pathlib.Path(keras_capsules.__file__).parent
REPOSITORY = pathlib.Path(__file__).parents[1]
SOURCES = sorted(ROOT.rglob("*.py"))
# Where backends may be imported, inside functions: `export` and `datasets` make
# what is TensorFlow's own; one page of the engine compiles for each backend.
BACKENDS_ALLOWED = {
    ROOT / "engine" / "compilation.py",
    ROOT / "export.py",
    *(ROOT / "datasets").glob("*.py"),
}


def modules():
    found = pkgutil.walk_packages([str(ROOT)], "keras_capsules.")
    return [importlib.import_module(each.name) for each in found]


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


def blocks(text):
    """The fenced Python blocks that are examples, not formulas."""
    text = inspect.cleandoc(text or "")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def _not_on_torch(block):
    """A mark for examples that export, as far as a backend cannot."""
    return pytest.mark.skipif(
        keras.backend.backend() == "torch" and "export" in block,
        reason="Keras makes no SavedModels of PyTorch models",
    )


EXAMPLES = [
    pytest.param(block, id=f"{name}-{number}", marks=_not_on_torch(block))
    for name, value in sorted(public_objects().items())
    for number, block in enumerate(blocks(value.__doc__))
    if "import " in block
]


def test_every_documented_name_of_the_top_level_is_there():
    for name in (
        "CapsuleLayer CapsuleLength CapsuleMask MarginLoss PrimaryCapsules "
        "activations datasets export_saved_model layers losses margin_loss "
        "models routing squash __version__"
    ).split():
        assert hasattr(keras_capsules, name)


def test_importing_loads_no_extra():
    """What only some functions need is imported by those."""
    script = (
        "import sys, keras; before = set(sys.modules); import keras_capsules\n"
        "extras = {'tensorflow_datasets', 'sklearn', 'matplotlib'}\n"
        "print(sorted(extras & (set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        text=True,
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_library_code_uses_public_keras_only(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), "assert is not for users"
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            assert not name.startswith("keras.src")
            backend = name.split(".")[0] in ("jax", "torch", "tensorflow")
            assert not backend or path in BACKENDS_ALLOWED


def test_backends_are_imported_inside_functions_only():
    for path in BACKENDS_ALLOWED:
        todo = ast.parse(path.read_text()).body
        while todo:
            node = todo.pop()
            if isinstance(node, ast.FunctionDef):
                continue
            todo.extend(ast.iter_child_nodes(node))
            if isinstance(node, ast.Import | ast.ImportFrom):
                text = ast.unparse(node)
                for name in ("tensorflow", "jax", "torch", "sklearn"):
                    assert name not in text


@pytest.mark.parametrize("name", sorted(public_objects()))
def test_public_names_have_docstrings(name):
    value = public_objects()[name]
    inherited = {"build", "call", "get_config", "from_config"}
    inherited |= {"compute_output_shape", "compute_output_spec"}
    inherited |= {"train_step", "test_step", "compute_metrics"}
    if name.rsplit(".", maxsplit=1)[-1] in inherited:
        return  # their contract is Keras's, or that of our base class
    assert value.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("name", sorted(public_objects()))
def test_docstrings_name_every_argument(name):
    value = public_objects()[name]
    if not (inspect.isclass(value) or "Args:" in (value.__doc__ or "")):
        return
    if inspect.isclass(value) and "__init__" not in vars(value):
        return
    for argument in inspect.signature(value).parameters:
        if argument not in ("self", "kwargs", "args"):
            assert re.search(rf"^\s+{argument}: ", value.__doc__, re.M), (
                f"{name} does not document `{argument}`"
            )


@on_one_backend
@pytest.mark.parametrize("block", EXAMPLES)
def test_docstring_examples_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "example", "exec"), {"__name__": "example"})


@pytest.mark.usefixtures("optimized")
@on_one_backend
@_not_on_torch("exports")
def test_readme_blocks_run(tmp_path, monkeypatch):
    """One after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    found = blocks((REPOSITORY / "README.md").read_text())
    assert len(found) >= 3
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_readme_names_what_there_is():
    text = (REPOSITORY / "README.md").read_text()
    for module in ("layers", "losses", "models", "routing"):
        for name in vars(getattr(keras_capsules, module)):
            if name[0].isupper() and name not in ("FORMS", "Routed"):
                assert name in text, f"README.md does not mention {name}"
    for link in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (REPOSITORY / link).exists(), f"{link} is no file"
