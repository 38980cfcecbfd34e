"""A trial run of what was exported, before it is put in its place."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

# How far scores may differ, as a share of the largest. Rounding is far below,
# and what a runtime gets wrong far above.
_TOLERANCE = 0.01
# What is tried for the sizes of an input that the model leaves open.
_SIZES = (8, 16, 32, 64, 128, 256)


def run(
    model: keras.Model, spec: keras.InputSpec, batch_size: int = 3
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Runs a model on random inputs.

    Args:
        model: The model.
        spec: Shape and dtype of its input.
        batch_size: Integer, the number of examples if the spec has none.

    Returns:
        The inputs: numbers from 0 to 1, pixels from 0 to 255 if the dtype is
        `"uint8"`, or zeros and ones of another integer dtype. And a list of
        what the model computes.

    Raises:
        ValueError: If the model leaves sizes open and takes none of those that
            are tried.
    """
    shape = (spec.shape[0] or batch_size, *spec.shape[1:])
    if None not in shape:
        return _run(model, shape, spec.dtype)
    for size in _SIZES:
        filled = tuple(size if each is None else each for each in shape)
        try:
            inputs, outputs = _run(model, filled, spec.dtype)
        except Exception:  # backends have classes of their own
            continue
        if all(each.size for each in outputs):
            return inputs, outputs
    raise ValueError(
        "An export is run once, with sizes that the model leaves open. "
        f"Expected a model that takes one of the sizes {_SIZES}. Received: an "
        f"input of shape {shape}"
    )


def _run(model, shape, dtype):
    numbers = np.random.default_rng(0)
    if "float" in dtype:
        inputs = numbers.uniform(size=shape)
    else:
        inputs = numbers.integers(256 if dtype == "uint8" else 2, size=shape)
    inputs = inputs.astype(dtype)
    outputs = model(inputs, training=False)
    return inputs, [
        keras.ops.convert_to_numpy(each)
        for each in keras.tree.flatten(outputs)
        if each is not None
    ]


def check_same(
    runtime: str, found: Sequence[Any], expected: Sequence[np.ndarray]
) -> None:
    """Raises if a runtime computes something else than the model.

    Args:
        runtime: Its name, for the message.
        found: Its outputs.
        expected: Those of the model, in the same order.

    Raises:
        ValueError: If shapes or numbers differ by more than rounding.
    """
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        theirs = np.asarray(theirs)
        largest = np.inf
        if theirs.shape == ours.shape:
            if not np.isfinite(ours).all():
                continue  # the model itself cannot say
            difference = np.abs(ours.astype("float64") - theirs)
            largest = float(difference.max(initial=0.0))
        limit = _TOLERANCE * max(1.0, float(np.abs(ours).max(initial=0.0)))
        if not largest <= limit:
            raise ValueError(
                f"{runtime} computes something else than the model. Nothing "
                f"was written. Expected output {number} of shape {ours.shape} "
                f"to be the same within {limit:.2g}. Received: shape "
                f"{theirs.shape} and a difference of {largest:.2g}"
            )
