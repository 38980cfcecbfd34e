"""Pipelines whose batches are looked at as they come."""

import sys
from collections.abc import Callable
from typing import Any


def is_pipeline(value: Any) -> bool:
    """Whether this is a `tf.data.Dataset`."""
    tensorflow = sys.modules.get("tensorflow")
    # If it was not imported, there are none.
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def with_check(pipeline: Any, check: Callable[[Any, Any], None]) -> Any:
    """A pipeline that stops before a batch that a check does not accept.

    The check runs beside the steps of training, as the rest of the pipeline
    does.

    Args:
        pipeline: A `tf.data.Dataset`. One without labels is returned as it is.
        check: Function of the inputs and the labels of a batch, arrays in
            structures, which raises an error.

    Returns:
        A `tf.data.Dataset` of the same elements.
    """
    import tensorflow as tf

    spec = pipeline.element_spec
    is_labelled = isinstance(spec, tuple) and len(spec) > 1
    if not is_labelled or not all(
        isinstance(each, tf.TensorSpec) for each in tf.nest.flatten(spec[:2])
    ):
        return pipeline

    def element(x, y, *others):
        def look(*arrays):
            check(*tf.nest.pack_sequence_as((x, y), arrays))

        looked = tf.numpy_function(look, tf.nest.flatten((x, y)), [])
        with tf.control_dependencies([looked]):  # the batch waits for it
            y = tf.nest.map_structure(tf.identity, y)
        return (x, y, *others)

    return pipeline.map(element)
