"""Work done for a few examples at a time."""

import math
import numbers

import keras
from keras import ops

from keras_capsules.engine import compilation

# How many numbers the votes of a block should be. On a CPU they fit in
# second-level caches; on other devices they are a share of the memory, so that
# most layers are one block.
_CPU_BUDGET, _BUDGET = 400_000, 2**27

# The batch size to reckon with where it is not known.
_USUAL_BATCH = 128


def block_size(votes, kernel, is_open=False):
    """How many examples to take at once, or `None` for all of them.

    Args:
        votes: How many numbers the votes of one example are. Not an integer if
            that is unknown.
        kernel: How many numbers the kernel has.
        is_open: Boolean, whether any number of examples may come, as in an
            exported model. Not every runtime has loops, so all are taken at
            once if a usual batch is small. Defaults to `False`.
    """
    is_known = isinstance(votes, numbers.Integral)
    if is_open and not (is_known and votes * _USUAL_BATCH > _BUDGET):
        return None
    if is_open or not is_known:
        return 1
    budget = _CPU_BUDGET if compilation.device() == "cpu" else _BUDGET
    # A block reads the whole kernel, and adds to its gradient: no fewer votes.
    size = max(budget, kernel) / max(1, votes)
    return max(1, round(size)) * _devices_of_a_batch()


def over_examples(function, examples, shared, size, xla=True):
    """Applies a function to one block of examples after the other.

    Nothing that the function makes is kept for its gradient: it is called
    again for that.

    Blocks are somewhat smaller if the batch is then a multiple of their size.
    Otherwise the last few examples are a block of their own.

    If `keras.distribution` shards the batch, every block is made of as many
    examples of each device, so that none waits for others or needs what they
    hold.

    Args:
        function: Function of two dictionaries of tensors, a block of
            `examples` and `shared`. It returns a tensor, or a tuple of them,
            with the examples first.
        examples: Dictionary of tensors with the examples first.
        shared: Dictionary of tensors that all examples share.
        size: How many examples a block has, at most. `None` takes all at once
            and keeps what the function makes.
        xla: Boolean, whether TensorFlow's graphs compile blocks with XLA.
            Defaults to `True`.

    Returns:
        What the function returns, of all examples.
    """
    if size is None:
        return function(examples, shared)
    batch = ops.shape(next(iter(examples.values())))[0]
    is_known = isinstance(batch, numbers.Integral)
    if is_known and batch <= size:
        return compilation.call_block(function, examples, shared, xla)
    devices = _devices_of_a_batch()
    if not is_known or batch % devices or size % devices:
        devices = 1  # because such a batch is not sharded
    share = size // devices
    if is_known:
        shares = range(share, share // 2, -1)
        share = next((n for n in shares if batch // devices % n == 0), share)
    size = share * devices
    whole = batch // size * share
    held = {name: _held(x, devices) for name, x in examples.items()}
    blocks = {name: _cut(x[:, :whole], share) for name, x in held.items()}
    results = compilation.call_blocks(function, blocks, shared, xla)
    parts = [keras.tree.map_structure(lambda x: _joined(x, devices), results)]
    if not is_known or batch % size:
        rest = {name: _flat(x[:, whole:]) for name, x in held.items()}
        rest = compilation.call_block(function, rest, shared, xla)
        parts.append(
            keras.tree.map_structure(lambda x: _held(x, devices), rest)
        )
    return keras.tree.map_structure(
        lambda *x: _flat(ops.concatenate(x, axis=1) if x[1:] else x[0]), *parts
    )


def _held(x, devices):
    """`[b, ...]` to `[devices, b / devices, ...]`: what each device holds."""
    batch, *shape = ops.shape(x)
    # Sizes are never left to find, because an empty tensor does not tell them.
    return ops.reshape(x, (devices, batch // devices, *shape))


def _flat(x):
    """Undoes `_held`."""
    devices, number, *shape = ops.shape(x)
    return ops.reshape(x, (devices * number, *shape))


def _cut(x, share):
    """What devices hold, `[devices, m share, ...]`, to m blocks, `[m, n, ...]`.

    A block is made of as many examples of each device.
    """
    devices, number, *shape = ops.shape(x)
    x = ops.reshape(x, (devices, number // share, share, *shape))
    x = ops.swapaxes(x, 0, 1)
    return ops.reshape(x, (number // share, devices * share, *shape))


def _joined(x, devices):
    """Undoes `_cut`."""
    steps, size, *shape = ops.shape(x)
    x = ops.reshape(x, (steps, devices, size // devices, *shape))
    x = ops.swapaxes(x, 0, 1)
    return ops.reshape(x, (devices, steps * (size // devices), *shape))


def _devices_of_a_batch():
    """Over how many devices `keras.distribution` cuts a batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    return sizes.get(distribution.batch_dim_name, math.prod(mesh.shape))
