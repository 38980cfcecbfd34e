"""Initializers with a stated standard deviation, and initializers by name."""

import keras

from keras_capsules.types import InitializerLike

# Keras replaces values that are beyond twice the standard deviation. This is
# the standard deviation of the result, for a normal distribution of 1.
_TRUNCATED = 0.87962566103423978


def truncated_normal(stddev: float) -> keras.initializers.Initializer:
    """Makes a truncated normal initializer.

    Args:
        stddev: Float, the standard deviation after the truncation.
    """
    return keras.initializers.TruncatedNormal(stddev=stddev / _TRUNCATED)


def get(
    identifier: InitializerLike, default: keras.initializers.Initializer
) -> keras.initializers.Initializer:
    """Resolves an initializer; `None` means a default.

    Args:
        identifier: `None`, or anything that `keras.initializers.get` takes.
        default: The initializer that `None` means.
    """
    return default if identifier is None else keras.initializers.get(identifier)
