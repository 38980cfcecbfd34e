"""Initial weights of a stated standard deviation."""

import keras

# What is left of a normal distribution's standard deviation when values
# beyond twice that are drawn again, as Keras does.
_TRUNCATED = 0.87962566103423978


def truncated_normal(stddev):
    """A truncated normal that has this standard deviation once truncated."""
    return keras.initializers.TruncatedNormal(stddev=stddev / _TRUNCATED)


def get(identifier, default):
    """What Keras takes for an initializer, or `default` for `None`."""
    return default if identifier is None else keras.initializers.get(identifier)
