"""Export for serving: a SavedModel that needs TensorFlow and nothing else."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules.engine.blocks import all_at_once
from keras_capsules.export import checks
from keras_capsules.utils.validation import check_boolean

# What TensorFlow writes into the folder of a SavedModel.
_NAMES = {
    "saved_model.pb",
    "fingerprint.pb",
    "variables",
    "assets",
    "assets.extra",
}
# Operations of layers of this package that other runtimes lack.
_NOT_PORTABLE = {
    "Cholesky",
    "MatrixDiagPartV3",
    "MatrixDiagV3",
    "MatrixTriangularSolve",
}


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    preprocess: bool = False,
    class_names: Sequence[str] | None = None,
    portable: bool = False,
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

    With `preprocess` or `class_names`, `serve` takes images as they are in
    files, or names classes. A further endpoint `scores` then does what `serve`
    does otherwise: images as the model takes them, to the model's outputs.

    Args:
        model: A built `keras.Model` with one input.
        path: String or path-like, the folder to make.
        overwrite: Boolean, whether to replace a SavedModel that exists at the
            path, with nothing else in its folder. Defaults to `False`.
        preprocess: Boolean, whether `serve` takes images of dtype uint8 and
            shape `(batch, height, width, channels)`, with pixels from 0 to
            255. It divides them by 255, unless the model takes integers, and
            resizes images of any height and width to those of the model:
            bilinear, smoothed before it shrinks, without keeping the ratio of
            height and width. Defaults to `False`.
        class_names: Optional sequence of strings, the names of the classes.
            `serve` then returns a dictionary: `scores`, the model's outputs,
            `(batch, num_classes)`; and `labels`, the name of the class with the
            highest score, `(batch,)` strings, empty if the scores are NaN.
            The scores are not changed. Lengths of capsules are numbers from 0
            to 1, one for each class by itself, which need not sum to 1; they
            are probabilities only if the model makes them so.
        portable: Boolean, whether to write plain operations only, which
            converters to other runtimes take, such as that of TensorFlow.js.
            Layers with very many votes are otherwise loops over the images,
            with XLA functions in them, and need less memory for large batches.
            `preprocess` has to be `False` then. Defaults to `False`.

    Returns:
        The path as a string.

    Raises:
        ValueError: If `model` is not a built Keras model, an argument is
            invalid, there is something else at `path`, or the backend is
            PyTorch, which Keras cannot export from. JAX makes no portable
            SavedModels, and those have no preprocessing and none of the
            operations that factorize matrices.

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

    path = export_saved_model(
        model,
        tempfile.mkdtemp() + "/named",
        preprocess=True,
        class_names=["cat", "dog", "owl"],
    )
    served = tf.saved_model.load(path)
    found = served.serve(np.zeros((5, 20, 30, 1), "uint8"))
    found["labels"], found["scores"]  # (5,) strings, (5, 3)
    ```
    """
    checks.check_model(model)
    backends = ["tensorflow", "jax"]
    if check_boolean(portable, "portable"):
        backends.remove("jax")
    kind = "Portable SavedModels" if portable else "SavedModels"
    checks.check_backend(kind, backends)
    preprocess = check_boolean(preprocess, "preprocess")
    if portable and preprocess:
        raise ValueError(
            "The operation that resizes images, ScaleAndTranslate, is not in "
            "every runtime. Expected preprocess=False with portable=True. "
            f"Received: preprocess={preprocess!r}, portable={portable!r}"
        )
    spec = checks.input_spec(model)
    if preprocess:
        _check_images(spec.shape)
    if class_names is not None:
        class_names = _check_names(class_names, model)
    path = checks.check_path(path)
    is_older = _is_saved_model(path)
    older = path, check_boolean(overwrite, "overwrite"), "an older SavedModel"
    checks.check_free(*older, is_older)
    archive = keras.export.ExportArchive()
    archive.track(model)
    with all_at_once() if portable else contextlib.nullcontext():
        _add_endpoints(archive, model, spec, preprocess, class_names)
        with checks.replacing(*older, is_older) as fresh:
            archive.write_out(str(fresh), verbose=False)
            if portable:
                _check_portable(fresh)
    return path


