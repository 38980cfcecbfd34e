"""Export for Intel's processors: OpenVINO's two files."""

import importlib
import os
import pathlib
import re
import tempfile

import keras
import numpy as np

from keras_capsules.engine.blocks import all_at_once
from keras_capsules.export import checks


def export_openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a model as OpenVINO's two files, its graph and its weights.

    Needs the packages of the extra `formats`. The model is compiled and run
    once before its files are put in their place.

    Args:
        model: A built `keras.Model` with one input, on the TensorFlow backend.
        path: String or path-like, the file of the graph, which ends in `.xml`.
            The weights are put beside it, in a file that ends in `.bin`.
        batch_size: Optional positive integer, the size of each batch. Defaults
            to `None`, any size.
        overwrite: Boolean, whether to replace files that exist there. Defaults
            to `False`.

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
    spec = checks.input_spec(model, batch_size)
    path = checks.check_file(path, ".xml", overwrite)
    weights = path.removesuffix(".xml") + ".bin"
    checks.check_file(weights, ".bin", overwrite)
    checks.check_packages("OpenVINO's files", ["openvino"])
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
        # The graph last: with it, the export is there.
        content = file.with_suffix(".bin").read_bytes()
        checks.write_file(weights, content, overwrite)
        checks.write_file(path, file.read_bytes(), overwrite)
    return path
