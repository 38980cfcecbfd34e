"""Results as text."""

from collections.abc import Sequence

import numpy as np


def confusion_table(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """A confusion matrix as text.

    Args:
        counts: As `confusion` returns them.
        class_names: A name for each class.
    """
    numbers = [str(number) for number in range(1, len(counts) + 1)]
    names = [
        f"{number:>{len(numbers[-1])}} {name}"
        for number, name in zip(numbers, class_names, strict=True)
    ]
    corner = "right \\ predicted"
    first = max(len(corner), *map(len, names))
    width = max(len(numbers[-1]), len(str(counts.max()))) + 2
    rows = [
        name.ljust(first) + "".join(f"{count:>{width}}" for count in row)
        for name, row in zip(names, counts, strict=True)
    ]
    head = corner.ljust(first) + "".join(f"{x:>{width}}" for x in numbers)
    return "\n".join([head, *rows])
