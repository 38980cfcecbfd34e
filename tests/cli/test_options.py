"""Help, wrong use, and what the parser says twice."""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

import keras_capsules_cli
from keras_capsules.training import networks
from keras_capsules.training import results
from keras_capsules.training import tasks
from keras_capsules.training.augmentation import Augmentation
from keras_capsules.training.settings import Settings
from keras_capsules_cli import commands
from keras_capsules_cli import main
from keras_capsules_cli import options
from keras_capsules_cli import training
from tests.cli.conftest import run
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

COMMANDS = ("train", "evaluate", "predict", "export", "explore", "datasets")


def test_the_parser_has_the_names_and_defaults_of_the_package():
    assert training.NETWORKS == networks.NAMES
    assert training.TASKS == tasks.NAMES
    assert options.FORMATS == tuple(results.FORMATS)
    parsed = options.make_parser().parse_args(["train", "capsnet", "digits"])
    assert Settings.from_record(vars(parsed)) == Settings("capsnet", "digits")
    # Every setting has an option.
    fields = [*dataclasses.fields(Settings), *dataclasses.fields(Augmentation)]
    missing = {each.name for each in fields} - set(vars(parsed))
    assert missing == {"augmentation"}


def test_every_option_is_set():
    given = {
        "options": '{"filters": 5}',
        "epochs": "3",
        "passes": "2",
        "per-class": "7",
        "batch-size": "11",
        "learning-rate": "0.01",
        "warmup": "0.5",
        "weight-decay": "0.02",
        "average": "0.9",
        "patience": "4",
        "seed": "5",
        "dtype": "mixed_bfloat16",
        "name": "mine",
        "image-size": "17x13",
        "color-mode": "grayscale",
        "shift": "1.5",
        "rotation": "20",
        "scale": "0.1",
        "shear": "0.2",
        "erase": "3",
        "brightness": "0.3",
        "noise": "0.4",
    }
    argv = [f"--{name}={value}" for name, value in given.items()]
    parse = options.make_parser().parse_args
    parsed = parse(["train", "capsnet", "photos", *argv, "--flip"])
    settings = Settings.from_record(vars(parsed))
    record = settings.as_record(True)
    assert record.pop("flip") and record.pop("no_validation") is False
    # Without validation, there is no patience.
    assert parse(["train", "capsnet", "x", "--no-validation"]).no_validation
    expected = {key.replace("-", "_"): x for key, x in given.items()}
    assert record.pop("options") == {"filters": 5}
    assert record.pop("image_size") == (17, 13)
    for name in ("options", "image_size"):
        del expected[name]
    assert (record.pop("network"), record.pop("task")) == ("capsnet", "photos")
    assert {k: type(x)(expected[k]) for k, x in record.items()} == record
    assert settings.image_shape == (17, 13, 1)
    assert Settings.from_record(settings.as_record(True)) == settings
    assert "image_size" not in settings.as_record(False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command):
    code, printed, _ = run(command, "--help")
    assert code == 0
    assert f"keras-capsules {command} " in printed.split("options:")[0]
    # An example, indented, that the parser takes.
    examples = re.findall(
        rf"^    (keras-capsules {command}\b(?:.*\\\n)*.*)", printed, re.M
    )
    assert examples
    for example in examples:
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {example}"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")[:-1]
        options.make_parser().parse_args(words[1:])


def test_help_names_all_commands():
    code, printed, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"^    {command} ", printed, re.M)
        assert callable(getattr(commands, command))
    for code in (0, 1, 2, 130):
        assert re.search(rf"\b{code}\b", printed.split("exit code is")[1])
    assert run() == (2, "", printed)


