"""Networks of 16 bits, computed in 32 bits for other runtimes."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_capsules.utils.policies import dtype_policy

_BITS_16 = ("float16", "bfloat16")


def in_float32(runtime: str, model: keras.Model) -> keras.Model:
    """Returns a model with the same weights that computes in float32.

    Converters take numbers of 16 bits in part only, or not at all.

    Args:
        runtime: What the model is for, for the message.
        model: A built model.

    Returns:
        The model itself if none of its layers computes in 16 bits.

    Raises:
        ValueError: If the model cannot be made again in float32.
    """
    if not _in_16_bits(model):
        return model
    copies: dict[int, tuple[Any, Any]] = {}
    try:
        # For layers that make layers by themselves.
        with dtype_policy("float32"):
            made = _copy(model, copies)
        for layer, copy in copies.values():
            if isinstance(layer, keras.layers.Layer) and not _has_graph(layer):
                copy.set_weights(layer.get_weights())
            if isinstance(copy, keras.layers.Normalization):
                copy.finalize_state()
    except Exception as error:
        raise _refused(runtime, model) from error
    if _in_16_bits(made):
        raise _refused(runtime, model)
    return made


def _copy(model: Any, copies: dict[int, tuple[Any, Any]]) -> keras.Model:
    """The same graph of new layers, which are added to `copies`."""

    def copied(layer: Any) -> Any:
        if id(layer) not in copies:
            if _has_graph(layer):
                copy = _copy(layer, copies)
            else:
                config = _as_float32(layer.get_config())
                copy = type(layer).from_config(config)
            copies[id(layer)] = layer, copy
        return copies[id(layer)][1]

    # Without losses and metrics, which need not be copied. The `input` of a
    # Sequential model is that of a model around it.
    plain = (
        keras.Model(model.inputs[0], model.outputs[0])
        if isinstance(model, keras.Sequential)
        else keras.Model(model.input, model.output)
    )
    return keras.models.clone_model(
        plain,
        input_tensors=keras.tree.map_structure(_input, plain.input),
        clone_function=copied,
    )


def _has_graph(layer: Any) -> bool:
    """Whether this is a functional or a Sequential model."""
    return isinstance(layer, keras.Model) and bool(
        getattr(layer, "inputs", None)
    )


def _refused(runtime, model):
    return ValueError(
        f"{runtime} cannot run a network that computes in 16 bits, and it "
        "could not be made again in float32. Nothing was written. Expected a "
        "functional network whose layers have a `get_config`, or one in "
        "float32: make the network again with dtype='float32', and load its "
        f"weights. Received: model={model!r}, which computes in "
        f"{', '.join(_in_16_bits(model))}"
    )


def _in_16_bits(model):
    """The types of 16 bits that layers of a model compute in."""
    found = {each.compute_dtype for each in _layers(model)}
    return sorted(found.intersection(_BITS_16))


def _layers(model: keras.Model) -> Iterator[Any]:
    """The layers of a model and of those in it."""
    for each in model.layers:
        if isinstance(each, keras.Model):
            yield from _layers(each)
        else:
            yield each


def _input(tensor):
    dtype = "float32" if tensor.dtype in _BITS_16 else tensor.dtype
    return keras.Input(batch_shape=tensor.shape, dtype=dtype, name=tensor.name)


def _as_float32(config: Any) -> Any:
    """A configuration whose types of 16 bits are float32."""
    if isinstance(config, (list, tuple)):
        return type(config)(_as_float32(each) for each in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") in ("DTypePolicy", "DTypePolicyMap"):
        return "float32"
    names = (*_BITS_16, *(f"mixed_{each}" for each in _BITS_16))
    return {
        name: "float32"
        if name == "dtype" and isinstance(each, str) and each in names
        else _as_float32(each)
        for name, each in config.items()
    }
