"""All the ways in which the operator takes parents together."""

import pytest

from keras_capsules import votes

BLOCKS = [
    pytest.param((2**18, 16), id="whole"),
    pytest.param((1, 16), id="one-by-one"),
    pytest.param((330, 16), id="a-few"),
    pytest.param((1, 2), id="loop"),
    pytest.param((90, 2), id="loop-and-rest"),
]


def set_blocks(monkeypatch, sizes):
    """Sets the cache size and how many blocks are written out."""
    monkeypatch.setattr(votes, "_CACHE_NUMBERS", sizes[0])
    monkeypatch.setattr(votes, "_MAX_UNROLLED", sizes[1])
