"""Export for serving: a SavedModel that needs TensorFlow and nothing else."""

import os
import pathlib

import keras

from keras_capsules.utils import files
from keras_capsules.utils.validation import check_boolean

__all__ = ["export_saved_model"]


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    overwrite: bool = False,
) -> str:
    """Writes a model as a SavedModel, with a named endpoint for each task.

    | endpoint | computes |
    |---|---|
    | `serve` | the model's outputs: images to class scores |
    | `capsules` | `model.encode`: images to class capsules |
    | `reconstruct` | `model.reconstruct`: images to images |

    Every model gets `serve`. It gets the others if it has these methods, as
    capsule networks in `keras_capsules.models` do (`reconstruct` only with a
    decoder). Any batch size of at least 1 is accepted. `serve` is also the
    default signature of TensorFlow Serving. The process that loads the
    SavedModel needs neither this package nor Keras.

    Args:
        model: A built `keras.Model` with one input.
        path: String or path-like, the folder to make.
        overwrite: Boolean, whether to replace a SavedModel that exists at the
            path. Defaults to `False`.

    Returns:
        The path as a string.

    Raises:
        ValueError: If `model` is not a built Keras model, an argument is
            invalid, there is something else at `path`, or the backend is
            PyTorch, which Keras cannot export from.

    An export that fails or is killed leaves an older SavedModel at the path as
    it was.

    Example:

    ```python
    import tempfile

    import numpy as np
    import tensorflow as tf
    from keras_capsules import export_saved_model
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=16, num_primary_capsules=4)
    path = export_saved_model(model, tempfile.mkdtemp() + "/capsnet")
    served = tf.saved_model.load(path)  # no keras_capsules needed from here on
    images = np.zeros((5, 8, 8, 1), "float32")
    scores = served.serve(images)  # (5, 3)
    capsules = served.capsules(images)  # (5, 3, 16)
    decoded = served.reconstruct(images)  # (5, 8, 8, 1)
    ```
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Expected a Keras model that is built, by calling it or by giving "
            f"it an input shape. Received: model={model!r}"
        )
    if keras.backend.backend() == "torch":
        raise ValueError(
            "SavedModels are made with the TensorFlow or JAX backend. Save the "
            "model with `model.save`, load it under KERAS_BACKEND=tensorflow "
            "and export it there. Received: keras.backend.backend()='torch'"
        )
    check_boolean(overwrite, "overwrite")
    path = _check_path(path)
    is_saved_model = os.path.isfile(os.path.join(path, "saved_model.pb"))
    remedy = (
        "Expected another path, or overwrite=True"
        if is_saved_model
        else "Expected a path that does not exist, or an older SavedModel with "
        "overwrite=True"
    )
    taken = ValueError(
        f"There is something at the path already. {remedy}. "
        f"Received: path={path!r}, overwrite={overwrite!r}"
    )
    if os.path.lexists(path) and not (overwrite and is_saved_model):
        raise taken
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [_input_spec(model)]
    for name, function in _endpoints(model).items():
        archive.add_endpoint(name, function, input_signature=signature)

    try:
        with files.replacing(path, overwrite) as fresh:
            archive.write_out(str(fresh), verbose=False)
    except FileExistsError:  # it came while the model was written
        raise taken from None
    return path


def _check_path(path: str | os.PathLike[str]) -> str:
    """Returns the absolute path, or raises if no folder can be made there."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            "Invalid value for argument `path`. Expected a string or a "
            f"path-like object. Received: path={path!r}"
        )
    path = os.path.abspath(os.fspath(path))
    for parent in pathlib.Path(path).parents:
        if os.path.lexists(parent) and not os.path.isdir(parent):
            raise ValueError(
                "Invalid value for argument `path`. Expected a path whose "
                f"parents are folders, but {str(parent)!r} is not a folder. "
                f"Received: path={path!r}"
            )
    return path


def _endpoints(model):
    endpoints = {"serve": lambda images: model(images, training=False)}
    if hasattr(model, "encode"):
        endpoints["capsules"] = lambda images: model.encode(images)
    if hasattr(model, "reconstruct") and getattr(model, "decoder", True):
        endpoints["reconstruct"] = lambda images: model.reconstruct(images)
    return endpoints


def _input_spec(model):
    """Returns shape and dtype of the model's input, with a free batch size."""
    # Functional and Sequential models have inputs, others may specify them.
    inputs = getattr(model, "inputs", None) or model.input_spec
    specs = keras.tree.flatten(inputs)
    if len(specs) != 1 or getattr(specs[0], "shape", None) is None:
        raise ValueError(
            "Expected a model with one input of known shape. "
            f"Received: model={model!r} with inputs={inputs}"
        )
    shape = (None, *specs[0].shape[1:])
    dtype = specs[0].dtype or keras.config.floatx()
    return keras.InputSpec(shape=shape, dtype=dtype)
