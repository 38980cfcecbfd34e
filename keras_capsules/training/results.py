"""Results of trained networks, as tables and files."""

import importlib.util
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_capsules import plots
from keras_capsules.export import export_litert
from keras_capsules.export import export_onnx
from keras_capsules.export import export_openvino
from keras_capsules.export import export_saved_model
from keras_capsules.training.trained import Trained
from keras_capsules.utils import files
from keras_capsules.utils.validation import check_choice

# What writes each format, and the options that it has alone.
FORMATS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "saved_model": (export_saved_model, ("preprocess", "class_names")),
    "onnx": (export_onnx, ()),
    "litert": (export_litert, ("quantization",)),
    "openvino": (export_openvino, ()),
}


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
    network: Trained,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    preprocess: bool = False,
    class_names: bool = False,
    quantization: str | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a trained network in the format of a runtime.

    Args:
        network: A `Trained`.
        path: The folder or file to make. Files end in `.onnx`, `.tflite`
            (LiteRT) or `.xml` (OpenVINO, which has a `.bin` beside it).
        format: One of `FORMATS`. Defaults to `"saved_model"`.
        preprocess: Boolean, whether a SavedModel takes pixels from 0 to 255 of
            images of any size. Defaults to `False`.
        class_names: Boolean, whether a SavedModel names the class. Defaults to
            `False`.
        quantization: `"float16"` or `"int8"`, of a LiteRT file. Defaults to
            `None`.
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
    options: dict[str, Any] = {}
    if preprocess:
        options["preprocess"] = preprocess
    if class_names:
        options["class_names"] = network.class_names
    if quantization is not None:
        options["quantization"] = quantization
    write, known = FORMATS[format]
    for name in options:
        if name not in known:
            takes = [
                key for key, (_, known) in FORMATS.items() if name in known
            ]
            raise ValueError(
                f"Not every format has the option `{name}`. Expected the "
                f"format {', '.join(takes)}, or no {name}. Received: "
                f"format={format!r}"
            )
    return write(network.model, path, overwrite=overwrite, **options)