def _is_saved_model(path):
    """Whether a folder holds a SavedModel, and nothing else that is lost."""
    try:
        names = set(os.listdir(path))
    except OSError:  # nothing is there, or it is no folder
        return False
    return "saved_model.pb" in names and names <= _NAMES


def _check_portable(path):
    """Raises if TensorFlow.js cannot run a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    found = set()
    for signature in loaded.signatures.values():
        graph = signature.graph.as_graph_def()
        for part in (graph.node, *(x.node_def for x in graph.library.function)):
            found |= {node.op for node in part}
    if lacking := found & _NOT_PORTABLE:
        checks.refuse("TensorFlow.js", lacking)


def _add_endpoints(archive, model, spec, preprocess, class_names):
    endpoints = _endpoints(model)
    if not preprocess and class_names is None:
        for name, function in endpoints.items():
            archive.add_endpoint(name, function, input_signature=[spec])
        return
    scores = archive.add_endpoint(
        "scores", endpoints.pop("serve"), input_signature=[spec]
    )
    serve = _serve(scores, spec, preprocess, class_names)
    # Otherwise the default of TensorFlow Serving would be the first endpoint.
    for name in ("serve", "serving_default"):
        archive.add_endpoint(name, serve)
    for name, function in endpoints.items():
        archive.add_endpoint(name, function, input_signature=[spec])


def _endpoints(model):
    endpoints = {"serve": lambda images: model(images, training=False)}
    if hasattr(model, "encode"):
        endpoints["capsules"] = lambda images: model.encode(images)
    if hasattr(model, "reconstruct") and getattr(model, "decoder", True):
        endpoints["reconstruct"] = lambda images: model.reconstruct(images)
    return endpoints


def _serve(scores, spec, preprocess, class_names):
    """The endpoint `serve` around that of the scores, a function of TensorFlow.

    JAX has neither strings nor sizes that are not known.
    """
    import tensorflow as tf

    _, height, width, channels = spec.shape if preprocess else (None,) * 4

    def serve(images):
        if preprocess:
            images = tf.cast(images, "float32")
            images = tf.image.resize(images, (height, width), antialias=True)
            # A model that takes integers takes pixels as they are.
            is_float = tf.as_dtype(spec.dtype).is_floating
            images = images / 255.0 if is_float else tf.round(images)
            images = tf.cast(images, spec.dtype)
        found = scores(images)
        if class_names is None:
            return found
        labels = tf.gather(tf.constant(class_names), tf.argmax(found, axis=-1))
        is_nan = tf.reduce_any(tf.math.is_nan(found), axis=-1)
        return {"scores": found, "labels": tf.where(is_nan, "", labels)}

    taken = tf.TensorSpec(
        (None, None, None, channels) if preprocess else spec.shape,
        tf.uint8 if preprocess else spec.dtype,
        "images",
    )
    serve = tf.function(serve, input_signature=[taken], autograph=False)
    serve.get_concrete_function()
    return serve


def _check_images(shape):
    """Raises if a model does not take images of known size."""
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Images can be resized for a model that takes images of one size. "
            "Expected an input of shape (height, width, channels), or "
            f"preprocess=False. Received: an input of shape {shape[1:]}"
        )


def _check_names(names: Any, model: keras.Model) -> list[str]:
    """Returns names of classes as a list, or raises."""
    shapes = [
        tuple(each.shape)
        for each in keras.tree.flatten(getattr(model, "outputs", None))
        if each is not None
    ]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            "Classes can be named if a model makes scores of classes. Expected "
            "one output of shape (batch, num_classes), or class_names=None. "
            f"Received: outputs of shapes {shapes}"
        )
    number = shapes[0][1]
    valid = (
        isinstance(names, Sequence)
        and not isinstance(names, str)
        and all(isinstance(name, str) and name for name in names)
    )
    if not valid or len(set(names)) != len(names) or len(names) != number:
        raise ValueError(
            "Invalid value for argument `class_names`. Expected a list of "
            f"{number} different names, one for each class. Received: "
            f"class_names={names!r}"
        )
    return list(names)
