"""Windows on grids with one to three axes against loops in NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_capsules.engine.windows import Windows
from keras_capsules.engine.windows import convolve
from keras_capsules.engine.windows import dilate
from keras_capsules.engine.windows import output_grid
from keras_capsules.engine.windows import output_length
from tests.helpers.capsules import places_of_windows
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
    "signal": ((7,), (3,), (2,), "valid"),
    "signal-same": ((11,), (5,), (2,), "same"),
    "volume": ((3, 5, 4), (2, 3, 1), (1, 2, 1), "valid"),
    "volume-same": ((3, 4, 5), (2, 3, 2), (2, 1, 3), "same"),
}
layouts = pytest.mark.parametrize("name", LAYOUTS)


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


@layouts
def test_unfold(name):
    windows = Windows(*LAYOUTS[name])
    grid = random(BATCH, *LAYOUTS[name][0], TYPES, 2)
    where, size = places_of_windows(*LAYOUTS[name])
    zeros = np.zeros((BATCH, TYPES, 2))
    expected = [
        [zeros if at is None else grid[(slice(None), *at)] for at in window]
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
    """Combines the values of each input capsule over its windows, by loops."""
    where, _ = places_of_windows(*LAYOUTS[name])
    values = values.reshape(BATCH, len(where), -1, TYPES)
    result = np.empty_like(values)
    for one, window in enumerate(where):
        for place, at in enumerate(window):
            if at is None:
                continue  # the values in margins do not matter
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
    where, _ = places_of_windows(*LAYOUTS[name])
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


def test_output_grid():
    shape = (None, 7, None, np.int64(5), 3)
    assert output_grid(shape, (3, 2, 2), (2, 1, 3), "valid") == [3, None, 2]
    with pytest.raises(ValueError, match=r"kernel_size=\(8,\).*Received"):
        output_grid((2, 7, 3), (8,), (1,), "valid")


@pytest.mark.parametrize("size, strides", [((3,), (2,)), ((3, 2), (1, 3))])
def test_dilate(size, strides):
    grid = random(BATCH, *size, TYPES)
    larger = [n * step for n, step in zip(size, strides, strict=True)]
    expected = np.zeros((BATCH, *larger, TYPES))
    slices = [slice(None, None, step) for step in strides]
    expected[(slice(None), *slices)] = grid
    assert_close(evaluate(lambda x: dilate(x, strides), grid), expected)


@layouts
def test_convolve(name):
    size, kernel_size, strides, padding = LAYOUTS[name]
    where, grid = places_of_windows(*LAYOUTS[name])
    inputs = random(BATCH, *size, TYPES)
    kernel = np.random.default_rng(1).normal(size=(*kernel_size, TYPES, 10))
    flat = kernel.reshape(-1, TYPES, 10)
    expected = [
        sum(
            inputs[(slice(None), *at)] @ flat[place]
            for place, at in enumerate(window)
            if at is not None
        )
        for window in where
    ]
    expected = np.stack(expected, axis=1).reshape(BATCH, *grid, 2, 5)
    result = evaluate(
        lambda x: convolve(
            x, ops.convert_to_tensor(kernel), strides, padding, (2, 5)
        ),
        inputs,
    )
    assert_close(result, expected, 1e-5)
