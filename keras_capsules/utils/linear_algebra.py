"""Linear algebra that `keras.ops` lacks."""

import math

import keras
import numpy as np
from keras import ops

from keras_capsules.types import Tensor


def inverse_and_log_det(
    matrices: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """Inverts positive semidefinite matrices after adding to their diagonals.

    The diagonals get `ridge`, and also a multiple of the trace that makes up
    for rounding. Rounding could otherwise make the smallest eigenvalues
    negative where the largest is many times `ridge`.

    Args:
        matrices: `[b, j, f, f]`.
        ridge: Positive number.

    Returns:
        The inverses, `[b, j, f, f]`, and the logarithms of the determinants of
        the matrices that were inverted, `[b, j]`; NaN for matrices that are not
        finite.
    """
    size = matrices.shape[-1]
    dtype = keras.backend.standardize_dtype(matrices.dtype)
    rounding = size * float(np.finfo(dtype).eps)
    diagonals = ops.diagonal(matrices, axis1=2, axis2=3)
    added = ridge + rounding * ops.sum(diagonals, axis=2)  # [b, j]
    identity = ops.eye(size, dtype=dtype)
    matrices = matrices + added[:, :, None, None] * identity
    # The factorization of a matrix that is not finite would raise an error, and
    # so spoil the results of the other examples.
    is_finite = ops.all(ops.isfinite(matrices), axis=(2, 3))
    matrices = ops.where(is_finite[:, :, None, None], matrices, identity)
    factors = ops.cholesky(matrices)
    log_dets = 2.0 * ops.sum(
        ops.log(ops.diagonal(factors, axis1=2, axis2=3)), axis=2
    )
    inverses = ops.solve_triangular(
        factors, ops.broadcast_to(identity, ops.shape(matrices)), lower=True
    )
    inverses = ops.matmul(ops.transpose(inverses, (0, 1, 3, 2)), inverses)
    return (
        ops.where(is_finite[:, :, None, None], inverses, math.nan),
        ops.where(is_finite, log_dets, math.nan),
    )
