"""Files and folders that are written as a whole or not at all."""

import contextlib
import errno
import os
import pathlib
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator

Path = str | os.PathLike[str]

_ATTEMPTS = 10
# Numbers of processes are used again, in containers at once.
_RUN = secrets.token_hex(4)


def prepare_folder(path: Path) -> pathlib.Path:
    """Makes a folder, if it is not there, and writes something into it.

    A program that ends in writing its results calls it first, so that hours of
    work are not lost to a read-only folder.

    Args:
        path: The folder.

    Returns:
        The folder as a `pathlib.Path`.

    Raises:
        OSError: If it cannot be made, or nothing can be written there.
    """
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"something")
    return folder


@contextlib.contextmanager
def run_folder(path: Path) -> Iterator[pathlib.Path]:
    """Makes the folder of a run, before the work that fills it.

    If the work fails and the folder is still empty, it is removed, and so are
    the folders around it that were made for it.

    Args:
        path: The path of the folder.

    Yields:
        The folder as a `pathlib.Path`.

    Raises:
        ValueError: If it cannot be made, or nothing can be written there.
    """
    folder = pathlib.Path(path)
    made = [x for x in (folder, *folder.parents) if not os.path.exists(x)]
    try:
        try:
            prepare_folder(folder)
        except OSError as error:
            raise ValueError(
                "Nothing can be written there. Expected the path of a folder "
                "that can be made. Received: "
                f"folder={str(folder)!r} ({error.strerror})"
            ) from error
        yield folder
    except BaseException:
        for each in made:
            with contextlib.suppress(OSError):  # if there is something in it
                each.rmdir()
        raise


@contextlib.contextmanager
def replacing(path: Path, overwrite: bool = True) -> Iterator[pathlib.Path]:
    """Replaces a file or a folder once its successor is complete.

    Whenever the program is interrupted or the disk is full, the old one is
    still there. (A folder is missing for the moment between two renames. If
    the program is killed just then, the next call for the same path brings it
    back.) Several processes may write to the same path: the last one wins.
    Leftovers of processes that were killed are removed. A symbolic link is
    replaced itself, not the file that it points to.

    Args:
        path: The file or folder to make or to replace.
        overwrite: Boolean, whether to replace what is there. Defaults to
            `True`.

    Yields:
        A path with the same name, not there yet, in a temporary folder beside
        it. Write to it a file or a folder.

    Raises:
        FileExistsError: If there is something at the path after all, and
            `overwrite` is `False`.
    """
    path = pathlib.Path(path).absolute()
    with beside(path) as scratch:
        try:
            fresh = scratch / path.name
            yield fresh
            if not overwrite and os.path.lexists(path):
                raise FileExistsError(
                    errno.EEXIST, "Something is there", str(path)
                )
            _move(fresh, path, scratch, overwrite)
        finally:
            _bring_back(scratch, path)  # if it was interrupted just then


@contextlib.contextmanager
def beside(path: Path) -> Iterator[pathlib.Path]:
    """Makes a temporary folder beside a path.

    If the program is killed, the next call for the same path removes it.

    Args:
        path: A file or folder, which need not exist. Its parents are made.

    Yields:
        The temporary folder.
    """
    path = pathlib.Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    scratch = tempfile.mkdtemp(
        ".partial", f"{_prefix(path)}{os.getpid()}-{_RUN}.", path.parent
    )
    try:
        yield pathlib.Path(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move(fresh, path, scratch, overwrite):
    """Puts a new file or folder into the place of an old one."""
    if not fresh.is_dir():
        os.replace(fresh, path)  # at once
        return
    if not overwrite:
        try:
            os.replace(fresh, path)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # something came just now
                raise FileExistsError(*error.args, str(path)) from None
            raise
        return
    for attempt in range(_ATTEMPTS):
        # A folder that is not empty cannot be replaced.
        old = scratch / "old" / str(attempt)
        old.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, old)
        try:
            os.replace(fresh, path)
            return
        except OSError as error:
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            # Unless another process was quicker, which is tried again.
            if not taken or attempt == _ATTEMPTS - 1:
                raise


def _clear(path):
    """Removes what killed processes left, and brings back what they moved."""
    pattern = re.compile(
        rf"{re.escape(_prefix(path))}(\d+)-(\w+)\.\w+\.partial"
    )
    for scratch in path.parent.glob(".*.partial"):
        match = pattern.fullmatch(scratch.name)
        if not match or _is_running(int(match[1]), match[2]):
            continue
        _bring_back(scratch, path)
        shutil.rmtree(scratch, ignore_errors=True)


def _bring_back(scratch, path):
    """Puts an old folder back if there is no new one in its place."""
    for old in sorted(scratch.glob("old/*"), reverse=True):
        # Unless another process was quicker.
        with contextlib.suppress(OSError):
            if not os.path.lexists(path):
                os.replace(old, path)


def _prefix(path):
    # Numbers of processes are those of one machine.
    return f".{path.name}.{platform.node()}."


def _is_running(process, run):
    """Whether there is such a process, as far as one can tell."""
    if process == os.getpid():
        return run == _RUN  # or it was another one with this number
    if os.name != "posix":
        return True  # where asking would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
