"""What tests of `examples/scaling` share."""

import pathlib

import numpy as np

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def numbered(number, first=0):
    """Images that tell their numbers."""
    for each in range(first, first + number):
        image = np.full((3, 2, 1), each, "uint8")
        image[0, 0] = each // 2
        yield image, each % 5
