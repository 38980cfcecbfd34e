"""What all exports have in common: checks, signatures, and where they write."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NoReturn

import keras

from keras_capsules.utils import files
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


def check_model(model: keras.Model) -> None:
    """Raises if `model` is not a built Keras model."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Expected a Keras model that is built, by calling it or by giving "
            f"it an input shape. Received: model={model!r}"
        )


def check_backend(form: str, backends: Sequence[str]) -> None:
    """Raises if Keras does not export from the backend.

    Args:
        form: The files, for the message.
        backends: The backends that it exports from.
    """
    names = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    if keras.backend.backend() not in backends:
        raise ValueError(
            f"{form} are made with the "
            f"{' or '.join(names[each] for each in backends)} backend. Save "
            "the model with `model.save`, load it under "
            f"KERAS_BACKEND={backends[0]} and export it there. Received: "
            f"keras.backend.backend()={keras.backend.backend()!r}"
        )


def check_packages(form: str, names: Sequence[str]) -> None:
    """Raises if packages are missing.

    Args:
        form: The files, for the message.
        names: The names of the packages that they need.
    """
    missing = [x for x in names if importlib.util.find_spec(x) is None]
    if missing:
        raise ImportError(
            f"{form} need {' and '.join(missing)}. Install the extra for "
            "formats: `pip install 'keras-capsules[formats]'`, or in a clone "
            "`pip install '.[formats]'`."
        )


def input_spec(
    model: keras.Model, batch_size: int | None = None
) -> keras.InputSpec:
    """Returns shape and dtype of the model's input.

    Args:
        model: A built model.
        batch_size: The size of each batch; `None` for any.
    """
    if batch_size is not None:
        batch_size = check_integer(batch_size, "batch_size")
    # Functional and Sequential models have inputs, others may specify them.
    inputs = getattr(model, "inputs", None) or model.input_spec
    specs = keras.tree.flatten(inputs)
    if len(specs) != 1 or getattr(specs[0], "shape", None) is None:
        raise ValueError(
            "Expected a model with one input of known shape. "
            f"Received: model={model!r} with inputs={inputs}"
        )
    shape = (batch_size, *specs[0].shape[1:])
    dtype = specs[0].dtype or keras.config.floatx()
    return keras.InputSpec(shape=shape, dtype=dtype)


def check_path(path: str | os.PathLike[str], suffix: str = "") -> str:
    """Returns the absolute path, or raises if nothing can be made there."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            "Invalid value for argument `path`. Expected a string or a "
            f"path-like object. Received: path={path!r}"
        )
    path = os.path.abspath(os.fspath(path))
    if not path.endswith(suffix):
        raise ValueError(
            "Invalid value for argument `path`. Expected a path that ends in "
            f"{suffix!r}. Received: path={path!r}"
        )
    for parent in pathlib.Path(path).parents:
        if os.path.lexists(parent) and not os.path.isdir(parent):
            raise ValueError(
                "Invalid value for argument `path`. Expected a path whose "
                f"parents are folders, but {str(parent)!r} is not a folder. "
                f"Received: path={path!r}"
            )
    return path


def check_free(path: str, overwrite: bool, older: str, is_older: bool) -> None:
    """Raises if there is something at the path that is not to be replaced.

    Args:
        path: The path.
        overwrite: Whether to replace an older export.
        older: What an older export is, for the message.
        is_older: Whether there is one at the path.
    """
    if os.path.lexists(path) and not (
        check_boolean(overwrite, "overwrite") and is_older
    ):
        raise _taken(path, overwrite, older, is_older)


def check_file(
    path: str | os.PathLike[str], suffix: str, overwrite: bool
) -> str:
    """Returns the absolute path of a file to make, or raises.

    Args:
        path: The argument.
        suffix: What the path has to end in.
        overwrite: The argument, whether to replace an older file.
    """
    path = check_path(path, suffix)
    check_boolean(overwrite, "overwrite")
    check_free(path, overwrite, "an older file", os.path.isfile(path))
    return path


@contextlib.contextmanager
def replacing(
    path: str, overwrite: bool, older: str, is_older: bool
) -> Iterator[pathlib.Path]:
    """Works as `files.replacing`, with the error of `check_free`."""
    try:
        with files.replacing(path, overwrite) as fresh:
            yield fresh
    except FileExistsError:  # it came while the model was written
        raise _taken(path, overwrite, older, is_older) from None


def write_file(path: str, content: bytes, overwrite: bool) -> None:
    """Writes a file as a whole or not at all."""
    older = "an older file"
    with replacing(path, overwrite, older, os.path.isfile(path)) as fresh:
        fresh.write_bytes(content)


def refuse(
    runtime: str, operators: Iterable[str], error: Exception | None = None
) -> NoReturn:
    """Raises because a runtime lacks operators."""
    names = sorted(set(operators))
    raise ValueError(
        f"{runtime} cannot run this model: it has no operator "
        f"{', '.join(names)}, or not for these shapes. Nothing was written. "
        "Expected a model of other operations; docs/formats.md says what "
        f"cannot be exported. Received: a model with {', '.join(names)}"
    ) from error


def _taken(path, overwrite, older, is_older):
    remedy = (
        "Expected another path, or overwrite=True"
        if is_older
        else f"Expected a path that does not exist, or {older} with "
        "overwrite=True"
    )
    return ValueError(
        f"There is something at the path already. {remedy}. "
        f"Received: path={path!r}, overwrite={overwrite!r}"
    )
