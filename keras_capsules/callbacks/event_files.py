"""Files that TensorBoard shows.

TensorFlow is imported here alone, in one function. Its `tf.summary.scalar` and
`tf.summary.image` need TensorBoard, what they call for each event does not.
"""

import os
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

# A function of a step, scalars and images by their names.
Writer = Callable[[int, Mapping[str, float], Mapping[str, np.ndarray]], None]

# Of TensorBoard's plugins, and the classes of their data.
_SCALARS, _IMAGES = ("scalars", 1), ("images", 3)


def check_log_dir(value: Any) -> str | os.PathLike[str] | None:
    """Returns `value`, or raises if no folder can be made there.

    Args:
        value: The argument `log_dir`: the path of a folder, or `None`.
    """
    if value is None:
        return None
    problem = ""
    if not isinstance(value, (str, os.PathLike)):
        problem = "no path"
    else:
        path = pathlib.Path(value)
        there = [each for each in (path, *path.parents) if each.exists()]
        if there and not there[0].is_dir():
            problem = f"{str(there[0])!r} is a file"
    if problem:
        raise ValueError(
            "Invalid value for argument `log_dir`. Expected the path of a "
            f"folder, or None. Received: log_dir={value!r} ({problem})"
        )
    folder: str | os.PathLike[str] = value
    return folder


def event_writer(log_dir: str | os.PathLike[str]) -> Writer:
    """Opens a new file of events in a folder.

    Args:
        log_dir: The path of the folder, which is made if need be.

    Returns:
        A function that writes events. Its arguments are the number of training
        steps; scalars by their names; and images by their names, arrays
        `(images, height, width, channels)` of pixels from 0 to 1 with 1, 3 or 4
        channels.
    """
    import tensorflow as tf

    # On the processor, so that TensorFlow takes no memory of an accelerator.
    with tf.device("CPU"):
        writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def write_one(tag, tensor, step, plugin):
        name, data_class = plugin
        metadata = tf.compat.v1.SummaryMetadata(data_class=data_class)
        metadata.plugin_data.plugin_name = name
        tf.summary.write(tag, tensor, step, metadata)

    def write(step, scalars, images):
        with tf.device("CPU"), writer.as_default():
            for tag, value in scalars.items():
                write_one(tag, tf.constant(value, "float32"), step, _SCALARS)
            for tag, values in images.items():
                pixels = np.round(255 * np.clip(values, 0.0, 1.0))
                pixels = pixels.astype("uint8")
                files = [tf.io.encode_png(each) for each in pixels]
                height, width = map(str, values.shape[1:3])
                write_one(tag, tf.stack([width, height, *files]), step, _IMAGES)
        writer.flush()

    return write
