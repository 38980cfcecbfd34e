"""Compiles and recomputes a block of examples, on each backend.

The only module of the engine that knows backends by name, beside
`in_tensorflow`, which it calls.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_capsules.engine import in_tensorflow
from keras_capsules.types import Tensor


def device() -> str:
    """Returns the kind of the default device, such as `"cpu"` or `"gpu"`."""
    # Keras lists no devices of PyTorch.
    if in_torch():
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    return keras.distribution.list_devices()[0].split(":")[0]


def in_xla() -> bool:
    """Returns whether the operations of a block become one XLA program."""
    return keras.backend.backend() == "jax" or in_tensorflow.IN_XLA.get()


def in_torch() -> bool:
    """Returns whether PyTorch runs operations one by one."""
    return keras.backend.backend() == "torch"


def by_transposed(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiplies rows of numbers by transposed matrices, without copies.

    The products that are its gradients have the same three forms as those of
    `ops.matmul(rows, matrices)`: a row by a matrix, a row by a transposed
    matrix, and a transposed row by a row. TensorFlow's graphs must not hold
    other forms of these products. Two forms that differ only in which vector
    is transposed are one to oneDNN 3.7.3 (in TensorFlow 2.21). If two threads
    meet them first at the same time, it writes past the end of a buffer.

    Args:
        rows: `[..., 1, f]`.
        matrices: `[..., i, f]`.

    Returns:
        `[..., 1, i]`.
    """
    symbolic = any(map(keras.backend.is_keras_tensor, (rows, matrices)))
    if keras.backend.backend() == "tensorflow" and not symbolic:
        import tensorflow as tf

        dtype = keras.backend.result_type(rows.dtype, matrices.dtype)
        rows, matrices = ops.cast(rows, dtype), ops.cast(matrices, dtype)
        return tf.matmul(rows, matrices, transpose_b=True)
    columns = ops.matmul(matrices, ops.swapaxes(rows, -1, -2))
    return ops.swapaxes(columns, -1, -2)


def call_block(
    function: Callable[..., Any],
    block: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    xla: bool = True,
    training: bool = True,
) -> Any:
    """Calls a function whose gradient recomputes all intermediate results.

    JAX compiles it with the code around it. TensorFlow's graphs run it and, in
    training, its gradient as an XLA function each, if its sizes are known. This
    measured twice as fast as the graphs' own operations.

    Args:
        function: Function of `block` and `shared`.
        block: Dictionary of tensors.
        shared: Dictionary of tensors.
        xla: Boolean, whether TensorFlow's graphs use XLA.
        training: Boolean, whether they also use XLA for the gradient.

    Returns:
        The results of the function.
    """
    if _in_tensorflow_graph():
        blocks = {name: x[None] for name, x in block.items()}
        results = in_tensorflow.map_blocks(
            function, blocks, shared, xla, training
        )
        return keras.tree.map_structure(lambda x: x[0], results)
    if keras.backend.backend() == "tensorflow":
        return in_tensorflow.call(function, block, shared)
    return keras.remat(function)(block, shared)


def call_blocks(
    function: Callable[..., Any],
    blocks: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    xla: bool = True,
    training: bool = True,
) -> Any:
    """Calls a function for one block after the other, as `call_block` does.

    Args:
        function: Function of a block and `shared`.
        blocks: Dictionary of tensors with the blocks first.
        shared: Dictionary of tensors.
        xla: See `call_block`.
        training: See `call_block`.

    Returns:
        The results of the function, with the blocks first.
    """
    if _in_tensorflow_graph():
        return in_tensorflow.map_blocks(function, blocks, shared, xla, training)

    def call(block):
        return call_block(function, block, shared, xla, training)

    if keras.backend.backend() == "jax":
        return ops.map(call, blocks)
    # Not `ops.map`, which computes the first block twice in TensorFlow.
    results = [
        call(dict(zip(blocks, block, strict=True)))
        for block in zip(*blocks.values(), strict=True)
    ]
    return keras.tree.map_structure(lambda *x: ops.stack(x), *results)


def bilinear(
    function: Callable[..., Tensor],
    by_first: Callable[..., Tensor],
    by_second: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Gives a bilinear function derivatives that XLA computes faster.

    Use it only in XLA.

    Args:
        function: Function of two tensors, linear in each.
        by_first: The same function, written so that its derivative by the
            first tensor is fast.
        by_second: The same function, for the derivative by the second.
    """
    if keras.backend.backend() == "jax":
        import jax

        in_jax = jax.custom_jvp(function)

        @in_jax.defjvp
        def derivative(primals, tangents):
            (x, y), (dx, dy) = primals, tangents
            return in_jax(x, y), by_first(dx, y) + by_second(x, dy)

        return in_jax
    import tensorflow as tf

    @tf.custom_gradient
    def computed(x, y):
        def gradient(upstream):
            return [
                *in_tensorflow.gradients(
                    lambda x: by_first(*x, y), [x], upstream
                ),
                *in_tensorflow.gradients(
                    lambda y: by_second(x, *y), [y], upstream
                ),
            ]

        return function(x, y), gradient

    return computed


def _in_tensorflow_graph():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()
