"""Work done for one block of parents after the other, so that it fits."""

import functools
import math
import operator

import keras
from keras import ops

# What a block of parents should fit in: a second-level cache of 1 MiB, which
# current processors have per core, in numbers of 4 bytes.
_CACHE_NUMBERS = 2**18

# Up to so many blocks are written out, so that the graph has no loop to step
# through; beyond, it is a loop of the backend's, so that graphs and tracing
# times do not grow with the number of parents.
_MAX_UNROLLED = 16

# TensorFlow's graphs begin whatever can be begun, so that the products of all
# blocks that are written out would be at hand at once; of one contraction,
# these are all that may be. (Its loops run up to 10 steps side by side.)
_SIDE_BY_SIDE = 2

# The batch size to reckon with where it is not known yet, in votes.py also
# where it is smaller.
USUAL_BATCH = 128


def block_size(numbers):
    """How many parents to take at once, if each takes so many numbers."""
    return max(1, _CACHE_NUMBERS // max(1, numbers))


def over_blocks(function, tensors, block, begin):
    """Applies a function to one block of parents after the other.

    Args:
        function: Function of a dictionary of slices of `tensors`. It returns
            two tuples: tensors to join along the parents, axis 0, and tensors
            to add up. Either may be empty.
        tensors: Dictionary of tensors with the parents first.
        block: How many parents to take at once.
        begin: Name of the tensor that all large intermediates of a block
            depend on.

    Returns:
        A tuple of the joined and then the added tensors.
    """
    number = _number(tensors)
    if number <= block * _MAX_UNROLLED:
        results = _unrolled(function, tensors, block, begin)
        joined, added = zip(*results, strict=True)
        return (
            *(_join(parts) for parts in zip(*joined, strict=True)),
            *(
                functools.reduce(operator.add, parts)
                for parts in zip(*added, strict=True)
            ),
        )
    first, rest = _first_and_rest(tensors, block)
    joined, added = function(first)
    if joined:
        others = ops.map(lambda slices: function(slices)[0], rest)
        size = number - _number(first)
        joined = tuple(
            _join([one, ops.reshape(other, (size, *_sizes(one)[1:]))])
            for one, other in zip(joined, others, strict=True)
        )
    if added:

        def add(step, totals):
            slices = {name: x[step] for name, x in rest.items()}
            more = function(slices)[1]
            return tuple(x + y for x, y in zip(totals, more, strict=True))

        added = ops.fori_loop(0, _number(rest), add, added)
    return (*joined, *added)


def _join(parts):
    return ops.concatenate(parts, axis=0) if len(parts) > 1 else parts[0]


def _unrolled(function, tensors, block, begin):
    """A list of `function` of blocks of `tensors`."""
    results = []
    for slices in _slices(tensors, block):
        if len(results) >= _SIDE_BY_SIDE:
            earlier = keras.tree.flatten(results[-_SIDE_BY_SIDE])[0]
            slices[begin] = _after(earlier, slices[begin])
        results.append(function(slices))
    return results


def _after(earlier, tensor):
    """The same tensor, from the moment that `earlier` is known."""
    if keras.backend.backend() != "tensorflow":
        return tensor  # others order their work by the memory that it takes
    # Not a slice from an index 0, which would be free, but makes XLA compile
    # for constant operands, and anew for all others.
    return tensor + ops.cast(ops.sum(earlier[:0]), tensor.dtype)


def _number(tensors):
    return next(iter(tensors.values())).shape[0]


def _slices(tensors, block):
    """Blocks of `tensors`, as equal as possible."""
    number = _number(tensors)
    if number <= block:
        return [dict(tensors)]
    steps = math.ceil(number / block)
    ends = [round(step * number / steps) for step in range(steps + 1)]
    return [
        {name: x[start:end] for name, x in tensors.items()}
        for start, end in zip(ends, ends[1:], strict=False)
    ]


def _first_and_rest(tensors, block):
    """What equal blocks leave over, at least one, and those, on a new axis."""
    number = _number(tensors)
    steps = (number - 1) // block
    first = number - steps * block
    return {name: x[:first] for name, x in tensors.items()}, {
        name: ops.reshape(x[first:], (steps, block, *_sizes(x)[1:]))
        for name, x in tensors.items()
    }


def _sizes(tensor):
    """The static sizes of a tensor's axes, and where unknown a tensor."""
    return [
        ops.shape(tensor)[axis] if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]
