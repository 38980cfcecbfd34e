"""The folder of a run, which only stays if there is something in it."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from keras_capsules.utils import files


@contextlib.contextmanager
def run_folder(path: files.Path) -> Iterator[pathlib.Path]:
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
            files.prepare_folder(folder)
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
