"""Export for Intel's processors: OpenVINO's two files."""

import contextlib
import importlib
import os
import pathlib
import re
import shutil
import tempfile

import keras
import numpy as np

from keras_capsules.engine.blocks import all_at_once
from keras_capsules.export import checks
from keras_capsules.export.precision import in_float32


def export_openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a model as OpenVINO's two files, its graph and its weights.

    Needs the packages of the extra `formats`. The model is compiled and run
    once before its files are put in their place. A model that was trained in 16
    bits is made again in float32, with the same weights.

    Args:
        model: A built `keras.Model` with one input, on the TensorFlow backend.
        path: String or path-like, the file of the graph, which ends in `.xml`.
            The weights are put beside it, in a file that ends in `.bin`.
        batch_size: Optional positive integer, the size of each batch. Defaults
            to `None`, any size.
        overwrite: Boolean, whether to replace files that exist there. A file
            of weights is replaced only if that of its graph is beside it.
            Defaults to `False`.

    Returns:
        The path of the graph as a string.

    Raises:
        ValueError: If an argument is not as described, the backend is another,
            or OpenVINO lacks an operator, which is named. Nothing is written
            then.
        ImportError: If a package is missing.
    """
    checks.check_model(model)
    checks.check_backend("OpenVINO's files", ["tensorflow"])
    checks.input_spec(model, batch_size)
    path = checks.check_file(path, ".xml", overwrite)
    weights = path.removesuffix(".xml") + ".bin"
    is_export = os.path.isfile(weights) and os.path.isfile(path)
    checks.check_free(weights, overwrite, "one beside its .xml", is_export)
    checks.check_packages("OpenVINO's files", ["openvino"])
    model = in_float32("OpenVINO", model)
    spec = checks.input_spec(model, batch_size)
    openvino = importlib.import_module("openvino")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.xml")
        try:
            with all_at_once():
                model.export(
                    str(file),
                    format="openvino",
                    input_signature=[spec],
                    verbose=False,
                )
            compiled = openvino.Core().compile_model(file, "CPU")
        except Exception as error:  # OpenVINO has a class for each kind
            found = re.search(r"rule found for operations: (.+)", str(error))
            if found:
                checks.refuse("OpenVINO", found[1].split(", "), error)
            raise
        images = np.zeros((batch_size or 1, *spec.shape[1:]), spec.dtype)
        compiled(images)
        _write(file, path, weights, overwrite)
    return path


def _write(file, path, weights, overwrite):
    """Puts both files in their place, or neither."""
    older = "an older file"
    folder = pathlib.Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    is_placed = False
    with tempfile.TemporaryDirectory(
        ".partial", f".{folder.name}.", folder
    ) as scratch:
        kept = pathlib.Path(scratch, "kept")
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(weights, kept, follow_symlinks=False)
        try:
            # The graph last: with it, the export is there.
            with checks.replacing(
                path, overwrite, older, os.path.isfile(path)
            ) as graph:
                graph.write_bytes(file.read_bytes())
                content = file.with_suffix(".bin").read_bytes()
                checks.write_file(weights, content, overwrite)
                is_placed = True
        except BaseException:
            if is_placed and os.path.lexists(kept):
                os.replace(kept, weights)
            elif is_placed:
                os.remove(weights)
            raise
