"""Arrays and tensors that methods of networks take."""

import numbers
import reprlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.layers.poses import fits
from keras_capsules.types import Shape


def unpack(value: Any, name: str) -> Any:
    """Takes the only array or tensor out of a list, tuple or dictionary.

    Args:
        value: A tensor or an array; or a list, tuple or dictionary of one.
        name: The key in a dictionary. Other keys do not matter.

    Returns:
        The tensor or array. Values of another structure are returned as they
        are.
    """
    if isinstance(value, Mapping):
        return value.get(name, value)
    is_one = isinstance(value, (list, tuple)) and len(value) == 1
    if is_one and (value[0] is None or hasattr(value[0], "shape")):
        return value[0]
    return value


def in_order(model: keras.Model, inputs: Any) -> list[Any]:
    """The inputs of a functional model, in the order of `model.inputs`.

    Args:
        model: A functional model.
        inputs: Tensors or arrays in a structure that the model takes. They are
            found by name in a dictionary, and by position elsewhere.

    Returns:
        A list of the tensors or arrays.
    """
    names = [x.name for x in model.inputs]
    if isinstance(model.input, Mapping):
        names = keras.tree.flatten({key: key for key in model.input})
    if len(names) == 1:
        return [unpack(inputs, names[0])]
    if isinstance(inputs, Mapping) and all(name in inputs for name in names):
        return [inputs[name] for name in names]
    return keras.tree.flatten(inputs)


def arrange(model: keras.Model, inputs: Any) -> Any:
    """Brings inputs into the structure that a functional model was made with.

    Sizes that are unknown become those that the model expects. TensorFlow
    forgets sizes after batches of different ones. Wrong sizes, which may fit
    the layers by chance, then fail at run time.

    Args:
        model: A functional model.
        inputs: As for `in_order`.

    Returns:
        The inputs. Those that do not fit are returned as they are.
    """
    tensors = in_order(model, inputs)
    for x in tensors:
        if "complex" in str(getattr(x, "dtype", "")):
            raise ValueError(
                f"{type(model).__name__} takes real numbers. Expected their "
                "real or imaginary parts, or magnitudes. Received: inputs of "
                f"dtype {x.dtype}"
            )
    if len(tensors) != len(model.inputs):
        return inputs
    tensors = [
        _with_sizes(x, expected.shape)
        for x, expected in zip(tensors, model.inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(model.input, tensors)


def _with_sizes(x, expected):
    """Fills in unknown sizes of a tensor; the first axis may remain unknown."""
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != len(expected):
        return x
    if None not in tuple(shape)[1:]:
        return x
    sizes = [
        given if size is None else size
        for size, given in zip(expected, ops.shape(x), strict=True)
    ]
    return ops.broadcast_to(x, sizes)


def as_array(value: Any, name: str) -> Any:
    """Converts lists to arrays; returns arrays and tensors unchanged.

    Args:
        value: The argument.
        name: Its name.
    """
    if isinstance(value, (list, tuple)):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"Expected the examples of the list `{name}` to have one "
                f"shape. Received: {name}={reprlib.repr(value)}, whose "
                "examples differ"
            ) from error
    if not hasattr(value, "shape"):
        raise ValueError(
            f"Expected `{name}` to be an array, a list or a tensor. Pass one "
            f"batch of a data set at a time. Received: {name}={value!r}"
        )
    return value


def as_pair(value: Any) -> tuple[Any, Any]:
    """A pair of arrays or of tensors."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(
            "Expected `capsules` to be a pair of poses and activations, as "
            f"`encode` returns. Received: capsules={value!r}"
        )
    poses, activations = value
    return as_array(poses, "poses"), as_array(activations, "activations")


def check_shape(value: Any, shape: Shape, name: str) -> None:
    """Raises if `value` is no batch of examples of this shape."""
    given = tuple(value.shape)
    if not fits(given, (None, *shape)):
        raise ValueError(
            f"Expected `{name}` of shape (batch, "
            f"{', '.join(map(str, shape))}). Received: {name}.shape={given}"
        )


def is_empty(inputs: Any) -> bool:
    """Whether these are tensors or arrays of no examples."""
    shapes = [getattr(x, "shape", None) for x in keras.tree.flatten(inputs)]
    # PyTorch's exporter makes tensors of sizes.
    return bool(shapes) and all(
        x and isinstance(x[0], numbers.Integral) and x[0] == 0 for x in shapes
    )


def none_of(function: Callable[[Any], Any], inputs: Any) -> Any:
    """The outputs of a function for no examples, from those for one.

    Args:
        function: Function of one argument, `inputs`.
        inputs: A structure of tensors or arrays of no examples.
    """
    one = keras.tree.map_structure(
        lambda x: np.zeros(
            (1, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)
        ),
        inputs,
    )
    return keras.tree.map_structure(lambda x: x[:0], function(one))


def apply(model: keras.Model, inputs: Any, batch_size: int) -> Any:
    """Calls `predict` on arrays, in batches; calls the model on tensors."""
    first, *_ = keras.tree.flatten(inputs)

    def function(x):
        if isinstance(first, np.ndarray):
            return model.predict(x, batch_size=batch_size, verbose=0)
        return model(x)

    outputs = (
        none_of(function, inputs) if is_empty(inputs) else function(inputs)
    )
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else outputs
