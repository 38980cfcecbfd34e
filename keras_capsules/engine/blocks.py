"""Work done for a few examples at a time."""

import math
import numbers

import keras
from keras import ops

from keras_capsules.engine import compilation

# How many numbers the votes of a block should be, by the kind of device. On a
# processor they fit in second-level caches; on others they are a share of the
# memory, so that most layers are one block.
_BUDGETS = {"cpu": 400_000, "gpu": 2**27, "tpu": 2**27}

# The batch size to reckon with where it is not known.
_USUAL_BATCH = 128


def block_size(votes, kernel):
    """How many examples to take at once.

    Args:
        votes: How many numbers the votes of one example are.
        kernel: How many numbers the kernel has.
    """
    # A block reads the whole kernel, and adds to its gradient: no fewer votes.
    size = max(_BUDGETS[compilation.device()], kernel) / max(1, votes)
    return max(1, round(size)) * _devices_of_a_batch()


def is_small(votes):
    """Whether the votes of a usual batch may all be in memory at once."""
    return votes * _USUAL_BATCH <= _BUDGETS["gpu"]


def over_examples(function, examples, shared, size, xla=True):
    """Applies a function to one block of examples after the other.

    Nothing that the function makes is kept for its gradient: it is called
    again for that.

    The last few examples, if the batch is not a multiple of the size, are a
    block of their own. If `keras.distribution` shards the batch, every block is
    made of as many examples of each device, so that none waits for others or
    needs what they hold.

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
    if is_known and batch == 0:
        # The sizes of nothing are those of one example of zeros.
        one = {
            name: ops.pad(x, [(0, 1)] + [(0, 0)] * (len(x.shape) - 1))
            for name, x in examples.items()
        }
        return keras.tree.map_structure(lambda x: x[:0], function(one, shared))
    if is_known and batch <= size:
        return compilation.call_block(function, examples, shared, xla)
    devices = _devices_of_a_batch()
    if not is_known or batch % devices or size % devices:
        devices = 1  # for such a batch is not sharded
    whole = batch // size * (size // devices)
    blocks = {
        name: _cut(_part(x, slice(whole), devices), size, devices)
        for name, x in examples.items()
    }
    results = compilation.call_blocks(function, blocks, shared, xla)
    results = keras.tree.map_structure(lambda x: _joined(x, devices), results)
    if is_known and batch % size == 0:
        return results
    rest = {
        name: _part(x, slice(whole, None), devices)
        for name, x in examples.items()
    }
    return keras.tree.map_structure(
        lambda *parts: _together(parts, devices),
        results,
        compilation.call_block(function, rest, shared, xla),
    )


# What follows keeps to the examples that each of a number of devices holds,
# which are as many in a row for each.


def _part(x, part, devices):
    """A slice of what each device holds."""
    if devices == 1:
        return x[part]
    shape = ops.shape(x)[1:]
    x = ops.reshape(x, (devices, -1, *shape))[:, part]
    return ops.reshape(x, (-1, *shape))


def _together(parts, devices):
    """Undoes `_part`."""
    if devices == 1:
        return ops.concatenate(parts, axis=0)
    shape = ops.shape(parts[0])[1:]
    parts = [ops.reshape(x, (devices, -1, *shape)) for x in parts]
    return ops.reshape(ops.concatenate(parts, axis=1), (-1, *shape))


def _cut(x, size, devices):
    """`[m n, ...]` to `[m, n, ...]`: m blocks of n examples."""
    shape = ops.shape(x)[1:]
    if devices == 1:
        return ops.reshape(x, (-1, size, *shape))
    return ops.swapaxes(ops.reshape(x, (size, -1, *shape)), 0, 1)


def _joined(x, devices):
    """Undoes `_cut`."""
    if devices > 1:
        x = ops.swapaxes(x, 0, 1)
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))


def _devices_of_a_batch():
    """Over how many devices `keras.distribution` cuts a batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    return sizes.get(distribution.batch_dim_name, math.prod(mesh.shape))
