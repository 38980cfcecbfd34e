"""Oracles and data for tests of layers of capsules.

Everything is one number, or one window, after the other.
"""

import itertools
import math

import keras
import numpy as np

from tests.helpers.testing import numpy


def random(*shape, seed=3):
    return np.random.default_rng(seed).normal(0, 1, shape)


def pair(*shape, dtype="float32", seed=3):
    """Poses of this shape, vectors, and activations."""
    activations = np.random.default_rng(seed + 1).uniform(0.1, 0.9, shape[:-1])
    return random(*shape, seed=seed).astype(dtype), activations.astype(dtype)


def with_random_weights(layer, shape):
    """Builds a layer for a shape, or a pair of them."""
    layer.build(shape)
    set_random_weights(layer)
    return layer


def set_random_weights(layer, scale=1.0):
    for weight in layer.trainable_weights:
        weight.assign(scale * random(*weight.shape))


def weights_of(layer):
    return [numpy(weight).astype("float64") for weight in layer.weights]


def flatten(outputs):
    """All outputs of a layer, as a flat list of arrays."""
    return [numpy(each) for each in keras.tree.flatten(outputs)]


def assert_all_close(ours, exact, rtol=1e-4, atol=1e-5):
    for one, other in zip(flatten(ours), flatten(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def squash(pose):
    length = math.sqrt(np.sum(pose**2) + 1e-7)
    return length**2 / (1 + length**2) * pose / length


def route(poses, kernel, bias, num_iterations=3):
    """Procedure 1 of Sabour et al.

    Returns:
        Output capsules `[b, j, e]`, coupling coefficients `[b, i, j]`.
    """
    results = [
        route_votes(
            np.array(
                [
                    [capsule @ matrices[:, j] for j in range(kernel.shape[2])]
                    for capsule, matrices in zip(example, kernel, strict=True)
                ]
            ),
            bias,
            num_iterations,
        )
        for example in poses
    ]
    outputs, coupling = zip(*results, strict=True)
    return np.stack(outputs), np.stack(coupling)


def route_votes(votes, bias, num_iterations=3):
    """Procedure 1 with the votes of one example, `[i, j, e]`."""
    num_inputs, num_outputs, dim = votes.shape
    outputs = np.zeros((num_outputs, dim))
    coupling = np.zeros((num_inputs, num_outputs))
    logits = np.zeros((num_inputs, num_outputs))
    for _ in range(num_iterations):
        for i in range(num_inputs):
            powers = [math.exp(logit) for logit in logits[i]]
            coupling[i] = [power / sum(powers) for power in powers]
        for j in range(num_outputs):
            total = bias[j].copy()
            for i in range(num_inputs):
                total += coupling[i, j] * votes[i, j]
            outputs[j] = squash(total)
            for i in range(num_inputs):
                logits[i, j] += votes[i, j] @ outputs[j]
    return outputs, coupling


def window_starts(size, kernel_size, strides, padding):
    """For each axis, where on the grid its windows start; maybe below 0."""
    starts = []
    for length, window, stride in zip(size, kernel_size, strides, strict=True):
        number, margin = (length - window) // stride + 1, 0
        if padding == "same":
            # As TensorFlow documents it: the odd place goes to the end.
            number = math.ceil(length / stride)
            margin = max((number - 1) * stride + window - length, 0) // 2
        starts.append([stride * index - margin for index in range(number)])
    return starts


def places_of_windows(size, kernel_size, strides, padding):
    """For each window, its places on the grid; `None` in the margins.

    Returns:
        A list with one list of places for each window, and the sizes of the
        output grid.
    """
    starts = window_starts(size, kernel_size, strides, padding)
    windows = [
        [
            at
            if all(0 <= x < n for x, n in zip(at, size, strict=True))
            else None
            for at in itertools.product(
                *(
                    range(first, first + window)
                    for first, window in zip(start, kernel_size, strict=True)
                )
            )
        ]
        for start in itertools.product(*starts)
    ]
    return windows, tuple(map(len, starts))


def conv_capsules(poses, kernel, bias, strides, padding, num_iterations=3):
    """Dynamic routing in each window of a grid with any number of axes.

    Args:
        poses: `[b, *grid, types, d]`.
        kernel: `[*kernel_size, types, d, j, e]`.
        bias: `[j, e]`.
        strides: Tuple of integers.
        padding: `"valid"` or `"same"`.
        num_iterations: Integer.

    Returns:
        `[b, *new_grid, j, e]`.
    """
    rank = len(strides)
    windows, grid = places_of_windows(
        poses.shape[1 : 1 + rank], kernel.shape[:rank], strides, padding
    )
    matrices = kernel.reshape(-1, *kernel.shape[rank:])  # [k, types, d, j, e]
    results = []
    for example, window in itertools.product(poses, windows):
        votes = [
            np.zeros(kernel.shape[-2:])
            if at is None
            else np.einsum(
                "d,dje->je", example[at][kind], matrices[place, kind]
            )
            for place, at in enumerate(window)
            for kind in range(example.shape[-2])
        ]
        results.append(route_votes(np.array(votes), bias, num_iterations)[0])
    return np.stack(results).reshape(len(poses), *grid, *bias.shape)
