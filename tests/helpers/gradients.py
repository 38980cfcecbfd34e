"""Gradients of backend-agnostic functions, as NumPy arrays.

A `function` here takes backend tensors and returns one scalar tensor. Arrays
keep their dtype, float64 included (which JAX would otherwise round).
"""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

# With JAX and PyTorch, Keras computes products of float64 in float32.
KEEPS_FLOAT64 = keras.backend.backend() == "tensorflow"
needs_float64 = pytest.mark.skipif(
    not KEEPS_FLOAT64, reason="This backend computes products in float32."
)


def evaluate(function, *arrays):
    """Returns `function(*arrays)`, of any shape, as a NumPy array."""
    with _float64():
        return ops.convert_to_numpy(function(*_tensors(arrays)))


def gradient(function, *arrays):
    """Returns the gradient of `function` at `arrays`.

    One array gives one gradient, several give a tuple of gradients.
    """
    with _float64():
        gradients = _gradients(function, _tensors(arrays))
        return _unpack([ops.convert_to_numpy(one) for one in gradients])


def second_gradient(function, array, direction):
    """Returns the gradient of `<gradient(function, x), direction>` in x."""

    def slope(x):
        (slopes,) = _gradients(function, [x], differentiable=True)
        return ops.sum(slopes * ops.convert_to_tensor(direction))

    return gradient(slope, array)


def of_one(function, arrays, which):
    """A scalar function of the operand `which` alone, others as in `arrays`."""

    def scalar(x):
        changed = [ops.convert_to_tensor(each) for each in arrays]
        changed[which] = x
        return ops.sum(ops.sin(function(*changed)))

    return scalar


def numeric_gradient(function, *arrays, step=1e-5):
    """The results of `gradient`, by central differences in float64."""
    arrays = [np.array(array, "float64") for array in arrays]
    gradients = []
    for array in arrays:
        slopes = np.empty_like(array)
        for index in np.ndindex(array.shape):
            middle = array[index]
            array[index] = middle + step
            above = evaluate(function, *arrays)
            array[index] = middle - step
            below = evaluate(function, *arrays)
            array[index] = middle
            slopes[index] = (above - below) / (2 * step)
        gradients.append(slopes)
    return _unpack(gradients)


def check_slopes(function, gradients, *arrays, step=1e-5, **tolerances):
    """Checks `gradients` along random directions, by central differences.

    Takes two evaluations for each array, however many entries it has.
    """
    random = np.random.default_rng(0)
    for index, slope in enumerate(gradients):
        direction = random.normal(size=arrays[index].shape)
        values = []
        for sign in (1, -1):
            moved = [np.array(array, "float64") for array in arrays]
            moved[index] += sign * step * direction
            values.append(evaluate(function, *moved))
        np.testing.assert_allclose(
            np.sum(slope * direction),
            (values[0] - values[1]) / (2 * step),
            **tolerances,
        )


def assert_close(ours, exact, tolerance=None):
    """Checks equality, to `tolerance` of the largest entry.

    By default to 1e-12 where the backend computes in float64, else to 1e-5.
    """
    if tolerance is None:
        tolerance = 1e-12 if KEEPS_FLOAT64 else 1e-5
    scale = np.abs(exact).max(initial=1e-30)
    np.testing.assert_allclose(
        np.asarray(ours) / scale, exact / scale, rtol=0, atol=tolerance
    )


def _gradients(function, tensors, differentiable=False):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return tape.gradient(
            value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    if backend == "jax":
        import jax

        argnums = tuple(range(len(tensors)))
        return jax.grad(function, argnums=argnums)(*tensors)
    if backend == "torch":
        import torch

        if not differentiable:
            tensors = [one.detach().requires_grad_() for one in tensors]
        return torch.autograd.grad(
            function(*tensors),
            tensors,
            create_graph=differentiable,
            allow_unused=True,
            materialize_grads=True,
        )
    raise NotImplementedError(f"No gradients on the {backend} backend.")


def _float64():
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    if not hasattr(jax, "enable_x64"):  # older versions
        from jax import experimental

        return experimental.enable_x64(True)
    return jax.enable_x64(True)


def _tensors(arrays):
    # A copy: on CPUs a tensor may share the memory of the array it came from.
    return [ops.convert_to_tensor(np.array(array)) for array in arrays]


def _unpack(gradients):
    return gradients[0] if len(gradients) == 1 else tuple(gradients)
