"""The digamma function, which not every version of `keras.ops` has."""

from keras import ops

# Where the series begins: for smaller arguments, this is added to them.
_SHIFT = 6

# Bernoulli numbers B_2k / 2k, so many that the first one left out counts for
# less than 2e-13 at 6.
_COEFFICIENTS = (
    1 / 12,
    -1 / 120,
    1 / 252,
    -1 / 240,
    1 / 132,
    -691 / 32760,
    1 / 12,
)


def digamma(x):
    """The derivative of the logarithm of the gamma function.

    As `digamma(x) = digamma(x + 1) - 1 / x`, six steps lead to arguments of at
    least 6, where the asymptotic series is exact to rounding.

    Args:
        x: A tensor of positive numbers.

    Returns:
        A tensor like `x`, exact to 1e-12 in float64.
    """
    steps = ops.arange(_SHIFT, dtype=x.dtype)
    steps = ops.reshape(steps, (_SHIFT,) + (1,) * len(x.shape))
    steps = ops.sum(ops.reciprocal(x + steps), axis=0)
    x = x + _SHIFT
    inverse = ops.reciprocal(x)
    square = inverse * inverse
    series = 0.0
    for coefficient in reversed(_COEFFICIENTS):
        series = square * (coefficient + series)
    return ops.log(x) - 0.5 * inverse - series - steps