def parsers():
    """The parser of each command."""
    (found,) = (
        action
        for action in options.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return found.choices


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_option_does(command):
    for action in parsers()[command]._actions:
        name = action.option_strings[-1:] or action.dest
        assert len(action.help.split()) >= 3, name
        if not action.option_strings or action.nargs == 0:
            continue
        if action.choices is None and action.dest not in ("name", "host"):
            # Not the name of the option again.
            assert action.metavar not in (None, action.dest.upper()), name
        if action.default in (None, [], {}, 0, False):
            continue
        assert "Default: %(default)s" in action.help, name


def test_help_of_train_teaches():
    code, printed, _ = run("train", "--help")
    assert code == 0
    text = " ".join(printed.split())
    for words in (
        "efficient_capsnet for few parameters, capsnet to begin with",
        "conv_net to compare",
        "--batch-size 16",  # of few images, as the page says
        "--patience N stop after N epochs without a better one. Default: never",
        "--average MOMENTUM average the weights over steps with this momentum",
        "--erase PIXELS paint a grey square",
        "--noise DEVIATION add normal noise of this standard deviation; pixels",
    ):
        assert words in text
    for name in (*training.NETWORKS, *training.TASKS):
        assert name in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_how_to_install_extras_in_a_clone(command):
    _, printed, _ = run(command, "--help")
    text = " ".join(printed.split())
    for extra in re.findall(r'pip install "keras-capsules(\[\w+\])"', text):
        assert f'or in a clone with pip install ".{extra}"' in text


def test_help_calls_no_score_a_probability():
    _, printed, _ = run("predict", "--help")
    assert "a score of its own, from 0 to 1" in " ".join(printed.split())
    assert "probability" not in printed


def test_help_imports_neither_keras_nor_a_backend():
    script = (
        "import sys\nimport keras_capsules_cli\n"
        "try:\n    keras_capsules_cli.main(['train', '--help'])\n"
        "finally:\n    heavy = {'keras', 'numpy', 'tensorflow', 'jax'}\n"
        "    print(sorted(heavy & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["train", "resnet", "digits"], "invalid choice: 'resnet'"),
        (["train", "capsnet"], "required: TASK"),
        (
            ["train", "capsnet", "digits", "--epochs", "0"],
            "--epochs: expected a positive integer, received '0'",
        ),
        (
            ["train", "capsnet", "digits", "--epochs", "two"],
            "--epochs: expected a positive integer, received 'two'",
        ),
        (
            ["train", "capsnet", "digits", "--options", "[1]"],
            "--options: expected a dictionary in JSON.*received '.1.'",
        ),
        (
            ["train", "capsnet", "digits", "--options", "{"],
            "--options: expected a dictionary in JSON.*received '{'",
        ),
        (
            ["train", "capsnet", "digits", "--image-size", "3x5x7"],
            "--image-size: expected one number, or two such as 28x48, "
            "received '3x5x7'",
        ),
        (["predict", "mnist"], "required: IMAGE"),
        (["train", "conv_net", "digits", "--out=x"], "arguments: --out=x"),
        (["export", "mnist", "there", "--format", "h5"], "choice: 'h5'"),
        (["datasets", "imagenet"], "choice: 'imagenet'"),
    ],
)
def test_wrong_use(arguments, message):
    code, printed, errors = run(*arguments)
    assert code == 2 and printed == ""
    assert re.search(message, errors.replace("\n", " "))
    assert "Traceback" not in errors


def test_the_unexpected_has_its_traceback(monkeypatch):
    def fail(arguments):
        if arguments.name == "mnist":
            int("no number")
        import keras_capsules_none  # noqa: F401

    monkeypatch.setattr(commands, "datasets", fail)
    # Both errors are raised outside of our package: this file is a test.
    with pytest.raises(ValueError, match="no number"):
        main(["datasets", "mnist"])
    with pytest.raises(ModuleNotFoundError):
        main(["datasets", "digits"])


def test_a_fault_of_ours_has_its_traceback(monkeypatch):
    """It is no sentence for users: those say what was received."""
    monkeypatch.setattr(commands, "pathlib", SimpleNamespace(Path=int))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["train", "conv_net", "digits"])


def test_an_interruption(monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "datasets", interrupt)
    assert run("datasets") == (130, "", "\nInterrupted.\n")


@pytest.mark.parametrize("door", ["command", "module", "train", "explorer"])
def test_every_door_leads_to_the_command(door, tmp_path):
    examples = "examples/{}.py"
    root = keras_capsules_cli.__path__[0] + "/.."
    start = {
        # As the script that an installation makes.
        "command": ["-c", "from keras_capsules_cli import main; exit(main())"],
        "module": ["-m", "keras_capsules"],
    }.get(door, [f"{root}/{examples.format(door)}"])
    command = {"train": "train", "explorer": "explore"}.get(door, "datasets")
    given = [] if door in ("train", "explorer") else [command]
    finished = subprocess.run(
        [sys.executable, *start, *given, "--help"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"usage: keras-capsules {command} ")


def test_pyproject_names_the_command():
    root = pathlib.Path(keras_capsules_cli.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    scripts = project["project"]["scripts"]
    assert scripts == {"keras-capsules": "keras_capsules_cli:main"}
    patterns = project["tool"]["setuptools"]["package-data"]["keras_capsules"]
    package = root / "keras_capsules"
    data = {path for each in patterns for path in package.glob(each)}
    # All that is no code is in a wheel.
    others = {
        path
        for path in package.rglob("*.*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others <= data


def test_files_of_the_command_are_short_and_import_keras_late():
    for path in pathlib.Path(keras_capsules_cli.__path__[0]).glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path.name
        assert not re.search(r"^(import|from) (keras\b|keras_capsules\.)", text)
