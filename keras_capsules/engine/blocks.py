"""Work done for a few examples at a time."""

import contextlib
import contextvars
import math
import numbers
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_capsules.engine import compilation
from keras_capsules.types import Tensor

# How many numbers the votes of a block should have. On a CPU this is about the
# size of the second-level caches of two cores; on other devices it is a share
# of the memory, so that most layers are one block.
_CPU_BUDGET, _BUDGET = 400_000, 2**27

# The batch size to assume where it is unknown.
_USUAL_BATCH = 128

_AT_ONCE = contextvars.ContextVar("at_once", default=False)


@contextlib.contextmanager
def all_at_once() -> Iterator[None]:
    """Lets layers take all examples at once, without loops.

    For models that are traced for runtimes without loops and XLA.
    """
    token = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(token)


def block_size(votes: Any, kernel: int, is_open: bool = False) -> int | None:
    """Returns the number of examples of a block, or `None` for all of them.

    Args:
        votes: How many numbers the votes of one example have. Not an integer if
            this is unknown.
        kernel: How many numbers the kernel has.
        is_open: Boolean, whether the number of examples is arbitrary, as in an
            exported model. Not every runtime has loops, so all are taken at
            once if a usual batch is small. Defaults to `False`.
    """
    if _AT_ONCE.get():
        return None
    is_known = isinstance(votes, numbers.Integral)
    if is_open and not (is_known and votes * _USUAL_BATCH > _BUDGET):
        return None
    if is_open or not is_known:
        return 1
    budget = _CPU_BUDGET if compilation.device() == "cpu" else _BUDGET
    # Each block reads the whole kernel and adds to the whole gradient of it, so
    # the votes of a block should have at least as many numbers as the kernel.
    size = max(budget, kernel) / max(1, votes)
    return max(1, round(size)) * _devices_of_a_batch()


def over_examples(
    function: Callable[..., Any],
    examples: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    size: int | None,
    xla: bool = True,
    training: bool = True,
) -> Any:
    """Applies a function to one block of examples after the other.

    No intermediate result is kept for the gradient, which calls the function
    again.

    Blocks are somewhat smaller if the batch is then a multiple of their size.
    Otherwise the last few examples form a block of their own.

    If `keras.distribution` shards the batch, each device works on blocks of its
    own; see `over_devices`.

    Args:
        function: Function of two dictionaries of tensors, a block of
            `examples` and `shared`. It returns a tensor, or a tuple of them,
            with the examples first.
        examples: Dictionary of tensors with the examples first.
        shared: Dictionary of tensors that all examples share.
        size: The largest number of examples a block has. `None` takes all at
            once and keeps intermediate results.
        xla: Boolean, whether TensorFlow's graphs compile blocks with XLA.
            Defaults to `True`.
        training: Boolean, whether they compile the gradients as well. Defaults
            to `True`.

    Returns:
        The results of the function for all examples.
    """
    if size is None:
        return function(examples, shared)
    batch = ops.shape(next(iter(examples.values())))[0]
    if isinstance(batch, numbers.Integral) and batch <= size:
        return compilation.call_block(function, examples, shared, xla, training)
    size = max(1, size // _devices_of_a_batch())

    def of_one_device(examples, shared):
        return in_blocks(function, examples, shared, size, xla, training)

    return over_devices(of_one_device, examples, shared)


def over_devices(
    function: Callable[..., Any],
    examples: Mapping[str, Tensor],
    shared: Mapping[str, Any],
) -> Any:
    """Applies a function to the examples of each device, if a batch is sharded.

    No device then waits for others or needs their examples, not even in a loop:
    gradients to `shared` are summed on each device before they are summed over
    devices.

    Args:
        function: See `over_examples`.
        examples: See `over_examples`.
        shared: See `over_examples`.

    Returns:
        The results of the function for all examples.
    """
    batch = ops.shape(next(iter(examples.values())))[0]
    devices = _devices_of_a_batch()
    is_known = isinstance(batch, numbers.Integral)
    if devices == 1 or not is_known or batch % devices:
        return function(examples, shared)
    results = ops.vectorized_map(
        lambda each: function(*each),
        (
            {
                name: _cut(x, devices, batch // devices)
                for name, x in examples.items()
            },
            keras.tree.map_structure(
                lambda x: ops.broadcast_to(x, (devices, *x.shape)), shared
            ),
        ),
    )
    return keras.tree.map_structure(_joined, results)


def whole(x: Tensor) -> Tensor:
    """Lets every device have all capsules of its examples.

    `keras.distribution.ModelParallel` may share out the matrices of a layer
    among devices. Without this, XLA would also share out the capsules, and then
    cut the convolutions that make them. The gradients of DeepCaps come out
    wrong then, with JAX 0.10.

    Args:
        x: Tensor with the examples first.
    """
    distribution = keras.distribution.distribution()
    batch = ops.shape(x)[0]
    if (
        distribution is None
        or not isinstance(batch, numbers.Integral)
        or batch % _devices_of_a_batch()
    ):
        return x
    layout = distribution.get_data_layout(x.shape)
    return keras.distribution.distribute_tensor(x, layout)


def in_blocks(
    function: Callable[..., Any],
    examples: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    size: int,
    xla: bool = True,
    training: bool = True,
) -> Any:
    """Works as `over_examples`, on one device."""
    batch = ops.shape(next(iter(examples.values())))[0]
    is_known = isinstance(batch, numbers.Integral)
    if is_known:
        sizes = range(size, size // 2, -1)
        size = next((n for n in sizes if batch % n == 0), size)
    steps = batch // size
    whole = steps * size
    blocks = {
        name: _cut(x[:whole], steps, size) for name, x in examples.items()
    }
    results = compilation.call_blocks(function, blocks, shared, xla, training)
    results = keras.tree.map_structure(_joined, results)
    if is_known and batch == whole:
        return results
    rest = {name: x[whole:] for name, x in examples.items()}
    rest = compilation.call_block(function, rest, shared, xla, training)
    return keras.tree.map_structure(
        lambda *x: ops.concatenate(x), results, rest
    )


def _cut(x, parts, size):
    """`[parts size, ...]` to `[parts, size, ...]`."""
    # Never with -1, because the size of an empty tensor cannot be inferred.
    return ops.reshape(x, (parts, size, *ops.shape(x)[1:]))


def _joined(x):
    """Undoes `_cut`."""
    parts, number, *shape = ops.shape(x)
    return ops.reshape(x, (parts * number, *shape))


def _devices_of_a_batch():
    """Counts the devices over which `keras.distribution` shards a batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    return sizes.get(distribution.batch_dim_name, math.prod(mesh.shape))
