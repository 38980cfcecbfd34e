"""How evenly capsules divide themselves."""

import math

import numpy as np


def entropy_of(coupling: np.ndarray, axis: int = -1) -> np.ndarray:
    """The entropy of the shares along an axis, divided by that of equal ones.

    Args:
        coupling: Numbers of at least 0, which may have any sum.
        axis: Integer. Defaults to `-1`.

    Returns:
        Numbers from 0 to 1, without the axis. They are 1 if there is nothing to
        choose from, and NaN if all shares are zero, as those of a capsule in a
        window that competes may be.
    """
    coupling = np.moveaxis(coupling, axis, -1)
    number = coupling.shape[-1]
    if number == 1:
        return np.ones(coupling.shape[:-1])
    coupling = coupling.astype("float64")  # so that equal shares give 1
    with np.errstate(invalid="ignore"):
        total = coupling.sum(axis=-1, keepdims=True)
        shares = np.where(total > 0, coupling, np.nan) / total
        logarithms = np.log(np.where(shares > 0, shares, 1.0))
        return -(shares * logarithms).sum(axis=-1) / math.log(number)
