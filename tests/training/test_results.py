"""Results: which classes were taken for which."""

import numpy as np
import pytest

from keras_capsules.training import results
from keras_capsules.training.task import Task
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def test_confusion():
    labels = np.array([0, 1, 1, 2, 2, 2])
    scores = np.eye(3)[[0, 1, 2, 2, 2, 0]]
    counts = results.confusion(labels, scores)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 2]]
    with pytest.raises(ValueError, match=r"labels.shape=\(6, 3\)"):
        results.confusion(scores, scores)


def test_two_objects_are_the_two_highest_scores():
    """As in the paper of MultiMNIST, whatever the scores are."""
    task = Task((36, 36, 1), 3, 4, None, None, None, num_objects=2)
    assert task.is_multiple
    metric = task.metric()
    metric.update_state(
        np.array([[1.0, 0, 1], [1, 1, 0]]),
        np.array([[0.2, 0.1, 0.9], [0.2, 0.6, 0.7]]),
    )
    assert float(metric.result()) == 0.5
    assert not Task((8, 8, 1), 3, 4, None, None, None).is_multiple
