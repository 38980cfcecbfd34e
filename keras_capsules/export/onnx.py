"""Export for ONNX Runtime and others that read ONNX."""

import importlib
import os
import pathlib
import tempfile
import warnings
from typing import Any

import keras

from keras_capsules.engine.blocks import all_at_once
from keras_capsules.export import checks
from keras_capsules.export import trial
from keras_capsules.export.precision import in_float32

# The packages with which Keras makes ONNX files.
_CONVERTERS = {"tensorflow": "tf2onnx", "torch": "onnxscript"}


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a model as an ONNX file, which takes batches of any size.

    Needs the packages of the extra `formats`. The file is loaded and run once
    in ONNX Runtime, and compared with the model, before it is put in its place.
    A model that was trained in
    16 bits is made again in float32, with the same weights.

    Args:
        model: A built `keras.Model` with one input, on the TensorFlow or the
            PyTorch backend.
        path: String or path-like, the file to make, which ends in `.onnx`.
        batch_size: Optional positive integer, the size of each batch. Defaults
            to `None`, any size.
        overwrite: Boolean, whether to replace a file that exists at the path.
            Defaults to `False`.

    Returns:
        The path as a string.

    Raises:
        ValueError: If an argument is not as described, the backend is JAX, ONNX
            lacks an operator, which is named, or ONNX Runtime computes
            something else than the model. Nothing is written then.
        ImportError: If a package is missing.

    Example:

    ```python
    import tempfile

    from keras_capsules.export import export_onnx
    from keras_capsules.models import EfficientCapsNet

    model = EfficientCapsNet(filters=(4, 8, 8), decoder_units=None)
    path = export_onnx(model, tempfile.mkdtemp() + "/model.onnx")
    ```
    """
    checks.check_model(model)
    checks.check_backend("ONNX files", ["tensorflow", "torch"])
    checks.input_spec(model, batch_size)
    path = checks.check_file(path, ".onnx", overwrite)
    converter = _CONVERTERS[keras.backend.backend()]
    checks.check_packages("ONNX files", ["onnx", "onnxruntime", converter])
    onnx, runtime = map(importlib.import_module, ("onnx", "onnxruntime"))
    model = in_float32("ONNX", model)
    spec = checks.input_spec(model, batch_size)
    # Keras makes no ONNX file of a loaded model before it was called.
    inputs, outputs = trial.run(model, spec)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.onnx")
        with all_at_once(), warnings.catch_warnings():
            # Keras 3.15 asks NumPy for a name that it no longer has.
            warnings.filterwarnings("ignore", "In the future `np.object`")
            model.export(
                file, format="onnx", input_signature=[spec], verbose=False
            )
        content = file.read_bytes()
    _check_operators(onnx, onnx.load_from_string(content))
    session = runtime.InferenceSession(
        content, providers=["CPUExecutionProvider"]
    )
    (place,) = session.get_inputs()
    found = session.run(None, {place.name: inputs})
    trial.check_same("ONNX Runtime", found, outputs)
    checks.write_file(path, content, overwrite)
    return path


def _check_operators(onnx: Any, model: Any) -> None:
    """Raises if there are operators that ONNX does not have."""
    versions = {each.domain: each.version for each in model.opset_import}
    missing = {
        node.op_type
        for node in _nodes(onnx, model.graph)
        if not onnx.defs.has(
            node.op_type, versions.get(node.domain, 1), node.domain
        )
    }
    if missing:
        checks.refuse("ONNX", missing)


def _nodes(onnx, graph):
    """All nodes of a graph and of the graphs in them."""
    for node in graph.node:
        yield node
        for each in node.attribute:
            if each.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(onnx, each.g)
