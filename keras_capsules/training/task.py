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
        num_objects: Positive integer, the objects in an image. If there are
            several, the answer is as many classes, those with the highest
            scores. Defaults to `1`.
        class_names: Names of the classes. Defaults to `()`.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_examples: int
    train: Callable[[int, int], tf.data.Dataset]
    validation: tf.data.Dataset | None
    test: Callable[[], tf.data.Dataset] | None
    num_objects: int = 1
    class_names: tuple[str, ...] = ()

    @property
    def is_multiple(self) -> bool:
        """Whether there are several objects in an image."""
        return self.num_objects > 1

    def metric(self) -> keras.metrics.Metric:
        """Counts right answers."""
        if self.is_multiple:
            return ExactMatchAccuracy(top_k=self.num_objects, name="accuracy")
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
