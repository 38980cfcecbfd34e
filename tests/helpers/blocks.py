"""How many examples a routing takes at once."""

import pytest

from keras_capsules.routing import run
from tests.helpers.testing import SLOW_ON_JAX

in_blocks = pytest.mark.parametrize(
    "size",
    [
        pytest.param(1, id="one-by-one", marks=SLOW_ON_JAX),
        pytest.param(2, id="two-and-a-rest"),  # of an odd number of examples
        pytest.param(17, id="all-at-once", marks=SLOW_ON_JAX),
    ],
)


def set_block_size(monkeypatch, size):
    """Sets the number of examples in a block, for every routing."""
    monkeypatch.setattr(run, "block_size", lambda *_: size)
