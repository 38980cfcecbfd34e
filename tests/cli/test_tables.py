"""Confusions as a table of text."""

import numpy as np

from keras_capsules_cli import tables
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def test_a_table_of_confusions():
    counts = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 2]])
    table = tables.confusion_table(
        1000 * counts, ["a", "a longer name than", "c"]
    )
    assert table.splitlines() == [
        "right \\ predicted        1     2     3",
        "1 a                   1000     0     0",
        "2 a longer name than     0  1000  1000",
        "3 c                   1000     0  2000",
    ]


def test_numbers_of_many_classes_are_aligned():
    table = tables.confusion_table(np.eye(11, dtype=int), [*"abcdefghijk"])
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith(" 1 a") and lines[11].startswith("11 k")
