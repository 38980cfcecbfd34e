"""Export for phones and small devices: a LiteRT (TensorFlow Lite) file."""

import os
import re
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

from keras_capsules.engine.blocks import all_at_once
from keras_capsules.export import checks
from keras_capsules.export import trial
from keras_capsules.export.calibration import check_calibration
from keras_capsules.export.precision import in_float32
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_choice

_QUANTIZATIONS = ("float16", "int8")
# What is calibrated to 8 bits. Not the products of routing: with fixed ranges
# for votes and agreements, scores measured up to 0.4 away from the model's.
_IN_INT8 = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


def export_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantization: str | None = None,
    calibration: Tensor | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a model as a LiteRT file, with LiteRT's own operators only.

    The file takes and returns float32, or the integers that the model takes,
    whatever its weights are kept in:

    | `quantization` | kernels | activations | size of kernels |
    |---|---|---|---|
    | `None` | float32 | float32 | 1 |
    | `"float16"` | float16 | float32 | 1/2 |
    | `"int8"` | int8 | int8, by the range of each call | 1/4 |
    | `"int8"`, `calibration` | int8 | int8, by fixed ranges | 1/4 |

    Without `calibration`, kernels of fewer than 1,024 numbers stay in float32.
    Only products have activations in int8: convolutions and dense layers, and
    without `calibration` also votes and agreements. With `calibration`, the
    kernels of votes stay in float32, because routing needs more than fixed
    ranges of 8 bits. Norms, squashes and softmaxes are computed in float32,
    because squashes divide by lengths that int8 would round to zero.

    A model that was trained in 16 bits is made again in float32, with the same
    weights.

    Args:
        model: A built `keras.Model` with one input, on the TensorFlow backend.
        path: String or path-like, the file to make, which ends in `.tflite`.
        quantization: `None`, `"float16"` or `"int8"`. Defaults to `None`.
        calibration: Optional images of the shape that the model takes, for
            `"int8"`: a hundred or more of the training set, whose ranges of
            activations are fixed. They have to be finite, and on the scale of
            those that the model takes: it is checked only if the model has
            batch normalizations, or the images are integers. Use it for
            devices that have no floating-point units for products; elsewhere
            the file without calibration is nearer to the model.
        batch_size: Optional positive integer, the size of each batch. A fixed
            size is faster, because LiteRT's fastest kernels need it. Defaults
            to `None`, any size.
        overwrite: Boolean, whether to replace a file that exists at the path.
            Defaults to `False`.

    Returns:
        The path as a string.

    Raises:
        ValueError: If an argument is not as described, the backend is another,
            LiteRT lacks an operator, which is named, calibration finds next to
            nothing but zeros at a layer, no kernel is large enough for 8 bits,
            or a weight is too large for float16. Nothing is written then.

    Example:

    ```python
    import tempfile

    import numpy as np
    from keras_capsules.export import export_litert
    from keras_capsules.models import EfficientCapsNet

    images = np.random.uniform(size=(20, 28, 28, 1)).astype("float32")
    model = EfficientCapsNet(filters=(4, 8, 8), decoder_units=None)
    path = export_litert(
        model, tempfile.mkdtemp() + "/model.tflite", "int8", batch_size=1
    )
    ```
    """
    checks.check_model(model)
    checks.check_backend("LiteRT files", ["tensorflow"])
    if quantization is not None:
        check_choice(quantization, "quantization", _QUANTIZATIONS)
    if calibration is not None and quantization != "int8":
        raise ValueError(
            "Images for calibration are for int8. Expected "
            "quantization='int8', or calibration=None. Received: "
            f"quantization={quantization!r}"
        )
    checks.input_spec(model, batch_size)
    path = checks.check_file(path, ".tflite", overwrite)
    model = in_float32("LiteRT", model)
    spec = checks.input_spec(model, batch_size)
    if calibration is not None:
        calibration = check_calibration(model, calibration)
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        with all_at_once():
            archive.add_endpoint(
                "serve",
                lambda images: model(images, training=False),
                input_signature=[spec],
            )
            archive.write_out(folder, verbose=False)
        content = _convert(folder, quantization, calibration, batch_size)
    if quantization == "int8":
        _check_int8(content)
    elif quantization == "float16":
        _check_float16(content, model)
    inputs, outputs = trial.run(model, spec)
    found = _run(content, inputs, calibration is not None)
    if quantization is None:
        trial.check_same("LiteRT", found, outputs)
    checks.write_file(path, content, overwrite)
    return path


def _convert(folder, quantization, calibration, batch_size):
    """The content of the file, made of a SavedModel."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if quantization:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        content = converter.convert()
        if calibration is None:
            return content
        return _calibrated(converter, content, calibration, batch_size or 1)
    except Exception as error:
        found = re.findall(r"(?:Select|Custom) [oO]ps: (.+)", str(error))
        operators = [name for line in found for name in line.split(", ")]
        if operators:
            checks.refuse("LiteRT", operators, error)
        _refuse_node(error)
        raise


