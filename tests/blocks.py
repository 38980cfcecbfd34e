"""All the ways in which the operator takes parents together."""

import pytest

from keras_capsules import _blocks
from keras_capsules import moments
from keras_capsules import votes

BLOCKS = [
    # Parents in a block, and blocks that are written out; of 7 parents.
    pytest.param((7, 16), id="whole"),
    pytest.param((1, 16), id="one-by-one"),
    pytest.param((3, 16), id="a-few"),
    pytest.param((1, 2), id="loop"),
    pytest.param((3, 2), id="loop-and-rest"),
]


def set_blocks(monkeypatch, sizes):
    """Sets the parents in a block and how many blocks are written out."""
    for module in (votes, moments):
        monkeypatch.setattr(module, "block_size", lambda numbers: sizes[0])
    monkeypatch.setattr(_blocks, "_MAX_UNROLLED", sizes[1])
