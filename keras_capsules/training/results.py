"""Results of trained networks, as tables and files."""

import importlib.util
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_capsules import plots
from keras_capsules.export import export_saved_model
from keras_capsules.utils import files
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice

# The ending that Keras demands of each format, and the packages it needs.
FORMATS = {
    "saved_model": ("", ()),
    "onnx": (".onnx", ("onnx",)),
    "litert": (".tflite", ()),
    "openvino": (".xml", ("openvino",)),
}
_PACKAGES = {"tensorflow": "tf2onnx", "jax": "tf2onnx", "torch": "onnxscript"}


def confusion(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Counts which classes were taken for which.

    Args:
        labels: Integers `(images,)`, the right classes.
        scores: `(images, classes)`.

    Returns:
        Integers `(classes, classes)`: the right classes, the predicted ones.

    Raises:
        ValueError: If there are several objects in an image.
    """
    if labels.ndim != 1:
        raise ValueError(
            "With several objects in an image, none is taken for another. "
            f"Expected labels (images,). Received: labels.shape={labels.shape}"
        )
    counts = np.zeros((scores.shape[1],) * 2, int)
    np.add.at(counts, (labels, scores.argmax(axis=1)), 1)
    return counts


def as_table(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """A confusion matrix as text.

    Args:
        counts: As `confusion` returns them.
        class_names: A name for each class.
    """
    numbers = [str(number) for number in range(1, len(counts) + 1)]
    names = [
        f"{number:>{len(numbers[-1])}} {name}"
        for number, name in zip(numbers, class_names, strict=True)
    ]
    corner = "right \\ predicted"
    first = max(len(corner), *map(len, names))
    width = max(len(numbers[-1]), len(str(counts.max()))) + 2
    rows = [
        name.ljust(first) + "".join(f"{count:>{width}}" for count in row)
        for name, row in zip(names, counts, strict=True)
    ]
    head = corner.ljust(first) + "".join(f"{x:>{width}}" for x in numbers)
    return "\n".join([head, *rows])


def check_picture(path: files.Path) -> None:
    """Refuses the path of a picture that could not be drawn.

    Args:
        path: The path of the file, whose ending says the format.

    Raises:
        ValueError: If Matplotlib does not know the ending.
        ImportError: If Matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "Pictures need Matplotlib. Install the extra for them: `pip "
            "install 'keras-capsules[plots]'`, or in a clone `pip install "
            "'.[plots]'`."
        )
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if os.path.splitext(path)[1].lstrip(".").lower() not in known:
        raise ValueError(
            "A picture cannot be written in this format. Expected a path that "
            f"ends in one of {', '.join(sorted(known))}. Received: "
            f"path={str(path)!r}"
        )


def plot_confusion(
    labels: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    path: files.Path,
) -> None:
    """Draws a confusion matrix into a file.

    Args:
        labels: Integers `(images,)`, the right classes.
        scores: `(images, classes)`.
        class_names: A name for each class.
        path: The path of the file, whose ending says the format.

    Raises:
        ValueError: If there are several objects in an image; or as
            `check_picture`.
        ImportError: As `check_picture`.
    """
    confusion(labels, scores)  # of one object in each image
    check_picture(path)
    figure = plots.confusion(labels, scores, class_names)
    with files.replacing(path) as fresh:
        figure.savefig(fresh, dpi=150)


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    overwrite: bool = False,
) -> str:
    """Writes a network in the format of a runtime.

    Args:
        model: A built model.
        path: The folder or file to make. Files end in `.onnx`, `.tflite`
            (LiteRT) or `.xml` (OpenVINO, which has a `.bin` beside it).
        format: One of `FORMATS`. Defaults to `"saved_model"`.
        overwrite: Boolean, whether to replace an older one at the path.
            Defaults to `False`.

    Returns:
        The path as a string.

    Raises:
        ValueError: If an argument is invalid, or there is something at the path
            already.
        ImportError: If a package that the format needs is not installed.
    """
    check_choice(format, "format", tuple(FORMATS))
    check_boolean(overwrite, "overwrite")
    if format == "saved_model":
        return export_saved_model(model, path, overwrite)
    path = os.path.abspath(os.fspath(path))
    ending, packages = FORMATS[format]
    if not path.endswith(ending):
        raise ValueError(
            f"The format {format!r} has an ending of its own. Expected a path "
            f"that ends in {ending!r}. Received: path={path!r}"
        )
    _check_backend(format)
    _check_packages(format, packages)
    taken = ValueError(
        "There is something at the path already. Expected another path, or "
        f"overwrite=True. Received: path={path!r}, overwrite={overwrite!r}"
    )
    if os.path.isdir(path) or (os.path.lexists(path) and not overwrite):
        raise taken
    # Keras makes no ONNX file of a loaded model before it was called.
    model(keras.ops.zeros((1, *model.inputs[0].shape[1:])))
    try:
        with files.replacing(path, overwrite) as fresh:
            model.export(str(fresh), format=format, verbose=False)
            _move_others(fresh, path)
    except FileExistsError:  # it came while the model was written
        raise taken from None
    return path


def _move_others(fresh, path):
    """Moves what a format has beside its file."""
    for other in fresh.parent.glob(f"{fresh.stem}.*"):
        if other != fresh:
            os.replace(other, os.path.splitext(path)[0] + other.suffix)


def _check_backend(format):
    backend = keras.backend.backend()
    if format == "litert" and backend == "jax":
        raise ValueError(
            "Keras makes no LiteRT files of JAX models. Expected "
            "KERAS_BACKEND=tensorflow. Received: keras.backend.backend()='jax'"
        )


def _check_packages(format, packages):
    if format == "onnx":
        packages = (*packages, _PACKAGES[keras.backend.backend()])
    missing = [x for x in packages if importlib.util.find_spec(x) is None]
    if missing:
        remedy = "it: `pip install openvino`"
        if format == "onnx":
            remedy = (
                "the extra for formats: `pip install "
                "'keras-capsules[formats]'`, or in a clone `pip install "
                "'.[formats]'`"
            )
        raise ImportError(
            f"The format {format!r} needs {' and '.join(missing)}. Install "
            f"{remedy}."
        )
