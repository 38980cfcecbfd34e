"""Pipelines whose batches are looked at as they come."""

import sys
from collections.abc import Callable
from typing import Any


def is_pipeline(value: Any) -> bool:
    """Whether this is a `tf.data.Dataset`."""
    tensorflow = sys.modules.get("tensorflow")
    # If it was not imported, there are none.
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def with_check(pipeline: Any, check: Callable[[Any], None]) -> Any:
    """A pipeline that stops before labels that a check does not accept.

    The check runs beside the steps of training, as the rest of the pipeline
    does.

    Args:
        pipeline: A `tf.data.Dataset`. One without labels is returned as it is.
        check: Function of the labels of a batch, arrays in a structure, which
            raises an error.

    Returns:
        A `tf.data.Dataset` of the same elements.
    """
    import tensorflow as tf

    spec = pipeline.element_spec
    specs = tf.nest.flatten(spec[1:2]) if isinstance(spec, tuple) else []
    if not specs or not all(isinstance(each, tf.TensorSpec) for each in specs):
        return pipeline

    def element(x, y, *others):
        def look(*labels):
            check(tf.nest.pack_sequence_as(y, labels))

        looked = tf.numpy_function(look, tf.nest.flatten(y), [])
        with tf.control_dependencies([looked]):  # the batch waits for it
            y = tf.nest.map_structure(tf.identity, y)
        return (x, y, *others)

    return pipeline.map(element)
