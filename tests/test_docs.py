"""The pages of docs/: their code runs, and their links lead somewhere."""

import importlib
import importlib.util
import inspect
import pathlib
import re

import numpy as np
import pytest

from keras_capsules import routing
from keras_capsules.callbacks import CapsuleHealth
from tests.helpers.pages import blocks_with_errors
from tests.helpers.pages import broken_links
from tests.helpers.pages import not_on_torch
from tests.helpers.pages import run_page
from tests.helpers.pages import train_quickly
from tests.helpers.testing import on_one_backend

REPOSITORY = pathlib.Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path
    for path in sorted(DOCS.rglob("*.md"))
}
WITH_CODE = [
    name for name, path in PAGES.items() if blocks_with_errors(path.read_text())
]


@pytest.mark.usefixtures("optimized")
@on_one_backend
@not_on_torch
@pytest.mark.parametrize(
    "in_full",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["quickly", "in full"],
)
@pytest.mark.parametrize("name", WITH_CODE)
def test_blocks_run(name, in_full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not in_full:
        train_quickly(monkeypatch)
    run_page(PAGES[name].read_text(), name)


@pytest.mark.parametrize("name", PAGES)
def test_links(name):
    assert broken_links(PAGES[name]) == []


def test_every_page_is_in_the_navigation():
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    found = re.findall(r"^\s+- .+: (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(found) == sorted(PAGES)


def test_the_reference_has_every_public_name():
    missing = []
    for page in (DOCS / "api").glob("*.md"):
        listed = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
        module = importlib.import_module(f"keras_capsules.{page.stem}")
        for name, value in vars(module).items():
            full = f"{module.__name__}.{name}"
            if (
                (inspect.isclass(value) or inspect.isfunction(value))
                and not name.startswith("_")
                and name in getattr(module, "__all__", [name])
                and value.__module__.startswith(module.__name__)
                and full not in listed
            ):
                missing.append(full)
        for full in listed:
            assert hasattr(module, full.rpartition(".")[2]), full
    assert missing == []


@pytest.mark.parametrize("name", routing.ROUTINGS)
def test_a_routing_has_a_page(name):
    """With the procedure of the docstring, and a picture that is described."""
    text = (DOCS / "routings" / f"{name}.md").read_text()
    docstring = inspect.cleandoc(routing.ROUTINGS[name].__doc__)
    procedure = re.search(r"^```\n.*?^```$", docstring, re.M | re.S)[0]
    assert procedure in text
    described = re.search(rf"!\[([^\]]+)\]\({name}\.png\)", text)
    assert len(described[1]) > 50
    options = inspect.signature(routing.ROUTINGS[name]).parameters
    assert [each for each in options if f"`{each}`" not in text] == []


def test_pictures_are_small_and_described():
    for path in DOCS.glob("routings/*.png"):
        assert path.stat().st_size < 60_000, path.name
    for name, path in PAGES.items():
        for alternative in re.findall(r"!\[([^\]]*)\]\(", path.read_text()):
            assert alternative, name


def test_pages_show_errors_in_the_way_that_is_tested():
    shown = sum(
        error is not None
        for name in WITH_CODE
        for _, error in blocks_with_errors(PAGES[name].read_text())
    )
    assert shown >= 5


def test_a_page_that_is_wrong_is_noticed():
    page = "```python\n{}\n```\n\n```text\nValueError: a\nb\n```\n"
    run_page(page.format('raise ValueError("a b")'), "page")
    warned = page.replace("ValueError", "UserWarning")
    code = 'import warnings\nwarnings.warn("a b")'
    run_page(warned.format(code), "page")
    run_page(
        page.replace("a\nb", "a ...").format('raise ValueError("a b")'), "page"
    )
    for wrong in ("x = 1", 'raise ValueError("b")', 'raise KeyError("a b")'):
        with pytest.raises(AssertionError, match="page"):
            run_page(page.format(wrong), "page")
    with pytest.raises(ZeroDivisionError):
        run_page("```python\n1 / 0\n```\n\nText.\n", "page")


def test_the_page_of_failures_has_every_problem():
    text = (DOCS / "guides" / "training_fails.md").read_text()
    names = re.findall(r"- `(\w+)`: ", inspect.getdoc(CapsuleHealth))
    assert len(names) >= 11
    assert [name for name in names if name not in text] == []


@on_one_backend
def test_pictures_are_drawn(tmp_path, monkeypatch):
    # Its folder has names of modules that others may have, too.
    spec = importlib.util.spec_from_file_location(
        "make_pictures", DOCS / "make_pictures.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.ROUTINGS) == set(routing.ROUTINGS)
    model = module.make_model(module.ROUTINGS["self_attention"])
    image = np.random.default_rng(0).uniform(size=(16, 16, 1))
    shares = module.coupling_of(model, image.astype("float32"))
    assert shares.shape == (8, 8, 10)
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0, atol=1e-5)
    module.draw(image, "read as 7", shares, "title", tmp_path / "picture.png")
    assert 5_000 < (tmp_path / "picture.png").stat().st_size < 60_000
