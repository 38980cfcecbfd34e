"""What a public project has: workflows, templates, packages, a citation."""

import pathlib
import re
import subprocess
import tomllib

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
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


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
        for step in job.get("steps", []):
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
    assert {f"test-lowest-{name}" for name in BACKENDS} <= called
    for name in ("lowest", "slow"):
        assert jobs[name]["strategy"]["matrix"]["backend"] == BACKENDS
    # The newest PyTorch, and not the one of the Makefile.
    assert jobs["test"]["steps"][-1]["run"].endswith(" TORCH=torch")


def test_workflows_prepare_the_data_of_tests():
    """In CI, a test that lacks its data fails."""
    data = read(FORGE / "workflows" / "data.yml")
    (prepare,) = data["jobs"].values()
    (names,) = re.findall(r"for name in (.*);", str(prepare["steps"]))
    needed = {
        name
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r'real_data_dir\("(\w+)"\)', path.read_text())
    }
    assert needed == set(names.split())
    *_, kept = prepare["steps"]
    folder = {"TFDS_DATA_DIR": "${{ github.workspace }}/.tfds"}
    assert data["env"] == folder
    found = []
    for path in (FORGE / "workflows").glob("*.yml"):
        workflow = read(path)
        for name, job in workflow["jobs"].items():
            runs = " ".join(
                step.get("run", "") for step in job.get("steps", [])
            )
            if not re.search("make test-(?!browser)", runs):
                continue
            found.append(name)
            assert "data" in job["needs"], name
            assert folder in (workflow.get("env"), job.get("env")), name
            (restored,) = [
                step["with"]
                for step in job["steps"]
                if step.get("uses", "").startswith("actions/cache/restore@")
            ]
            assert restored == {**kept["with"], "fail-on-cache-miss": True}
        if "data" in workflow["jobs"]:
            used = workflow["jobs"]["data"]["uses"]
            assert used == "./.github/workflows/data.yml"
    assert sorted(found) == ["formats", "lowest", "sdist", "slow", "test"]


@pytest.mark.parametrize(
    "path",
    sorted((FORGE / "workflows").glob("*.yml")),
    ids=lambda path: path.stem,
)
def test_no_job_hangs_for_hours(path):
    jobs = read(path)["jobs"]
    found = [name for name, job in jobs.items() if "steps" in job]
    assert found
    assert [name for name in found if "timeout-minutes" not in jobs[name]] == []


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
    # As `make lint`, which checks notebooks, too.
    for hook in repository["hooks"]:
        if hook["id"].startswith("ruff"):
            assert hook["types_or"] == ["python", "pyi", "jupyter"]


def test_the_citation_is_of_this_version():
    citation = read(REPOSITORY / "CITATION.cff")
    assert (
        citation["version"] == keras_capsules.__version__.partition(".dev")[0]
    )
    assert citation["license"] == "Apache-2.0"
    changes = (REPOSITORY / "CHANGELOG.md").read_text()
    (date,) = re.findall(
        rf"^## {citation['version']} \((.*)\)$", changes, re.MULTILINE
    )
    released = citation.get("date-released")
    assert date == ("unreleased" if released is None else str(released))


def test_files_of_the_forge_have_the_address():
    address = PROJECT["urls"].get("Repository")
    citation = read(REPOSITORY / "CITATION.cff")
    assert citation.get("repository-code") == address
    contacts = read(FORGE / "ISSUE_TEMPLATE" / "config.yml").get(
        "contact_links", []
    )
    assert bool(contacts) == (address is not None)
    for contact in contacts:
        assert contact["url"].startswith(f"{address.rstrip('/')}/")


@pytest.mark.parametrize("name", ["CODE_OF_CONDUCT.md", "SECURITY.md"])
def test_pages_say_whom_to_write_to(name):
    text = " ".join((REPOSITORY / name).read_text().split())
    addresses = [each["email"] for each in PROJECT.get("maintainers", [])]
    assert [each for each in addresses if each not in text] == []
    assert bool(addresses) != bool(re.search(r"There is no address", text))


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
