"""Files and folders are whole or not there, whatever happens."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from keras_capsules.utils import files
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend
kinds = pytest.mark.parametrize("kind", ["file", "folder"])


def put(path, text, kind):
    if kind == "file":
        path.write_text(text)
    else:
        path.mkdir()
        for number in range(3):
            (path / f"part-{number}").write_text(text)


def text_of(path):
    if path.is_dir():
        (text,) = {one.read_text() for one in path.iterdir()}
        assert len(list(path.iterdir())) == 3
        return text
    return path.read_text()


@kinds
def test_the_new_takes_the_place_of_the_old(kind, tmp_path):
    path = tmp_path / "some" / "folder" / "model.keras"
    for text in ("old", "new"):
        with files.replacing(path) as fresh:
            assert fresh.name == path.name  # Keras looks at the ending
            put(fresh, text, kind)
        assert text_of(path) == text
        assert os.listdir(path.parent) == [path.name]


@kinds
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_the_old_stays_after_a_failure(kind, error, tmp_path):
    path = tmp_path / "model"
    put(path, "old", kind)
    with pytest.raises(type(error)), files.replacing(path) as fresh:
        put(fresh, "new", kind)
        raise error
    assert text_of(path) == "old"
    assert os.listdir(tmp_path) == ["model"]


ENDLESS = """
import itertools
import pathlib
import sys

sys.path.insert(0, sys.argv[1])
import files

path = pathlib.Path(sys.argv[2])
for number in itertools.count():
    with files.replacing(path) as fresh:
        fresh.mkdir()
        for part in range(3):
            (fresh / f"part-{part}").write_text(f"{number}" * 1000)
    print(number, flush=True)
"""


def endless(path):
    """A process that replaces a folder again and again."""
    # The module alone: importing Keras takes seconds.
    folder = pathlib.Path(files.__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(folder), str(path)],
        stdout=subprocess.PIPE,
    )


def test_killed_at_any_moment(tmp_path):
    path = tmp_path / "model"
    for moment in range(12):
        process = endless(path)
        process.stdout.readline()  # it has begun
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # The next run brings back what was moved, and clears the rest.
        with pytest.raises(InterruptedError), files.replacing(path):
            raise InterruptedError
        text_of(path)
        assert os.listdir(tmp_path) == ["model"]


def test_what_was_moved_aside_is_brought_back(tmp_path):
    path = tmp_path / "model"
    process = endless(path)
    process.stdout.readline()
    process.kill()
    process.communicate()
    name = f"{files._prefix(path)}{process.pid}-0.x.partial"
    # There is none if it was killed between two runs.
    scratch, *_ = [*tmp_path.glob(".model.*.partial"), tmp_path / name]
    (scratch / "old").mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(scratch / "old" / "0")
    with pytest.raises(InterruptedError), files.replacing(path):
        raise InterruptedError
    text_of(path)
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_between_two_renames(error, tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    rename, calls = os.replace, []

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise error
        rename(*paths)

    with pytest.raises(error), files.replacing(path) as fresh:
        fresh.mkdir()
        (fresh / "weights").write_text("new")
        monkeypatch.setattr(os, "replace", interrupted)
    assert (path / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once(tmp_path):
    path = tmp_path / "model"
    both = [endless(path) for _ in range(2)]
    time.sleep(1.5)
    ended = [process.poll() for process in both]
    for process in both:
        process.kill()
        process.communicate()
    assert ended == [None, None]  # neither failed
    with files.replacing(path) as fresh:
        put(fresh, "last", "folder")
    assert text_of(path) == "last"
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_of_others_stay(tmp_path):
    path = tmp_path / "model"
    names = [
        f"{files._prefix(path)}{os.getpid()}-{files._RUN}.x.partial",
        f"{files._prefix(path)}{os.getppid()}-0.x.partial",  # is running
        ".model.another-machine.1-0.x.partial",
        ".models.partial",
        ".notes.partial",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    with files.replacing(path) as fresh:
        fresh.write_text("new")
    assert set(os.listdir(tmp_path)) == {*names, "model"}


def test_a_folder_that_takes_no_files(tmp_path, monkeypatch):
    assert files.prepare_folder(tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("dear")
    with pytest.raises(OSError):
        files.prepare_folder(tmp_path / "file" / "folder")

    def refuse(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError):
        files.prepare_folder(tmp_path)


def test_what_comes_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(FileExistsError):
        with files.replacing(path, overwrite=False) as fresh:
            put(fresh, "new", "folder")
            put(path, "notes", "folder")
    assert text_of(path) == "notes"
    assert os.listdir(tmp_path) == ["model"]


def test_several_find_what_one_left(tmp_path):
    path = tmp_path / "model"
    left = tmp_path / f"{files._prefix(path)}{os.getpid()}-0.x.partial"
    put(tmp_path / "moved", "old", "folder")
    (left / "old").mkdir(parents=True)
    (tmp_path / "moved").replace(left / "old" / "0")
    several = [endless(path) for _ in range(3)]
    for process in several:
        process.stdout.readline()
    assert [process.poll() for process in several] == [None] * 3
    for process in several:
        process.kill()
        process.communicate()
    with files.replacing(path) as fresh:
        put(fresh, "last", "folder")
    assert os.listdir(tmp_path) == ["model"]


def test_a_number_of_a_process_that_is_used_again(tmp_path):
    """In a container, every process may have the number 1."""
    path = tmp_path / "model"
    left = tmp_path / f"{files._prefix(path)}{os.getpid()}-0.x.partial"
    (left / "old").mkdir(parents=True)
    put(left / "old" / "0", "old", "folder")
    with pytest.raises(InterruptedError), files.replacing(path):
        raise InterruptedError
    assert text_of(path) == "old"
    assert os.listdir(tmp_path) == ["model"]
