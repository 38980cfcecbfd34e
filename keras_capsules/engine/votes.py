"""The votes of a few examples.

Input capsule i votes `V_bij = u_bi W_ij` for output capsule j: its pose times a
matrix of its own for each pair of capsules.

Axes: b batch, i input capsule, j output capsule, p pose row, d input dimension,
e output dimension; f stands for the p e numbers of a pose. Vector capsules have
p = 1. The kernel's k is i, or a divisor of it if input capsules share matrices:
capsules i and i + k have the same one.
"""

import functools
import math
from typing import Any

from keras import ops

from keras_capsules.engine import compilation
from keras_capsules.engine.blocks import in_blocks
from keras_capsules.engine.blocks import over_devices
from keras_capsules.types import Tensor

# The largest input dimension, the smallest pose and the largest kernel of
# vector capsules for which XLA makes votes by adding up. That reads the kernel
# once for each example, so the kernel should be in a cache.
_MOST_TERMS = 16
_LEAST_DIM = 8
_LARGEST_KERNEL = 2**22


def make_votes(poses: Tensor, kernel: Tensor) -> Tensor:
    """Makes all votes of some examples.

    For each output capsule, the votes of all input capsules are one piece of
    memory. In this layout, agreements and weighted sums are products of
    matrices, and measured up to ten times as fast as in others.

    Args:
        poses: Poses of the input capsules, `[b, i, p, d]`.
        kernel: `[k, d, j, e]`, of the dtype of `poses`.

    Returns:
        `[b, j, i, f]`.
    """
    _, _, rows, dim = poses.shape
    if (
        compilation.in_xla()
        and rows == 1
        and dim <= _MOST_TERMS
        and kernel.shape[3] >= _LEAST_DIM
        and math.prod(kernel.shape) <= _LARGEST_KERNEL
    ):
        by_kernel = functools.partial(_multiplied, in_columns=True)
        make = compilation.bilinear(_added_up, _multiplied, by_kernel)
        return make(poses, kernel)
    return _multiplied(poses, kernel)


def _multiplied(poses, kernel, in_columns=False):
    """Votes as products of matrices, one for each input capsule.

    With the poses in columns, the gradient to the kernel is a product of
    matrices that need not be transposed, which measured twice as fast.
    """
    inputs, rows, dim = ops.shape(poses)[1:]
    kernels, _, outputs, out_dim = kernel.shape
    size = rows * out_dim
    # Axes of size 1 are left out: LiteRT transposes few axes only.
    places = [] if poses.shape[1] == kernels else [inputs // kernels]
    rows = [rows] * (rows != 1)
    poses = ops.reshape(poses, (-1, *places, kernels, *rows, dim))
    axis = len(places) + 1
    kernel = ops.reshape(kernel, (kernels, dim, -1))
    if in_columns:
        poses = ops.moveaxis(poses, (axis, -1), (0, 1))  # [k, d, b, place, p]
        poses = ops.reshape(poses, (kernels, dim, -1))
        votes = ops.einsum("kdn,kdf->knf", poses, kernel)
    else:
        poses = ops.moveaxis(poses, axis, 0)  # [k, b, place, p, d]
        poses = ops.reshape(poses, (kernels, -1, dim))
        votes = ops.matmul(poses, kernel)
    shape = (kernels, -1, *places, *rows, outputs, out_dim)
    votes = ops.reshape(votes, shape)
    # To [b, j, place, k, p, e]. Not with `moveaxis`, whose negative axes
    # PyTorch's exporter writes to ONNX as they are.
    last = len(shape) - 1
    order = [1, last - 1, *range(2, last - 1), last]
    order.insert(2 + len(places), 0)
    votes = ops.transpose(votes, order)
    return ops.reshape(votes, (-1, outputs, inputs, size))


def _added_up(poses, kernel):
    """Votes as sums over the input dimension.

    XLA makes one loop of them. From products of matrices it would copy votes
    into another order of axes, which measured three times as slow.
    """
    inputs, rows, dim = ops.shape(poses)[1:]
    kernels, _, outputs, out_dim = kernel.shape
    shape = (-1, 1, inputs // kernels, kernels, rows, dim, 1)
    poses = ops.reshape(poses, shape)  # [b, 1, place, k, p, d, 1]
    kernel = ops.transpose(kernel, (1, 2, 0, 3))[:, :, None, :, None]
    votes = sum(
        poses[:, :, :, :, :, each] * kernel[each] for each in range(dim)
    )  # [b, j, place, k, p, e]
    return ops.reshape(votes, (-1, outputs, inputs, rows * out_dim))


def count_votes(poses: Tensor, kernel: Tensor) -> Any:
    """Counts the numbers in the votes of one example, as far as known."""
    return math.prod(ops.shape(poses)[1:3]) * math.prod(kernel.shape[2:])


def sum_votes(
    coupling: Tensor, poses: Tensor, kernel: Tensor, size: int | None = 1
) -> Tensor:
    """Sums the votes for each output capsule, with given weights.

    If the coupling coefficients have no gradient, this sum is the only part
    that has one. It needs no votes: poses are weighted, for a few output
    capsules at a time, and multiplied by the matrices of all input capsules at
    once.

    Args:
        coupling: Weights of the votes, `[b, j, i]`.
        poses: `[b, i, p, d]`.
        kernel: `[k, d, j, e]`, of the dtype of `poses`.
        size: The number of output capsules to work on at once; `None` for all,
            without a loop. Defaults to `1`.

    Returns:
        `[b, j, f]`.
    """
    return over_devices(
        lambda examples, shared: _sum_votes(**examples, **shared, size=size),
        {"coupling": coupling, "poses": poses},
        {"kernel": kernel},
    )


def _sum_votes(coupling, poses, kernel, size):
    inputs, rows, dim = ops.shape(poses)[1:]
    kernels, _, outputs, out_dim = kernel.shape
    if poses.shape[1] != kernels:
        kernel = ops.tile(kernel, (inputs // kernels, 1, 1, 1))
    # Input capsules last, so that their weights multiply along memory.
    poses = ops.transpose(poses, (0, 2, 3, 1))  # [b, p, d, i]
    kernel = ops.transpose(kernel, (2, 1, 0, 3))  # [j, d, i, e]

    def one_block(parts, shared):
        coupling = parts["coupling"][:, :, None, None]  # [n, b, 1, 1, i]
        number = parts["kernel"].shape[0]
        weighted = ops.reshape(
            coupling * shared["poses"], (number, -1, dim * inputs)
        )
        kernel = ops.reshape(parts["kernel"], (number, -1, out_dim))
        sums = ops.matmul(weighted, kernel)
        return ops.reshape(sums, (number, -1, rows * out_dim))

    coupling = ops.transpose(coupling, (1, 0, 2))
    parts, shared = {"coupling": coupling, "kernel": kernel}, {"poses": poses}
    if size is None:
        sums = one_block(parts, shared)
    else:
        # Not XLA, whose large products are slower than TensorFlow's own.
        sums = in_blocks(one_block, parts, shared, size, xla=False)
    return ops.transpose(sums, (1, 0, 2))
