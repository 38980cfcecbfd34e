"""Class scores, as sums over batches."""

from typing import Any

import numpy as np
from keras import ops

from keras_capsules.utils.labels import check_labels
from keras_capsules.utils.validation import check_numbers


class ScoreSums:
    """The class scores of all images.

    Args:
        num_classes: Integer, the number of classes.
        labels: Integer, one-hot or multi-hot labels of all images, or `None`.
        number: Integer, the number of images.

    Raises:
        ValueError: If the labels have another shape, or are no numbers.
    """

    def __init__(self, num_classes: int, labels: Any, number: int):
        self.num_classes = num_classes
        self.has_labels = labels is not None
        self.integers: Any = None  # the labels, if they are integers
        self._hot: Any = np.zeros((number, num_classes), bool)
        if labels is not None:
            self._set_labels(labels)
        self.counts = self._hot.sum(axis=0)
        self.wins = np.zeros(num_classes, int)
        self._hits = np.zeros(num_classes)
        self._own = np.zeros(num_classes)
        self._total = np.zeros(num_classes)

    def _set_labels(self, labels):
        if ops.is_tensor(labels):
            labels = ops.convert_to_numpy(labels)
        labels, shape = np.asarray(labels), self._hot.shape
        # With a single class, labels say whether it is present.
        is_column = labels.shape in (shape[:1], (shape[0], 1)) and shape[1] > 1
        if is_column:
            last = shape[1] - 1
            check_numbers(labels, "labels", f"integers from 0 to {last}")
            # Those out of range are of no class: that is a finding.
            self.integers = labels.reshape(-1).astype("float64")
            self._hot = self.integers[:, None] == np.arange(shape[1])
            return
        check_labels(labels, shape, "labels")
        self._hot = labels.reshape(shape).astype("float64") > 0.5

    @property
    def are_classes(self) -> np.ndarray:
        """Whether the label of each image is of a class, `(images,)`."""
        return self._hot.any(axis=1)

    def add(self, scores: np.ndarray, start: int) -> None:
        """Adds a batch.

        Args:
            scores: `(images, classes)`.
            start: The number of its first image.
        """
        hot = self._hot[start : start + len(scores)]
        finite = np.isfinite(scores).all(axis=1)
        winners = np.eye(self.num_classes, dtype=int)[scores.argmax(axis=1)]
        winners = winners * finite[:, None]
        self.wins += winners.sum(axis=0)
        self._hits += (winners * hot).sum(axis=0)
        with np.errstate(invalid="ignore", over="ignore"):
            self._own += np.where(hot, scores, 0.0).sum(axis=0)
            self._total += scores.sum(axis=0, dtype="float64")

    @property
    def own(self) -> np.ndarray:
        """The mean score of each class for images that show it."""
        return _means(self._own, self.counts)

    @property
    def others(self) -> np.ndarray:
        """The mean score of each class for images that do not show it."""
        number = len(self._hot) - self.counts
        return _means(self._total - self._own, number)

    @property
    def recall(self) -> np.ndarray:
        """The part of the images of each class for which it wins."""
        return _means(self._hits, self.counts)


def _means(sums, numbers):
    """Means; those of no numbers are NaN."""
    return np.where(numbers > 0, sums, np.nan) / np.maximum(numbers, 1)
