"""Results as tables."""

import numpy as np
import pytest

from keras_capsules.training import results
from keras_capsules.training.task import Task
from keras_capsules_cli import tables
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def test_confusion_and_its_table():
    labels = np.array([0, 1, 1, 2, 2, 2])
    scores = np.eye(3)[[0, 1, 2, 2, 2, 0]]
    counts = results.confusion(labels, scores)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 2]]
    table = tables.as_table(1000 * counts, ["a", "a longer name than", "c"])
    assert table.splitlines() == [
        "right \\ predicted        1     2     3",
        "1 a                   1000     0     0",
        "2 a longer name than     0  1000  1000",
        "3 c                   1000     0  2000",
    ]
    with pytest.raises(ValueError, match=r"labels.shape=\(6, 3\)"):
        results.confusion(scores, scores)


def test_numbers_of_many_classes_are_aligned():
    table = tables.as_table(np.eye(11, dtype=int), [*"abcdefghijk"])
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith(" 1 a") and lines[11].startswith("11 k")


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
