"""Files of weights that authors published."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


def load_efficient_capsnet(
    network: keras.Model, path: str | os.PathLike[str]
) -> None:
    """Loads weights of the authors' implementation of Efficient-CapsNet.

    Args:
        network: An `EfficientCapsNet`.
        path: An HDF5 file that `save_weights` of TensorFlow 2 wrote.

    Raises:
        ValueError: If it is no such file, or its weights do not fit. The
            network then keeps its own.
    """
    path = pathlib.Path(path)
    try:
        models = _read(path)
    # KeyErrors are of parts that the file lists and does not have.
    except (OSError, KeyError) as error:
        if not path.is_file():
            raise
        raise ValueError(
            "Expected an HDF5 file of weights. Received: "
            f"path={str(path)!r}, which cannot be read: {error}"
        ) from error
    parts = [_layers(network.encoder)]
    if network.decoder is not None:
        parts.append(_layers(network.decoder))
    if len(models) not in (len(parts), 2):
        raise ValueError(
            "Expected the weights of an encoder and a decoder. Received: "
            f"path={str(path)!r} with weights of {list(models)}"
        )
    # All are looked at before one is changed.
    values: list[tuple[Any, np.ndarray]] = []
    for layers, arrays in zip(parts, models.values(), strict=False):
        if len(layers) != len(arrays):
            raise ValueError(
                f"Expected weights of {len(layers)} layers, "
                f"{[layer.name for layer in layers]}. Received: "
                f"path={str(path)!r} with {list(arrays)}"
            )
        for layer, (name, given) in zip(layers, arrays.items(), strict=True):
            values.extend(_values(layer, name, given))
    for variable, value in values:
        variable.assign(value)


def _read(path: pathlib.Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Arrays by name, by layer, by model, each in order."""
    import h5py  # slow to import

    models: dict[str, Any] = {}
    with h5py.File(path) as file:
        for model in _names(file, "layer_names"):
            layers: dict[str, Any] = {}
            for each in _names(file[model], "weight_names"):
                layer, _, name = each.rpartition("/")
                array = np.asarray(file[model][each])
                layers.setdefault(layer, {})[name.split(":")[0]] = array
            if layers:
                models[model] = layers
    return models


def _names(group: Any, attribute: str) -> list[str]:
    return [
        name.decode() if isinstance(name, bytes) else str(name)
        for name in group.attrs.get(attribute, ())
    ]


def _layers(model: keras.Model) -> list[Any]:
    """Layers with weights, in order."""
    return [layer for layer in model.layers if layer.weights]


def _values(
    layer: Any, name: str, given: dict[str, np.ndarray]
) -> Iterator[tuple[Any, np.ndarray]]:
    """The variables of a layer, with their values from a file."""
    given = {_OUR_NAMES.get(key, key): array for key, array in given.items()}
    ours = {each.name: each for each in layer.weights}
    # The groups of a convolution have one channel each. In an input capsule's
    # matrices, output capsules came first.
    axes = {key: array.ndim for key, array in given.items()}
    if layer.name == "primary_capsules" and axes == {"kernel": 4, "bias": 1}:
        given["kernel"] = np.swapaxes(given["kernel"], 2, 3)
        if given["bias"].size == np.prod(ours["bias"].shape):
            given["bias"] = np.reshape(given["bias"], ours["bias"].shape)
    elif axes == {"kernel": 4, "coupling_bias": 3}:
        given["kernel"] = np.transpose(given["kernel"], (1, 2, 0, 3))
        given["coupling_bias"] = given["coupling_bias"][..., 0]
    shapes = {key: array.shape for key, array in given.items()}
    expected = {key: tuple(each.shape) for key, each in ours.items()}
    if shapes != expected:
        raise ValueError(
            f"Expected weights of shapes {expected} for layer {layer.name!r}. "
            f"Received: {shapes} of layer {name!r}"
        )
    for key, variable in ours.items():
        yield variable, given[key]


_OUR_NAMES = {"W": "kernel", "b": "coupling_bias"}
