"""Metrics of class scores, for images that may show several classes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.types import Tensor
from keras_capsules.utils.labels import to_multi_hot
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number
from keras_capsules.utils.validation import check_numbers

__all__ = ["ExactMatchAccuracy"]


@keras.saving.register_keras_serializable(package="keras_capsules")
class ExactMatchAccuracy(keras.metrics.Mean):
    """The share of examples whose predicted classes are exactly the true ones.

    A prediction counts as correct if it contains all classes that are present
    and no other. The predicted classes are those with a score above a
    threshold, or the `top_k` classes with the highest scores, if the number of
    objects in an image is known.

    Do not use `metrics=["accuracy"]` with multi-hot labels. Keras takes it for
    `CategoricalAccuracy`, which compares only the highest score with the first
    of the highest labels; or, with one score per example, for
    `BinaryAccuracy`.

    Notation: [Sabour et al., 2017](https://arxiv.org/abs/1710.09829) take the
    two most active capsules as the prediction for MultiMNIST, whose images show
    two digits: `top_k=2`.

    Args:
        threshold: Number. A class with a score above it is predicted. Not used
            with `top_k`. Defaults to `0.5`.
        top_k: Positive integer, how many classes to predict for each example;
            or `None` to use the threshold. Ties go to the class with the
            lower index. Defaults to `None`.
        name: Optional name of the metric. Defaults to
            `"exact_match_accuracy"`.
        dtype: The dtype of the result. Defaults to `None`, which means
            `keras.config.floatx()`.

    Call arguments:
        y_true: The classes that are present: integer labels, of shape
            `(batch, ...)` or `(batch, ..., 1)`; or one-hot or multi-hot labels,
            of shape `(batch, ..., num_classes)`, where a class is present if
            its label is above 0.5. An example with an invalid label counts as
            wrong.
        y_pred: Class scores, such as lengths of class capsules, of shape
            `(batch, ..., num_classes)`.
        sample_weight: Optional weights of the examples.

    Raises:
        ValueError: If an argument is invalid, or the shapes of a call do not
            fit.

    Example:

    ```python
    import numpy as np

    from keras_capsules.metrics import ExactMatchAccuracy

    labels = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.9, 0.3], [0.1, 0.7, 0.9]])
    metric = ExactMatchAccuracy()
    print(float(metric(labels, scores)))  # 1/3: the second misses a class,
    # and the third has one too many
    ```
    """

    def __init__(
        self,
        threshold: float = 0.5,
        top_k: int | None = None,
        name: str | None = "exact_match_accuracy",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.threshold = check_number(threshold, "threshold")
        self.top_k = top_k if top_k is None else check_integer(top_k, "top_k")
        # Callbacks with `mode="auto"` look at it.
        self._direction = "up"

    def update_state(
        self,
        y_true: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        """Counts the correct examples of a batch.

        Args:
            y_true: See the class.
            y_pred: See the class.
            sample_weight: See the class.
        """
        check_numbers(y_pred, "y_pred")
        labels = to_multi_hot(y_true, np.shape(y_pred), "y_true")
        y_pred = ops.cast(y_pred, "float32")
        predicted = y_pred > self.threshold
        if self.top_k is not None:
            predicted = self._highest(y_pred)
        # An invalid label is NaN, so neither comparison is true.
        agrees = ops.where(predicted, labels > 0.5, labels <= 0.5)
        super().update_state(ops.all(agrees, axis=-1), sample_weight)

    def _highest(self, scores):
        """Marks the `top_k` highest scores of each example."""
        num_classes = scores.shape[-1]
        if self.top_k > num_classes:
            raise ValueError(
                f"Expected class scores of at least top_k={self.top_k} "
                f"classes. Received: y_pred.shape={tuple(scores.shape)}"
            )
        # Not `ops.top_k`, whose order of equal scores depends on the backend.
        order = ops.argsort(-scores, axis=-1)[..., : self.top_k]
        return ops.sum(ops.one_hot(order, num_classes), axis=-2) > 0

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "top_k": self.top_k,
        }
