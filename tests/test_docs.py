"""The pages of docs/: their code runs, and their links lead somewhere."""

import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import types

import numpy as np
import pytest
import yaml

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
    sections = {
        title: pages
        for each in yaml.safe_load(navigation)["nav"]
        for title, pages in each.items()
    }
    guides = {page for each in sections["Guides"] for page in each.values()}
    assert {"inspection.md", "formats.md"} <= guides


@pytest.fixture
def hooks(monkeypatch):
    """`docs/hooks.py`, with as much of MkDocs as it needs."""
    modules = {
        name: types.ModuleType(name)
        for name in ("mkdocs", "mkdocs.exceptions", "mkdocs.structure.files")
    }
    modules["mkdocs.exceptions"].PluginError = ValueError
    files = modules["mkdocs.structure.files"]
    files.InclusionLevel = types.SimpleNamespace(NOT_IN_NAV="not in nav")
    files.File = types.SimpleNamespace(generated=site_file)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def site_file(config, uri, content="", abs_src_path=None, inclusion=None):
    del config, inclusion
    if abs_src_path is not None and abs_src_path.endswith(".md"):
        content = pathlib.Path(abs_src_path).read_text()
    return types.SimpleNamespace(
        src_uri=uri,
        content_string=content,
        is_documentation_page=lambda: uri.endswith(".md"),
    )


class Files(list):
    def documentation_pages(self):
        return self


OUTSIDE = """\
[a](../../CHANGELOG.md#b), [s](../../examples/train.py), [d](../../examples),
[n](../../examples/notebooks/own_arrays.ipynb), [f](../formats.md#c) and
![p](../../benchmarks/results/speed.png)

```python
x[0](../../nothing.py)
```
"""


@pytest.mark.parametrize("address", [None, "https://a.example/b/"])
def test_links_out_of_the_pages_lead_somewhere_on_the_site(hooks, address):
    config = types.SimpleNamespace(repo_url=address)
    page = site_file(None, "guides/page.md", OUTSIDE)
    files = hooks.on_files(Files([page]), config)
    names = [file.src_uri for file in files]
    text = hooks.on_page_markdown(
        OUTSIDE, types.SimpleNamespace(file=page), config, files
    )
    copies = [
        "repository/CHANGELOG.md",
        "repository/examples/train.py.md",
        "repository/examples/notebooks/own_arrays.ipynb",
    ]
    image = "repository/benchmarks/results/speed.png"
    assert image in names and f"![p](../{image})" in text
    assert "[f](../formats.md#c)" in text
    assert "x[0](../../nothing.py)" in text
    if address is None:
        assert set(copies) <= set(names)
        for name in copies:
            assert f"](../{name}" in text
        assert f"[a](../{copies[0]}#b)" in text and " d," in text
        (code,) = [file for file in files if file.src_uri == copies[1]]
        script = (REPOSITORY / "examples" / "train.py").read_text()
        assert script in code.content_string
    else:
        assert set(names) == {"guides/page.md", image}
        assert "[a](https://a.example/b/blob/HEAD/CHANGELOG.md#b)" in text
        assert "[d](https://a.example/b/blob/HEAD/examples)" in text


def test_a_copy_links_to_pages_and_to_further_copies(hooks):
    config = types.SimpleNamespace(repo_url=None)
    page = site_file(None, "index.md", "[c](../CONTRIBUTING.md)")
    files = hooks.on_files(Files([page]), config)
    (copy,) = [
        file for file in files if file.src_uri == "repository/CONTRIBUTING.md"
    ]
    names = [file.src_uri for file in files]
    assert "repository/SECURITY.md" in names  # which CONTRIBUTING.md links to
    text = hooks.on_page_markdown(
        copy.content_string, types.SimpleNamespace(file=copy), config, files
    )
    assert "](../papers.md)" in text and "](SECURITY.md)" in text


def test_a_link_out_of_the_pages_that_leads_nowhere(hooks):
    config = types.SimpleNamespace(repo_url=None)
    page = site_file(None, "index.md", "[c](../nothing.md)")
    with pytest.raises(ValueError, match="index.md: there is no nothing.md"):
        hooks.on_files(Files([page]), config)


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


@pytest.mark.parametrize("name", routing.ROUTINGS)
def test_a_routing_is_on_the_pages_of_all(name):
    assert (REPOSITORY / "tests" / "routing" / f"test_{name}.py").exists()
    for page in ("guides/choosing.md", "api/routing.md"):
        rows = re.findall(r"^\| (.*)$", (DOCS / page).read_text(), re.MULTILINE)
        assert [row for row in rows if f'`"{name}"`' in row], page
    papers = (DOCS / "papers.md").read_text()
    found = (
        rf"^\| [^|]*\((https:[^)]+)\) \|.*`{routing.ROUTINGS[name].__name__}`"
    )
    (paper,) = re.findall(found, papers, re.MULTILINE)
    headings = re.findall(r"^## .*$", papers, re.MULTILINE)
    assert [each for each in headings if f"({paper})" in each]


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
