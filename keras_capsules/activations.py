"""Functions of a capsule's length that keep its direction.

All of them compute in at least float32. For all finite vectors, their values
and gradients are finite, also where the squared length would overflow. A vector
with an infinite or NaN entry gives NaN.
"""

import numbers
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_capsules.types import ActivationLike
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.registration import register_function
from keras_capsules.utils.validation import check_number

__all__ = [
    "exponential_squash",
    "get",
    "safe_norm",
    "serialize",
    "squash",
]

# A vector with a longer entry is scaled down to this one before it is squared.
# Both squashed lengths are 1 to rounding from here on, and even the fourth
# power, which derivatives contain, is far from overflow.
LONG = {"float32": 1e4, "float64": 1e8}

# The least epsilon with finite second derivatives at 0 in float32.
MIN_EPSILON = 1e-20


def get(identifier: ActivationLike) -> Callable[..., Tensor]:
    """Resolves the `activation` argument of a layer.

    Args:
        identifier: `"squash"`, `"exponential_squash"`, or anything that
            `keras.activations.get` takes.

    Returns:
        A function from tensors to tensors.

    Raises:
        ValueError: If `identifier` is none of these.
    """
    if isinstance(identifier, str) and identifier in _ACTIVATIONS:
        return _ACTIVATIONS[identifier]
    return keras.activations.get(identifier)


def serialize(activation: Callable[..., Tensor]) -> Any:
    """Returns the configuration of an activation, which `get` takes.

    Args:
        activation: A function that `get` returned.

    Returns:
        A name or a JSON-serializable dictionary.
    """
    for name, function in _ACTIVATIONS.items():
        if activation is function:
            return name
    return keras.activations.serialize(activation)


@register_function
def squash(
    x: Tensor, axis: int | Sequence[int] = -1, epsilon: float = 1e-7
) -> Tensor:
    """Shrinks vectors to a length below 1 and keeps their direction.

    Short vectors shrink to almost nothing and long ones to just under 1, so
    the length of a capsule can represent the probability that its entity is
    present.

    Formula:

    ```python
    length = sqrt(sum(x**2) + epsilon)
    output = length**2 / (1 + length**2) * (x / length)
    ```

    Notation: `x` is s_j and the output v_j of equation 1 in
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). `epsilon` is not
    in the paper. It makes the function smooth at 0.

    Args:
        x: A tensor, or an array or list that converts to one.
        axis: Integer or list/tuple of integers, the axis (or axes) that holds
            one vector. Defaults to `-1`.
        epsilon: Float, at least 1e-20, added to the squared length. Defaults
            to `1e-7`.

    Returns:
        A tensor of the shape and float dtype of `x` (float32 for integers).

    Raises:
        ValueError: If `axis` is not an axis of `x` or `epsilon` is too small.

    Example:

    ```python
    import numpy as np

    from keras_capsules.activations import squash

    capsules = squash(np.array([[3.0, 4.0], [0.03, 0.04]]))
    print(np.linalg.norm(capsules, axis=-1))  # about 0.96 and 0.0025
    ```
    """
    x, axis, dtype = _standardize(x, axis, epsilon)
    x, squared_length, _ = _measure(x, axis, True, epsilon)
    factor = ops.sqrt(squared_length) / (1.0 + squared_length)
    return ops.cast(x * factor, dtype)


@register_function
def exponential_squash(
    x: Tensor, axis: int | Sequence[int] = -1, epsilon: float = 1e-7
) -> Tensor:
    """Shrinks vectors to a length below 1, short ones hardly at all.

    `squash` squares short lengths. This function keeps short vectors and their
    gradients almost unchanged.

    Formula:

    ```python
    length = sqrt(sum(x**2) + epsilon)
    output = (1 - exp(-length)) * (x / length)
    ```

    Notation: `x` is s_n and the output the squash operation of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491)
    (Efficient-CapsNet). The released code adds its epsilon to the length and
    overflows for lengths above 88; here it is added to the squared length.

    Args:
        x: A tensor, or an array or list that converts to one.
        axis: Integer or list/tuple of integers, the axis (or axes) that holds
            one vector. Defaults to `-1`.
        epsilon: Float, at least 1e-20, added to the squared length. Defaults
            to `1e-7`.

    Returns:
        A tensor of the shape and float dtype of `x` (float32 for integers).

    Raises:
        ValueError: If `axis` is not an axis of `x` or `epsilon` is too small.

    Example:

    ```python
    import numpy as np

    from keras_capsules.activations import exponential_squash

    capsules = exponential_squash(np.array([[3.0, 4.0], [0.03, 0.04]]))
    print(np.linalg.norm(capsules, axis=-1))  # about 0.993 and 0.0488
    ```
    """
    x, axis, dtype = _standardize(x, axis, epsilon)
    x, squared_length, _ = _measure(x, axis, True, epsilon)
    length = ops.sqrt(squared_length)
    return ops.cast(x * (_one_minus_exp(length) / length), dtype)


