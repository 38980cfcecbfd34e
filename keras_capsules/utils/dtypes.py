"""The precision that sums of squares, exponentials and losses need."""

import keras


def at_least_float32(dtype: str) -> str:
    """Returns the dtype to compute in: float64 for float64, else float32.

    Args:
        dtype: Dtype of the operands.
    """
    # Not `keras.backend.result_type`, which makes float64 float32 with JAX
    # and PyTorch.
    is_double = keras.backend.standardize_dtype(dtype) == "float64"
    return "float64" if is_double else "float32"
