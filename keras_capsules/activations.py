"""Functions of a capsule's length that leave its direction alone."""

import numbers

import keras
from keras import ops

from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.validation import check_number

# A vector with a longer entry is scaled down to this one before it is squared.
# Both squashed lengths are 1 to rounding from here on, and even the fourth
# power, which derivatives contain, is far from overflow.
LONG = {"float32": 1e4, "float64": 1e8}

# The least for which second derivatives at 0 stay finite in float32.
MIN_EPSILON = 1e-20


def get(identifier):
    """Resolves what a layer's `activation` argument may be.

    Args:
        identifier: `"squash"`, `"exponential_squash"`, what else
            `keras.activations.get` takes, or what `serialize` returned.

    Returns:
        A function from tensors to tensors.

    Raises:
        ValueError: If `identifier` is none of these.
    """
    if isinstance(identifier, str) and identifier in _ACTIVATIONS:
        return _ACTIVATIONS[identifier]
    return keras.activations.get(identifier)


def serialize(activation):
    """What `get` takes for an activation, in JSON-serializable form."""
    for name, function in _ACTIVATIONS.items():
        if activation is function:
            return name
    return keras.activations.serialize(activation)


@keras.saving.register_keras_serializable(package="keras_capsules")
def squash(x, axis=-1, epsilon=1e-7):
    """Shrinks vectors to a length below 1 without turning them.

    Short vectors shrink to almost nothing and long ones to just under 1, so
    that the length of a capsule can say how likely its entity is present.

    Formula:

    ```python
    length = sqrt(sum(x**2) + epsilon)
    output = length**2 / (1 + length**2) * (x / length)
    ```

    Notation: `x` is s_j and the output v_j of equation 1 in
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829). `epsilon` is not
    in the paper: it makes the function smooth at 0.

    The computation runs in at least float32. Values and gradients are finite
    for all finite vectors, also where the squared length would overflow. A
    vector with an infinite or NaN entry gives NaN.

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


@keras.saving.register_keras_serializable(package="keras_capsules")
def exponential_squash(x, axis=-1, epsilon=1e-7):
    """Shrinks vectors to a length below 1, short ones hardly at all.

    Unlike `squash`, which squares short lengths, it passes them on almost
    unchanged, and their gradients too.

    Formula:

    ```python
    length = sqrt(sum(x**2) + epsilon)
    output = (1 - exp(-length)) * (x / length)
    ```

    Notation: `x` is s_n and the output the squash operation of
    [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491)
    (Efficient-CapsNet). The released code adds its epsilon to the length and
    overflows for lengths above 88; here it is added to the squared length.

    The computation runs in at least float32. Values and gradients are finite
    for all finite vectors, also where the squared length would overflow. A
    vector with an infinite or NaN entry gives NaN.

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


@keras.saving.register_keras_serializable(package="keras_capsules")
def safe_norm(x, axis=-1, keepdims=False, epsilon=1e-7):
    """Computes the length of vectors, with a gradient at 0 as well.

    Formula:

    ```python
    length = sqrt(sum(x**2) + epsilon)
    ```

    The length of a zero vector is therefore `sqrt(epsilon)`, not 0.

    The computation runs in at least float32, and the squares do not overflow.
    The gradient is finite for all finite vectors. So is the length, except
    that it is infinite where it exceeds the largest number of its dtype. A
    vector with an infinite or NaN entry gives NaN.

    Args:
        x: A tensor, or an array or list that converts to one.
        axis: Integer or list/tuple of integers, the axis (or axes) that holds
            one vector. Defaults to `-1`.
        keepdims: Boolean, whether `axis` stays, with size 1. Defaults to
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
    # The scale is a constant to the gradient, rightly so: a change of scale
    # alone changes neither a direction nor a squashed length that is 1 already.
    largest = ops.max(
        ops.abs(ops.stop_gradient(x)),
        axis=axis,
        keepdims=True,
        initial=0.0,  # for an empty batch
    )
    # The same as `maximum(largest, long)`, with which XLA's code for the
    # gradient takes twice as long on a CPU.
    scale = long / ops.where(largest > long, largest, long)
    x = x * scale
    squared_length = ops.sum(ops.square(x), axis=axis, keepdims=keepdims)
    if not keepdims:
        scale = ops.squeeze(scale, axis=axis)
    return x, squared_length + epsilon, scale


_ACTIVATIONS = {"squash": squash, "exponential_squash": exponential_squash}