@register_function
def safe_norm(
    x: Tensor,
    axis: int | Sequence[int] = -1,
    keepdims: bool = False,
    epsilon: float = 1e-7,
) -> Tensor:
    """Computes the length of vectors, with a finite gradient at 0.

    Formula:

    ```python
    length = sqrt(sum(x**2) + epsilon)
    ```

    The length of a zero vector is therefore `sqrt(epsilon)`, not 0. A length
    that exceeds the largest number of its dtype is infinite.

    Args:
        x: A tensor, or an array or list that converts to one.
        axis: Integer or list/tuple of integers, the axis (or axes) that holds
            one vector. Defaults to `-1`.
        keepdims: Boolean, whether to keep `axis` with size 1. Defaults to
            `False`.
        epsilon: Float, at least 1e-20, added to the squared length. Defaults
            to `1e-7`.

    Returns:
        A tensor of lengths, of the float dtype of `x` (float32 for integers).

    Raises:
        ValueError: If `axis` is not an axis of `x` or `epsilon` is too small.

    Example:

    ```python
    import numpy as np

    from keras_capsules.activations import safe_norm

    lengths = safe_norm(np.array([[3.0, 4.0], [0.0, 0.0]]))
    print(lengths)  # about 5.0 and 0.0003
    ```
    """
    x, axis, dtype = _standardize(x, axis, epsilon)
    _, squared_length, scale = _measure(x, axis, keepdims, epsilon)
    return ops.cast(ops.sqrt(squared_length) / scale, dtype)


def _one_minus_exp(length):
    """`1 - exp(-length)`, exact to rounding for small lengths as well."""
    if keras.backend.standardize_dtype(length.dtype) == "float64":
        return -ops.expm1(-length)
    # ONNX has no `expm1`; and Keras's `tanh` makes float64 float32 with JAX.
    tanh = ops.tanh(0.5 * length)
    return 2.0 * tanh / (1.0 + tanh)


def _standardize(x, axis, epsilon):
    """Returns `x` in at least float32, `axis` as a tuple, the output dtype."""
    check_number(epsilon, "epsilon", minimum=MIN_EPSILON)
    x = ops.convert_to_tensor(x)
    axis = _check_axis(axis, x.shape)
    dtype = keras.backend.standardize_dtype(x.dtype)
    compute_dtype = at_least_float32(dtype)
    if not keras.backend.is_float_dtype(dtype):
        dtype = compute_dtype
    return ops.cast(x, compute_dtype), axis, dtype


def _check_axis(axis, shape):
    """Returns `axis` as a tuple of axes from 0, or raises if it is invalid."""
    rank = len(shape)
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    valid = len(axes) > 0 and all(
        isinstance(one, numbers.Integral)
        and not isinstance(one, bool)
        and -rank <= one < rank
        for one in axes
    )
    if not valid or len({one % rank for one in axes}) < len(axes):
        raise ValueError(
            "Invalid value for argument `axis`. Expected an axis, or several "
            f"different ones, of an input of shape {tuple(shape)}. "
            f"Received: axis={axis!r}"
        )
    return tuple(int(one) % rank for one in axes)


def _measure(x, axis, keepdims, epsilon):
    """Returns `x` scaled to a safe size, its squared length, and the scale."""
    long = LONG[keras.backend.standardize_dtype(x.dtype)]
    # The gradient may take the scale for a constant: a change of scale alone
    # changes neither a direction nor a squashed length that is already 1.
    # Stopped twice, because TensorFlow would compute a gradient of the maximum.
    largest = ops.max(
        ops.abs(ops.stop_gradient(x)),
        axis=axis,
        keepdims=True,
        initial=0.0,  # for an empty batch
    )
    # The same as `maximum(largest, long)`, with which XLA's code for the
    # gradient takes twice as long on a CPU.
    largest = ops.stop_gradient(largest)
    scale = long / ops.where(largest > long, largest, long)
    x = x * scale
    squared_length = ops.sum(ops.square(x), axis=axis, keepdims=keepdims)
    if not keepdims:
        scale = ops.squeeze(scale, axis=axis)
    return x, squared_length + epsilon, scale


_ACTIVATIONS = {"squash": squash, "exponential_squash": exponential_squash}
