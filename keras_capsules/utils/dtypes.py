"""The precision that sums of squares, exponentials and losses need."""

import keras


def at_least_float32(dtype):
    """The dtype to compute in, given that of the tensors at hand."""
    # Not `keras.backend.result_type`, which makes float64 float32 with JAX
    # and PyTorch.
    is_double = keras.backend.standardize_dtype(dtype) == "float64"
    return "float64" if is_double else "float32"
