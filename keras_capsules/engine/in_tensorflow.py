"""Blocks of examples in TensorFlow: compiled, and computed again."""

import contextvars
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras

from keras_capsules.types import Tensor

# Whether the operations of a block become one XLA program.
IN_XLA = contextvars.ContextVar("in_xla", default=False)

# How many blocks TensorFlow's graphs work on at once, tuned on two cores. Each
# needs memory for its votes and for the gradients of shared tensors. If shared
# tensors have this many numbers, there is one block at a time.
_SIDE_BY_SIDE = 2
_LARGE = 2**24


def call(
    function: Callable[..., Any],
    block: Mapping[str, Tensor],
    shared: Mapping[str, Any],
) -> Any:
    """Works as `keras.remat`, which has no second derivatives in TensorFlow."""
    import tensorflow as tf

    plain, tensors = _of_list(function, (block, shared))

    @tf.custom_gradient
    def call(*tensors):
        # Constants, so that no tape outside keeps intermediate results.
        results = plain([tf.stop_gradient(x) for x in tensors])
        return results, lambda *upstream: gradients(
            plain, list(tensors), keras.tree.pack_sequence_as(results, upstream)
        )

    return call(*tensors)


def map_blocks(
    function: Callable[..., Any],
    blocks: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    xla: bool,
    training: bool,
) -> Any:
    """Works as `compilation.call_blocks`, in a graph."""
    plain, tensors = _of_list(function, (blocks, shared))
    number = len(keras.tree.flatten(blocks))
    found: list[Any] = []

    def step(tensors):
        found[:] = [plain(tensors)]
        return keras.tree.flatten(found[0]), []

    # A SavedModel can hold custom gradients, but not those of their functions.
    orders = 2 if xla and training else 1
    results, _ = _loop(step, tensors[:number], tensors[number:], xla, orders)
    return keras.tree.pack_sequence_as(found[0], results)


def gradients(
    function: Callable[..., Any], tensors: list[Tensor], upstream: Any
) -> list[Tensor]:
    """Computes gradients of a function of a list of tensors, in TensorFlow."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        results = function(tensors)
    return tape.gradient(
        results, tensors, upstream, unconnected_gradients="zero"
    )


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
        context.run(IN_XLA.set, xla)
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
                found = gradients(
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


def _of_list(function, structures):
    """Converts a function of structures to a function of a list of tensors."""
    import tensorflow as tf

    def plain(tensors):
        return function(*keras.tree.pack_sequence_as(structures, tensors))

    # Not `ops.convert_to_tensor`, which keeps variables.
    return plain, list(
        map(tf.convert_to_tensor, keras.tree.flatten(structures))
    )
