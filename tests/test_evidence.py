"""`make results`: tables of records, and none of code that nobody has."""

import importlib
import json
import pathlib
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from keras_capsules import models
from keras_capsules_cli import options as cli_options
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = on_one_backend


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("evidence")


def head():
    command = ["git", "rev-parse", "HEAD"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not in a repository")
    return run.stdout.strip()


def record(**changes):
    return {
        "commits": [head()],
        "network": "conv_net",
        "task": "mnist",
        "parameters": 1234,
        "parameters_with_decoder": 5678,
        "seed": 0,
        "epochs": 3,
        "seconds": 90.0,
        "test_error": 0.5,
        "validation_error": 0.4,
        "settings": {},
    } | changes


def write(folder, **records):
    for name, each in records.items():
        name = name.replace("_", "-")
        (folder / f"{name}.json").write_text(json.dumps(each))


def test_the_mean_of_seeds_beside_what_is_published(evidence, tmp_path):
    write(
        tmp_path,
        small_seed0=record(),
        small_seed1=record(seed=1, test_error=0.7, validation_error=0.6),
        large=record(test_error=0.3, parameters=99999),
    )
    groups = evidence.grouped(evidence.read(tmp_path))
    lines = evidence.table("mnist", {n: r for (_, n), r in groups.items()})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in lines.splitlines()[2:]
    ]
    assert rows[0][0].startswith("[large](") and rows[0][3] == "0.30"
    assert rows[1][0] == "[small](../benchmarks/results/runs/small-seed0.json)"
    assert rows[1][1:] == [
        *("1,234", "5,678", "0.60 ± 0.14", "0, 1", "3", "1.5")
    ]
    assert rows[2][0].startswith("*published:*")


def test_seeds_have_the_same_settings(evidence):
    records = [
        record(
            name=f"one-seed{seed}", settings={"epochs": epochs, "seed": seed}
        )
        for seed, epochs in ((0, 3), (1, 4))
    ]
    with pytest.raises(ValueError, match="=3, as in one-seed0. Rec.*=4"):
        evidence.grouped(records)


@pytest.mark.parametrize("commit", ["0" * 40, "+", "", "HEAD", "none"])
def test_code_that_nobody_has(evidence, tmp_path, commit):
    commits = [head(), head() + "+" if commit == "+" else commit]
    write(tmp_path, one=record(commits=[] if commit == "none" else commits))
    with pytest.raises(ValueError, match="not in the history.*Rec.*one.json"):
        evidence.read(tmp_path)


