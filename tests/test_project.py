"""What a public project has: workflows, templates, packages, a citation."""

import pathlib
import re
import subprocess

import pytest
import yaml

import keras_capsules
from tests.helpers.pages import broken_links
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

REPOSITORY = pathlib.Path(__file__).parents[1]
FORGE = REPOSITORY / ".github"
YAML = sorted(
    [
        *FORGE.rglob("*.yml"),
        REPOSITORY / ".pre-commit-config.yaml",
        REPOSITORY / "CITATION.cff",
    ]
)
PAGES = ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md"]
BACKENDS = ["tensorflow", "jax", "torch"]


def read(path):
    return yaml.safe_load(path.read_text())


def targets():
    """The targets of the Makefile."""
    text = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    rules = re.findall(r"^([\w./%-][\w./% -]*):(?!=)", text, re.MULTILINE)
    phony = re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    return {name for line in [*rules, *phony] for name in line.split()}


def commands(workflow):
    """The `make` commands of a workflow, for each backend of a job."""
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            for command in re.findall(r"make (\S+)", step.get("run", "")):
                if "${{" not in command:
                    yield command
            for prefix in re.findall(
                r"make (\S*)\$\{\{ matrix\.backend", step.get("run", "")
            ):
                yield from (prefix + name for name in matrix["backend"])


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml(path):
    assert read(path)


@pytest.mark.parametrize("name", ["test.yml", "build.yml"])
def test_workflows_call_targets_that_there_are(name):
    workflow = read(FORGE / "workflows" / name)
    assert {"docs", "release"} <= targets()
    found = list(commands(workflow))
    assert found
    assert [each for each in found if each not in targets()] == []
    # YAML reads `on` as true.
    assert {"push", "pull_request"} <= set(workflow[True])
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_does_what_has_to_pass():
    jobs = read(FORGE / "workflows" / "test.yml")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert matrix["backend"] == BACKENDS
    called = set(commands(read(FORGE / "workflows" / "test.yml")))
    ci = (REPOSITORY / ".ci" / "run").read_text()
    for command in re.findall(r"^\s*(?:if )?make ([\w./-]+)", ci, re.MULTILINE):
        # `make test` is that of two backends.
        parts = ["test-tensorflow", "test-jax"]
        assert {*parts} <= called if command == "test" else command in called
    assert {"test-torch", "test-lowest"} <= called


@pytest.mark.parametrize("name", ["bug", "figure", "feature"])
def test_issue_templates(name):
    form = read(FORGE / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"] and form["description"]
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    identifiers = [each["id"] for each in fields]
    assert len(set(identifiers)) == len(fields) >= 3
    assert all(each["attributes"]["label"] for each in fields)


def test_hooks_are_those_of_the_environment():
    (repository,) = read(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = " ".join(hook["entry"] for hook in repository["hooks"])
    for tool in (".venv/bin/ruff check", ".venv/bin/ruff format", "/bin/mypy"):
        assert tool in entries


def test_the_citation_is_of_this_version():
    citation = read(REPOSITORY / "CITATION.cff")
    assert (
        citation["version"] == keras_capsules.__version__.partition(".dev")[0]
    )
    assert citation["license"] == "Apache-2.0"


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_the_project(name):
    assert broken_links(REPOSITORY / name) == []
    text = (REPOSITORY / name).read_text()
    named = re.findall(r"`make ([\w-]+)", text)
    named += re.findall(r"^    make ([\w-]+)", text, re.MULTILINE)
    assert [each for each in named if each not in targets()] == []


def test_no_file_holds_a_conflict():
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    listed = subprocess.run(
        ["git", "grep", "--name-only", "-I", *(f"-e^{each}" for each in marks)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert listed.stdout == ""


def test_an_sdist_has_all_files():
    """MANIFEST.in names each folder and file that is kept."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not in a repository")
    manifest = (REPOSITORY / "MANIFEST.in").read_text()
    words = set(manifest.split())
    # Those that setuptools takes by itself.
    words |= {"keras_capsules", "keras_capsules_cli", "README.md"}
    words |= {"pyproject.toml", "setup.py"}
    words |= {"LICENSE", "MANIFEST.in"}
    first = {path.partition("/")[0] for path in listed.stdout.splitlines()}
    assert first - words == set()
