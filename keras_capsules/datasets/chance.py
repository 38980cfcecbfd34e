"""Random numbers of pipelines.

They depend on the seed and on the place in the data set alone: they are the
same at every call, whatever is shuffled.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import tensorflow as tf


def random_integer(seed: Sequence[int], index: Any, limit: Any) -> "tf.Tensor":
    """A random number from 0 to `limit - 1`, always the same one.

    Args:
        seed: The seed of the data set, and the number of this draw.
        index: The place in the data set, a scalar tensor.
        limit: An integer or a scalar tensor.
    """
    import tensorflow as tf

    return tf.random.stateless_uniform(
        [], seed_of(seed, index), 0, tf.cast(limit, "int64"), "int64"
    )


def seed_of(seed: Sequence[int], index: Any) -> "tf.Tensor":
    """The seed of a draw, for TensorFlow's stateless random numbers.

    Args:
        seed: See `random_integer`.
        index: See `random_integer`.
    """
    import tensorflow as tf

    first, second = seed
    number = tf.constant(first * 1000 + second, "int64")
    return tf.stack([number, tf.cast(index, "int64")])
