"""A task: examples to train, to validate and to test on."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_capsules.metrics import ExactMatchAccuracy


@dataclasses.dataclass(frozen=True)
class Task:
    """Examples and how answers to them are scored.

    Args:
        image_shape: `(height, width, channels)`.
        num_classes: Integer.
        num_examples: Integer, the images of one pass.
        train: Function of the number of the first example and of the number
            behind the last one. It returns a data set of single examples; each
            pass is in an order of its own.
        validation: Data set of single examples; or `None`, if everything is
            trained on.
        test: Function that returns a data set of single examples; or `None` if
            there are none.
        is_multiple: Boolean, whether there are several objects in an image.
        class_names: Names of the classes. Defaults to `()`.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_examples: int
    train: Callable[[int, int], tf.data.Dataset]
    validation: tf.data.Dataset | None
    test: Callable[[], tf.data.Dataset] | None
    is_multiple: bool = False
    class_names: tuple[str, ...] = ()

    def metric(self) -> keras.metrics.Metric:
        """Counts right answers."""
        if self.is_multiple:
            return ExactMatchAccuracy(name="accuracy")
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
