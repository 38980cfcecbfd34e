"""Arrays as tensors, for functions of `tf.data.Dataset.map`."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


def on_cpu(*arrays: np.ndarray) -> "tuple[tf.Tensor, ...]":
    """Makes tensors in the memory of the CPU, where data sets are made.

    A function of a data set that uses arrays has them as parts of its graph,
    which is copied many times.

    Args:
        arrays: Arrays.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        return tuple(tf.constant(each) for each in arrays)