def test_page_and_picture(evidence, tmp_path, monkeypatch):
    page, runs = tmp_path / "evidence.md", tmp_path / "runs"
    runs.mkdir()
    page.write_text((ROOT / "docs" / "evidence.md").read_text())
    few = record(settings={"per_class": 10})
    write(runs, one=record(), other=record(task="coil20", seed=3), few=few)
    for _ in range(2):  # and again
        monkeypatch.setattr(
            "sys.argv", ["evidence", "--runs", str(runs), "--page", str(page)]
        )
        evidence.main()
        text = page.read_text()
        assert text.count("| [one](") == 1
        assert text.count("| [other](") == 1
        assert "[few]" not in text
    assert (tmp_path / "evidence.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="no place for the task 'mnist'.*Rec"):
        evidence.put("# Nothing", "mnist", "table")


def test_figures_that_are_aside_are_marked_and_not_drawn(
    evidence, tmp_path, monkeypatch
):
    name, reason = next(iter(evidence.ASIDE.items()))
    runs = [record(seed=0, name=f"{each}-seed0") for each in (name, "conv")]
    groups = {("multi_mnist", each["name"][:-6]): [each] for each in runs}
    text = evidence.table("multi_mnist", {k[1]: x for k, x in groups.items()})
    assert f"{name}-seed0.json), {reason} | " in text
    assert "conv-seed0.json) | " in text
    drawn = []
    monkeypatch.setattr(
        evidence.harness, "save", lambda figure, *_: drawn.append(figure)
    )
    evidence.draw(groups, tmp_path)
    (axis,) = [each for each in drawn[0].axes if each.get_title()]
    ours = [x for x in axis.lines if x.get_label() == "ConvNet"]
    assert [len(each.get_xdata()) for each in ours] == [1]


def test_records_that_are_kept_can_be_repeated(evidence):
    head()
    for each in evidence.read(evidence.RUNS):
        assert "/" not in each["command"].replace("examples/train.py", "")


# Training what is not yet recorded.


@pytest.fixture
def trainings(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("trainings")
    # As if there were no changes.
    monkeypatch.setattr(module.provenance, "commit", lambda: "a" * 40)
    return module


def test_runs_become_records_once(trainings, tmp_path, monkeypatch):
    options = '{"filters": [3], "units": [5]}'
    command = f"conv_net digits --epochs 1 --options '{options}'"
    monkeypatch.setattr(trainings, "TRAININGS", {"digits-conv_net": command})
    monkeypatch.setattr(trainings, "SEEDS", {"digits": (0, 3)})
    output, records = tmp_path / "runs", tmp_path / "records"
    arguments = ["trainings", f"--output={output}", f"--records={records}"]
    monkeypatch.setattr("sys.argv", arguments)
    trainings.main()
    found = {path.name: path.read_text() for path in records.iterdir()}
    assert set(found) == {
        "digits-conv_net-seed0.json",
        "digits-conv_net-seed3.json",
    }
    for name, text in found.items():
        each = json.loads(text)
        assert f"-seed{each['seed']}.json" in name
        assert each["settings"]["options"] == json.loads(options)
        assert each["test_error"] <= 100
        assert str(tmp_path) not in text
    # Records that a script wrote, when there was no command, are as good.
    shutil.rmtree(output)
    first = records / "digits-conv_net-seed0.json"
    assert '"keras-capsules train conv_net' in first.read_text()
    text = first.read_text().replace(
        '"keras-capsules train', '"python examples/train.py'
    )
    first.write_text(text)
    trainings.main()
    assert not output.exists()
    # Other settings are another training; changed code could not be named.
    one, other = sorted(records.iterdir())
    other.unlink()
    commit = "a" * 40 + "+"
    monkeypatch.setattr(trainings.provenance, "commit", lambda: commit)
    with pytest.raises(ValueError, match="not committed.*commit='aaa.*a[+]'"):
        trainings.main()
    command = command.replace("--epochs 1", "--epochs 2")
    monkeypatch.setattr(trainings, "TRAININGS", {"digits-conv_net": command})
    with pytest.raises(ValueError, match="of other settings.*Received: digits"):
        trainings.main()


def test_the_commit_of_a_checkout(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    harness = importlib.import_module("harness")
    provenance = harness.provenance

    def git(*arguments):
        name = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", *name, *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit(tmp_path) == ""
    assert harness.name_of(tmp_path) == "commit unknown"
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    commit = provenance.commit(tmp_path)
    assert len(commit) == 40
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "one.json").write_text("{}")
    assert provenance.commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert provenance.commit(tmp_path) == commit + "+"
    assert harness.name_of(tmp_path) == f"commit {commit[:7]} with changes"


def test_minutes_have_two_digits(evidence):
    for seconds, text in (
        ([7200.0], "120"),
        ([44.0, 62.0, 50.0], "0.83"),
        ([570.0, 600.0], "9.8"),
        ([5970.0], "100"),
    ):
        assert evidence.minutes(seconds) == text


def test_runs_of_one_name_have_the_same_settings(evidence):
    first = record(name="a", settings={"epochs": 3, "seed": 0, "name": "a"})
    same = {"epochs": 3, "passes": 1, "per_class": None, "seed": 1, "name": "b"}
    evidence.check_settings(first, record(name="b", settings=same))
    for change in ({"passes": 9}, {"per_class": 5}, {"noise": 0.1}):
        other = record(name="b", settings=same | change)
        with pytest.raises(ValueError, match="of one name have other settings"):
            evidence.check_settings(first, other)


def test_every_training_has_a_task_and_a_place(trainings):
    parser = cli_options.make_parser()
    page = (ROOT / "docs" / "evidence.md").read_text()
    for name, given in trainings.TRAININGS.items():
        arguments = parser.parse_args(["train", *shlex.split(given)])
        assert name.startswith(f"{arguments.task}-{arguments.network}")
        assert f"<!-- {arguments.task} -->" in page
        assert trainings.SEEDS[name.split("-")[0]]


# Putting weights into the package.


def test_weights_of_a_run(trainings, tmp_path, monkeypatch):
    weights = importlib.import_module("weights")
    options = {"filters": [3, 5], "units": [7]}
    command = "conv_net digits --epochs 2 --options "
    command += shlex.quote(json.dumps(options))
    monkeypatch.setattr(trainings, "TRAININGS", {"digits-conv_net": command})
    arguments = [f"--output={tmp_path}", f"--records={tmp_path}", "--seeds=1"]
    monkeypatch.setattr("sys.argv", ["trainings", *arguments])
    trainings.main()
    folder, page = tmp_path / "weights", tmp_path / "weights.md"
    page.write_text((ROOT / "docs" / "weights.md").read_text())
    monkeypatch.setattr(weights.pretrained, "FOLDER", folder)
    run = str(tmp_path / "digits-conv_net-seed1")
    arguments = [f"--folder={folder}", f"--page={page}"]
    arguments += [f"--records={tmp_path}"]
    arguments += ["--name=digits", "--description=For tests.", "--data=CC0"]
    monkeypatch.setattr("sys.argv", ["weights", run, *arguments])
    weights.main()
    (card,) = weights.pretrained.cards()
    expected = {"image_shape": [8, 8, 1], "dropout": 0.5, **options}
    assert expected.items() <= card.options.items()
    assert card.record["test_error"] == pytest.approx(card.test_error, abs=1)
    network = models.ConvNet(weights="digits")
    trained = models.ConvNet((8, 8, 1), 10, **options)
    trained.load_weights(f"{run}/model.weights.h5")
    for one, other in zip(network.weights, trained.weights, strict=True):
        np.testing.assert_allclose(
            numpy(one), numpy(other), rtol=1e-3, atol=1e-6
        )
    other = [f"--records={tmp_path / 'none'}"]
    monkeypatch.setattr("sys.argv", ["weights", run, *arguments, *other])
    with pytest.raises(ValueError, match="not kept.*Received: run='digits-con"):
        weights.main()
    text = page.read_text()
    assert 'ConvNet(weights="digits")` | ' in text and "For tests." in text
    for missing in arguments[3:]:
        less = [each for each in arguments if each != missing]
        monkeypatch.setattr("sys.argv", ["weights", run, *less])
        with pytest.raises(SystemExit):
            weights.main()
