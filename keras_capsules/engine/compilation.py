"""Compiles and recomputes a block of examples, on each backend.

The only module of the engine that knows backends by name.
"""

import contextvars
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_capsules.types import Tensor

_IN_XLA = contextvars.ContextVar("in_xla", default=False)

# How many blocks TensorFlow's graphs work on at once, tuned on two cores. Each
# needs memory for its votes and for the gradients of shared tensors. If shared
# tensors have this many numbers, there is one block at a time.
_SIDE_BY_SIDE = 2
_LARGE = 2**24


def device() -> str:
    """Returns the kind of the default device, such as `"cpu"` or `"gpu"`."""
    # Keras lists no devices of PyTorch.
    if in_torch():
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    return keras.distribution.list_devices()[0].split(":")[0]


def in_xla() -> bool:
    """Returns whether the operations of a block become one XLA program."""
    return keras.backend.backend() == "jax" or _IN_XLA.get()


def in_torch() -> bool:
    """Returns whether PyTorch runs operations one by one."""
    return keras.backend.backend() == "torch"


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
        results = _map_in_tensorflow(function, blocks, shared, xla, training)
        return keras.tree.map_structure(lambda x: x[0], results)
    if keras.backend.backend() == "tensorflow":
        return _call_in_tensorflow(function, block, shared)
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
        return _map_in_tensorflow(function, blocks, shared, xla, training)

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
                *_gradients(lambda x: by_first(*x, y), [x], upstream),
                *_gradients(lambda y: by_second(x, *y), [y], upstream),
            ]

        return function(x, y), gradient

    return computed


def _in_tensorflow_graph():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


def _gradients(function, tensors, upstream):
    """Computes gradients of a function of a list of tensors, in TensorFlow."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        results = function(tensors)
    return tape.gradient(
        results, tensors, upstream, unconnected_gradients="zero"
    )


def _of_list(function, structures):
    """Converts a function of structures to a function of a list of tensors."""
    import tensorflow as tf

    def plain(tensors):
        return function(*keras.tree.pack_sequence_as(structures, tensors))

    # Not `ops.convert_to_tensor`, which keeps variables.
    return plain, list(
        map(tf.convert_to_tensor, keras.tree.flatten(structures))
    )


def _call_in_tensorflow(function, *structures):
    """Works as `keras.remat`, which has no second derivatives in TensorFlow."""
    import tensorflow as tf

    plain, tensors = _of_list(function, structures)

    @tf.custom_gradient
    def call(*tensors):
        # Constants, so that no tape outside keeps intermediate results.
        results = plain([tf.stop_gradient(x) for x in tensors])
        return results, lambda *upstream: _gradients(
            plain, list(tensors), keras.tree.pack_sequence_as(results, upstream)
        )

    return call(*tensors)


def _map_in_tensorflow(function, blocks, shared, xla, training):
    plain, tensors = _of_list(function, (blocks, shared))
    number = len(keras.tree.flatten(blocks))
    found = []

    def step(tensors):
        found[:] = [plain(tensors)]
        return keras.tree.flatten(found[0]), []

    # A SavedModel can hold custom gradients, but not those of their functions.
    orders = 2 if xla and training else 1
    results, _ = _loop(step, tensors[:number], tensors[number:], xla, orders)
    return keras.tree.pack_sequence_as(found[0], results)


def _loop(step, blocks, shared, xla, orders):
    """Calls a function for one block after the other, in TensorFlow's graphs.

    Its gradient is a loop of the same kind, which computes each block again.

    Args:
        step: Function of a list of tensors, those of a block and `shared`. It
            returns two lists: results of the block; and results to be added up
            over blocks, of the sizes of the first shared tensors.
        blocks: List of tensors with the blocks first.
        shared: List of tensors.
        xla: Boolean, whether to compile the function with XLA.
        orders: How many loops have a compiled function and a gradient of their
            own: this one, the loop of its gradient, and so on. Further ones are
            plain operations with TensorFlow's gradients.

    Returns:
        The two lists: results with the blocks first, and sums.
    """
    import tensorflow as tf

    number = len(blocks)
    one = [tf.TensorSpec(x.shape[1:], x.dtype) for x in blocks]
    one += [tf.TensorSpec(x.shape, x.dtype) for x in shared]
    size = sum(x.shape.num_elements() or 0 for x in one[number:])
    side_by_side = 1 if size >= _LARGE else _SIDE_BY_SIDE
    # XLA compiles again for each size, so all sizes must be known.
    xla = xla and all(x.shape.is_fully_defined() for x in one)

    def traced(tensors):
        context = contextvars.copy_context()
        context.run(_IN_XLA.set, xla)
        return context.run(step, tensors)

    compiled = tf.function(traced, jit_compile=xla, autograph=False)
    specs, sums = compiled.get_concrete_function(one).structured_outputs
    called = compiled if orders else step

    def call(*tensors):
        blocks, shared = list(tensors[:number]), list(tensors[number:])
        steps = tf.shape(blocks[0])[0]

        def call_one(index, arrays, totals):
            found, more = called([*(x[index] for x in blocks), *shared])
            arrays = [
                array.write(index, x)
                for array, x in zip(arrays, found, strict=True)
            ]
            totals = [x + y for x, y in zip(totals, more, strict=True)]
            return index + 1, arrays, totals

        arrays = [
            tf.TensorArray(x.dtype, size=steps, element_shape=x.shape)
            for x in specs
        ]
        totals = [tf.zeros_like(x) for x in shared[: len(sums)]]
        _, arrays, totals = tf.while_loop(
            lambda index, *_: index < steps,
            call_one,
            (0, arrays, totals),
            parallel_iterations=side_by_side,
            maximum_iterations=steps,
        )

        def gradient(*upstream):
            end = number + len(specs)  # of a block and its upstream

            def slopes(tensors):
                # Not of `compiled`, because nested functions compile many times
                # longer.
                block, common = tensors[:end], tensors[end:]
                found = _gradients(
                    lambda each: keras.tree.flatten(step(each)),
                    [*block[:number], *common[: len(shared)]],
                    [*block[number:], *common[len(shared) :]],
                )
                return found[:number], found[number:]

            found, totals = _loop(
                slopes,
                [*blocks, *upstream[: len(specs)]],
                [*shared, *upstream[len(specs) :]],
                xla,
                orders - 1,
            )
            return [*found, *totals]

        return [*(each.stack() for each in arrays), *totals], gradient

    if orders:
        results = tf.custom_gradient(call)(*blocks, *shared)
    else:
        results, _ = call(*blocks, *shared)
    return results[: len(specs)], results[len(specs) :]
