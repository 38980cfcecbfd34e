"""The README: its code, its tables, its links, here and on a package index."""

import importlib
import importlib.util
import pathlib
import re
import shutil
import tomllib

import pytest

from keras_capsules.routing import ROUTINGS
from tests.helpers.pages import blocks
from tests.helpers.pages import broken_links
from tests.helpers.pages import not_on_torch
from tests.helpers.pages import run_page
from tests.helpers.pages import train_quickly
from tests.helpers.testing import on_one_backend

REPOSITORY = pathlib.Path(__file__).parents[1]
README = REPOSITORY / "README.md"
MOST_LINES = 200


def in_setup():
    spec = importlib.util.spec_from_file_location(
        "setup", REPOSITORY / "setup.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("optimized")
@on_one_backend
@not_on_torch
@pytest.mark.parametrize(
    "in_full",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["quickly", "in full"],
)
def test_blocks_run(in_full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not in_full:
        train_quickly(monkeypatch)
    run_page(README.read_text(), "README.md")


def test_it_is_short_and_complete():
    text = README.read_text()
    assert len(text.splitlines()) < MOST_LINES
    assert len(blocks(text)) == 3
    assert "    make demo " in text and "    make test " in text
    assert [name for name in ROUTINGS if f'`"{name}"`' not in text] == []
    assert broken_links(README) == []


@on_one_backend
def test_the_first_example_is_a_script():
    script = (REPOSITORY / "examples" / "sequential.py").read_text()
    _, _, code = script.partition("images, labels = ")
    first = blocks(README.read_text())[0]
    assert first.partition("images, labels = ")[2] == code


@on_one_backend
def test_tables_are_of_the_records(tmp_path, monkeypatch):
    """`make results` would change nothing."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    readme = importlib.import_module("readme")
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not in a repository")
    for page in readme.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / page, tmp_path / page)
    monkeypatch.setattr("sys.argv", ["readme", "--root", str(tmp_path)])
    readme.main()
    for page in readme.PAGES:
        assert (tmp_path / page).read_text() == (REPOSITORY / page).read_text()


@on_one_backend
def test_a_table_of_errors(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    readme = importlib.import_module("readme")
    groups = {
        ("coil20", "coil20-conv_net"): [
            {"test_error": 0.5},
            {"test_error": 0.7},
        ],
        ("mnist", "mnist-efficient_capsnet"): [{"test_error": 0.3}],
        ("mnist", "mnist-conv_net-5k"): [{"test_error": 9.0}],
    }
    assert readme.errors(groups).splitlines()[2:] == [
        "| MNIST | 0.30, one seed | – | – | 0.25, "
        "CapsNet (Sabour et al., 2017) |",
        "| COIL-20, 8 of 72 views trained | – | 0.60 ± 0.14 | – | – |",
    ]


def test_links_into_a_repository():
    text = (
        "[a](docs/a.md#b) and ![p](docs/p.png),\n[q\nr](LICENSE)\n"
        "[there](https://keras.io/x) [below](#below)\n"
        "```python\nx[0](a)\n```\n[c](d)\n"
    )
    for address in ("https://a.example/b", "https://a.example/b/"):
        assert in_setup().with_absolute_links(text, address) == (
            "[a](https://a.example/b/blob/HEAD/docs/a.md#b) and "
            "![p](https://a.example/b/raw/HEAD/docs/p.png),\n"
            "[q\nr](https://a.example/b/blob/HEAD/LICENSE)\n"
            "[there](https://keras.io/x) [below](#below)\n"
            "```python\nx[0](a)\n```\n[c](https://a.example/b/blob/HEAD/d)\n"
        )


def test_one_place_has_the_address(tmp_path):
    project = (REPOSITORY / "pyproject.toml").read_text()
    text = README.read_text()
    shutil.copy(README, tmp_path)
    (tmp_path / "pyproject.toml").write_text(project)
    address = tomllib.loads(project)["project"]["urls"].get("Repository")
    if address is None:  # as long as there is none
        assert in_setup().readme(tmp_path) == text
        address = "https://a.example/b"
        line = f'[project.urls]\nRepository = "{address}"'
        project = project.replace("[project.urls]", line)
        (tmp_path / "pyproject.toml").write_text(project)
    made = in_setup().readme(tmp_path)
    assert f"]({address}/blob/HEAD/docs/start.md)" in made
    assert f"]({address}/raw/HEAD/docs/reconstructions.png)" in made
    outside_of_code = re.sub(r"^```.*?^```$", "", made, flags=re.M | re.S)
    assert re.findall(r"\]\((?!https?:)[^)]*\)", outside_of_code) == []
