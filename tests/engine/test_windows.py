"""Windows on a grid against loops in NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.engine.windows import output_length
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient

BATCH, TYPES = 2, 3
LAYOUTS = {
    # Size, kernel, strides, padding.
    "whole": ((2, 3), (2, 3), (1, 1), "valid"),
    "single": ((3, 2), (1, 1), (1, 1), "valid"),
    "overlapping": ((5, 7), (3, 2), (1, 1), "valid"),
    "strides": ((7, 6), (3, 2), (2, 3), "valid"),
    "strides-same": ((5, 7), (3, 5), (2, 1), "same"),
    "gaps": ((5, 5), (1, 2), (3, 4), "same"),
}
layouts = pytest.mark.parametrize("name", LAYOUTS)


def places(name):
    """For each window, its places on the grid; `None` in the margins."""
    size, kernel, strides, padding = LAYOUTS[name]
    starts = []
    for length, window, stride in zip(size, kernel, strides, strict=True):
        if padding == "same":
            number = -(-length // stride)
            missing = max((number - 1) * stride + window - length, 0)
            starts.append([k * stride - missing // 2 for k in range(number)])
        else:
            starts.append(list(range(0, length - window + 1, stride)))
    return [
        [
            (y, x) if 0 <= y < size[0] and 0 <= x < size[1] else None
            for y in range(top, top + kernel[0])
            for x in range(left, left + kernel[1])
        ]
        for top in starts[0]
        for left in starts[1]
    ], (len(starts[0]), len(starts[1]))


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


@layouts
def test_unfold(name):
    windows = Windows(*LAYOUTS[name])
    grid = random(BATCH, *LAYOUTS[name][0], TYPES, 2)
    where, size = places(name)
    zeros = np.zeros((BATCH, TYPES, 2))
    expected = [
        [zeros if at is None else grid[:, at[0], at[1]] for at in window]
        for window in where
    ]
    expected = np.moveaxis(np.array(expected), 2, 0)  # [b, P, k k, ...]
    expected = expected.reshape(-1, *expected.shape[2:])
    assert tuple(windows.output_size) == size
    assert_close(evaluate(windows.unfold, grid), expected)
    for axis, number in enumerate(size):
        options = [one[axis] for one in LAYOUTS[name][:3]]
        assert output_length(*options, LAYOUTS[name][3]) == number


def totals(name, values, combine):
    """What all windows say of the same child, by loops."""
    where, _ = places(name)
    values = values.reshape(BATCH, len(where), -1, TYPES)
    result = np.empty_like(values)
    for one, window in enumerate(where):
        for place, at in enumerate(window):
            if at is None:
                continue  # what is said of margins does not matter
            same = [
                values[:, other, found.index(at)]
                for other, found in enumerate(where)
                if at in found
            ]
            result[:, one, place] = combine(same)
    mask = np.array([[at is not None for at in window] for window in where])
    return result, np.broadcast_to(mask[None, :, :, None], result.shape)


@layouts
def test_sum_and_logsumexp(name):
    windows = Windows(*LAYOUTS[name])
    where, _ = places(name)
    values = random(BATCH * len(where), len(where[0]) * TYPES)
    for function, combine in (
        (windows.sum, lambda same: sum(same)),
        (windows.logsumexp, lambda same: np.log(sum(map(np.exp, same)))),
    ):
        expected, inside = totals(name, values, combine)
        found = evaluate(function, values).reshape(expected.shape)
        assert_close(found[inside], expected[inside])


def test_logsumexp_of_huge_numbers():
    name = "overlapping"
    windows = Windows(*LAYOUTS[name])
    values = 1e4 * random(BATCH * 18, 6 * TYPES).astype("float32")

    def total(x):
        return ops.sum(windows.logsumexp(x))

    assert np.isfinite(evaluate(total, values))
    assert np.isfinite(gradient(total, values)).all()


def test_an_unknown_size_has_an_unknown_number_of_windows():
    assert output_length(None, 3, 2, "same") is None
