"""The import of Keras and TensorFlow, which takes seconds and is noisy."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 0 shows all, 3 hides even errors


def load() -> None:
    """Imports Keras and TensorFlow, without what they say of themselves.

    TensorFlow writes about processors and drivers to standard error before it
    obeys a level. So this is kept back, and shown if the import fails. A user
    who sets the level to less than 3 sees it.
    """
    is_quiet = os.environ.get(_LEVEL, "3") == "3"
    os.environ.setdefault(_LEVEL, "2")  # for what comes later
    with _kept_back() if is_quiet else contextlib.nullcontext():
        import keras  # noqa: F401  PyTorch has to be imported before TensorFlow
        import tensorflow as tf

        tf.config.list_physical_devices()  # says why there is no GPU


@contextlib.contextmanager
def _kept_back() -> Iterator[None]:
    """Shows what is written to standard error only if an error is raised."""
    try:
        shown = os.dup(2)  # libraries write there, past `sys.stderr`
        kept = tempfile.TemporaryFile()
    except OSError:  # there is no standard error, or no room
        yield
        return
    has_failed = False
    os.dup2(kept.fileno(), 2)
    try:
        yield
    except Exception:
        has_failed = True
        raise
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        with kept:
            if has_failed:
                kept.seek(0)
                with open(2, "wb", closefd=False) as error:
                    shutil.copyfileobj(kept, error)
