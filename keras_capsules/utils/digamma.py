"""The digamma function, which not every version of `keras.ops` has."""

import numpy as np
from keras import ops

from keras_capsules.types import Tensor

# Added to all arguments, because the series needs large ones.
_SHIFT = 6

# The terms of the series, coefficients of powers of 1 / x: 1/2, and Bernoulli
# numbers B_2k / 2k, so many that the first one left out counts for less than
# 2e-13 at 6.
_TERMS = (
    (1, 1 / 2),
    (2, 1 / 12),
    (4, -1 / 120),
    (6, 1 / 252),
    (8, -1 / 240),
    (10, 1 / 132),
    (12, -691 / 32760),
    (14, 1 / 12),
)


def digamma(x: Tensor) -> Tensor:
    """Computes the derivative of the logarithm of the gamma function.

    Six steps `digamma(x) = digamma(x + 1) - 1 / x` lead to arguments of at
    least 6, where the asymptotic series is exact to rounding.

    Args:
        x: A tensor of positive numbers.

    Returns:
        A tensor like `x`, exact to 1e-12 in float64.
    """
    # All terms at once, because graphs of few operations compile faster.
    exponents, coefficients, steps = (
        ops.convert_to_tensor(np.array(each), dtype=x.dtype)
        for each in (*zip(*_TERMS, strict=True), range(_SHIFT))
    )
    steps = ops.reciprocal(x[..., None] + steps)
    logarithm = ops.log(x + _SHIFT)
    powers = ops.exp(-exponents * logarithm[..., None])
    series = ops.sum(coefficients * powers, axis=-1)
    return logarithm - series - ops.sum(steps, axis=-1)
