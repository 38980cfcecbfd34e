"""Arrays and tensors that methods of networks take."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.poses import fits
from keras_capsules.types import Shape


def only_input(model: keras.Model, inputs: Any) -> Any:
    """Unwraps the input of a single-input model from a list, tuple or dict.

    Args:
        model: A functional model.
        inputs: A tensor or an array; or a list, tuple or dictionary of one.

    Returns:
        The tensor or array. Inputs that have another structure, and those of
        models with several inputs, are returned as they are.
    """
    if not isinstance(model.input, keras.KerasTensor):
        return inputs
    if isinstance(inputs, Mapping):
        return inputs.get(model.input.name, inputs)
    is_one = isinstance(inputs, (list, tuple)) and len(inputs) == 1
    if is_one and (inputs[0] is None or hasattr(inputs[0], "shape")):
        return inputs[0]
    return inputs


def with_sizes(model: keras.Model, inputs: Any) -> Any:
    """Fills in unknown sizes of a tensor with the sizes that the model expects.

    TensorFlow forgets sizes after batches of different ones. Wrong sizes, which
    may fit the layers by chance, then fail at run time.

    Args:
        model: A functional model.
        inputs: Its inputs; those of models with several are not changed.

    Returns:
        The inputs.
    """
    shape = getattr(inputs, "shape", None)
    if shape is None or not isinstance(model.input, keras.KerasTensor):
        return inputs
    expected = tuple(model.input.shape)
    if len(shape) != len(expected) or None not in tuple(shape)[1:]:
        return inputs
    sizes = [
        given if size is None else size
        for size, given in zip(expected, ops.shape(inputs), strict=True)
    ]
    return ops.broadcast_to(inputs, sizes)


def as_array(value: Any) -> Any:
    """Converts lists to arrays; returns arrays and tensors unchanged."""
    if isinstance(value, (list, tuple)):
        return np.asarray(value)
    if not hasattr(value, "shape"):
        raise ValueError(
            "Expected an array, a list or a tensor. Pass one batch of a data "
            "set at a time. "
            f"Received: {value!r}"
        )
    return value


def as_pair(value: Any) -> tuple[Any, Any]:
    """A pair of arrays or of tensors."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(
            "Expected `capsules` to be a pair of poses and activations, as "
            f"`encode` returns. Received: capsules={value!r}"
        )
    return as_array(value[0]), as_array(value[1])


def check_shape(value: Any, shape: Shape, name: str) -> None:
    """Raises if `value` is no batch of examples of this shape."""
    given = tuple(value.shape)
    if not fits(given, (None, *shape)):
        raise ValueError(
            f"Expected `{name}` of shape (batch, "
            f"{', '.join(map(str, shape))}). Received: {name}.shape={given}"
        )


def apply(model: keras.Model, inputs: Any, batch_size: int) -> Any:
    """Calls `predict` on arrays, in batches; calls the model on tensors."""
    first, *_ = keras.tree.flatten(inputs)
    if isinstance(first, np.ndarray) and not len(first):
        # Keras predicts nothing of an empty batch, not even its shape.
        one = keras.tree.map_structure(
            lambda x: np.zeros((1, *x.shape[1:]), x.dtype), inputs
        )
        outputs = keras.tree.map_structure(
            lambda array: array[:0], model.predict(one, verbose=0)
        )
    elif isinstance(first, np.ndarray):
        outputs = model.predict(inputs, batch_size=batch_size, verbose=0)
    else:
        outputs = model(inputs)
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else outputs