def _calibrated(converter, content, images, size):
    """The content of a file whose products have fixed ranges."""
    import tensorflow as tf

    def batches():
        for start in range(0, len(images), size):
            # The last one is filled up with the first images.
            batch = np.take(
                images, range(start, start + size), axis=0, mode="wrap"
            )
            yield [batch]

    converter.representative_dataset = batches
    debugger = tf.lite.experimental
    options = debugger.QuantizationDebugOptions(
        denylisted_ops=sorted(_operators(content) - _IN_INT8)
    )
    with warnings.catch_warnings():
        _ignore_deprecation()
        try:
            return debugger.QuantizationDebugger(
                converter=converter,
                debug_dataset=batches,
                debug_options=options,
            ).get_nondebug_quantized_model()
        except ValueError as error:
            if "in debug mode" not in str(error):
                raise
            raise ValueError(
                "Nothing in this model can be calibrated, so the file would be "
                "that of float32. Expected convolutions of images, or dense "
                "layers; or calibration=None. Received: a model with "
                f"{', '.join(sorted(_operators(content)))}"
            ) from error


def _check_float16(content, model):
    """Raises if a weight has no place in float16, which would cut it off."""
    largest = float(np.finfo("float16").max)
    interpreter = _interpreter(content)
    # Not every weight is in the file: variances are folded into others.
    if not any(
        (np.abs(interpreter.get_tensor(each["index"])) >= largest).any()
        for each in interpreter.get_tensor_details()
        if each["dtype"] is np.float16
    ):
        return
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.size and np.abs(values).max() > largest:
            raise ValueError(
                f"The largest number of float16 is {largest:g}. Expected "
                "smaller weights, or another `quantization`. Received: "
                f"{weight.path} with {values.min():.4g} to {values.max():.4g}"
            )


def _check_int8(content):
    """Raises if nothing in a file is kept in 8 bits."""
    if not _in_int8(content):
        raise ValueError(
            "Nothing in this model can be kept in 8 bits, so the file would be "
            "that of float32. Expected kernels of at least 1,024 numbers, "
            "which LiteRT's converter quantizes; or another quantization. "
            "Received: quantization='int8', and a model of smaller kernels"
        )


def _in_int8(content):
    """The scales of what a file keeps in 8 bits, by its names."""
    return {
        each["name"]: each["quantization_parameters"]["scales"]
        for each in _interpreter(content).get_tensor_details()
        if each["dtype"] is np.int8
    }


def _operators(content):
    """The names of the operators in a file."""
    return {
        each["op_name"] for each in _interpreter(content)._get_ops_details()
    }


def _run(content, inputs, is_calibrated):
    """Runs a file once: some shapes are refused only then."""
    try:
        runner = _interpreter(content).get_signature_runner()
        (name,) = runner.get_input_details()
        found = runner(**{name: inputs})
    except (RuntimeError, ValueError) as error:
        if is_calibrated:
            _refuse_range(content, error)
        _refuse_node(error)
        raise
    # The names of a dictionary; or output_0, output_1 and so on.
    are_numbered = all(re.fullmatch(r"output_\d+", each) for each in found)
    key = (lambda each: int(each[7:])) if are_numbered else None
    return [found[each] for each in sorted(found, key=key)]


def _interpreter(content: bytes) -> Any:
    import tensorflow as tf

    with warnings.catch_warnings():
        _ignore_deprecation()
        return tf.lite.Interpreter(model_content=content)


def _ignore_deprecation():
    # Its successor is a package of its own, with the same interface.
    warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")


def _refuse_range(content, error):
    """Names the smallest range of a file that LiteRT's kernels refuse."""
    if "XNNPACK" not in str(error):
        return
    ranges = {
        name.split(";")[-1]: 255 * float(scales[0])
        for name, scales in _in_int8(content).items()
        if len(scales) == 1
    }
    if ranges:
        name = min(ranges, key=ranges.__getitem__)
        raise ValueError(
            "Ranges of 8 bits cannot be calibrated for outputs that are zero, "
            "or nearly, for all images, such as those of a layer whose units "
            "have died. Expected a trained model, and images like those of its "
            "training; or calibration=None. Received: a range of "
            f"{ranges[name]:.1g} at {name}"
        ) from error


def _refuse_node(error):
    """Names the operator in an error of the interpreter, if there is one."""
    found = re.findall(r"Node number \d+ \((\w+)\) failed", str(error))
    if found:
        checks.refuse("LiteRT", found, error)
