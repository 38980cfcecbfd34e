"""Export for Intel's processors: OpenVINO's two files."""

import contextlib
import importlib
import os
import pathlib
import re
import tempfile

import keras

from keras_capsules.engine.blocks import all_at_once
from keras_capsules.export import checks
from keras_capsules.export import trial
from keras_capsules.export.precision import in_float32
from keras_capsules.utils import files


def export_openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a model as OpenVINO's two files, its graph and its weights.

    Needs the packages of the extra `formats`. The model is compiled, run once
    and compared with the one in Keras before its files are put in their place.
    A model that was trained in 16
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
            OpenVINO lacks an operator, which is named, or it computes something
            else than the model. Nothing is written then.
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
    inputs, outputs = trial.run(model, spec)
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
            graph = _prepared(openvino, file, len(outputs))
            # Otherwise some processors compute in 16 bits.
            compiled = openvino.Core().compile_model(
                graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
            )
        except Exception as error:  # OpenVINO has a class for each kind
            lacks = re.search(r"rule found for operations: (.+)", str(error))
            if lacks:
                checks.refuse("OpenVINO", lacks[1].split(", "), error)
            raise
        found = compiled(inputs)
        found = [found[number] for number in range(len(outputs))]
        trial.check_same("OpenVINO", found, outputs)
        # Another file, because the weights of the graph are still read from it.
        file = file.with_name("prepared.xml")
        openvino.save_model(graph, str(file), compress_to_fp16=False)
        _write(file, path, weights, overwrite)
    return path


def _prepared(openvino, file, number):
    """The graph with the outputs of the model alone.

    Keras writes what nobody uses as further outputs.
    """
    graph = openvino.Core().read_model(file)
    results = sorted(graph.get_results()[:number], key=_place)
    graph = openvino.Model(results, graph.get_parameters(), "model")
    for each in graph.get_ordered_ops():
        if each.get_type_name() == "ReduceSum" and not each.get_keep_dims():
            _separate(each)
    return graph


def _place(result):
    """The number of an output that has no name: they are sorted as text."""
    found = re.fullmatch(r"Identity_(\d+):0", result.get_friendly_name())
    return int(found[1]) if found else 0


def _separate(node):
    """Puts a squeeze after a sum.

    For batches of any size, OpenVINO 2026.4 computes wrong numbers where a
    scale or a shift for each channel directly follows a sum.
    """
    opset = importlib.import_module("openvino.opset13")
    inputs, axes = node.input_value(0), node.input_value(1)
    kept = opset.reduce_sum(inputs, axes, keep_dims=True)
    squeezed = opset.squeeze(kept, axes)
    squeezed.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(squeezed.output(0))


def _write(file, path, weights, overwrite):
    """Puts both files in their place, or neither.

    Older ones are taken away first: if the program is killed meanwhile, no
    graph is left beside the weights of another.
    """
    is_placed = False
    with files.beside(path) as scratch:
        kept = {path: scratch / "kept.xml", weights: scratch / "kept.bin"}
        try:
            with checks.replacing(
                path, overwrite, "an older file", os.path.isfile(path)
            ) as graph:
                graph.write_bytes(file.read_bytes())
                content = file.with_suffix(".bin").read_bytes()
                if overwrite:
                    _move(kept.items())
                checks.write_file(weights, content, overwrite)
                is_placed = True
        except BaseException:
            if is_placed:
                os.remove(weights)
            _move((there, here) for here, there in kept.items())
            raise


def _move(pairs):
    """Moves files, those that are there."""
    for here, there in pairs:
        with contextlib.suppress(FileNotFoundError):
            os.replace(here, there)
