"""Which weights of a capsule network are shared out among devices."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np

from keras_capsules.distribution.copies import check_pattern
from keras_capsules.distribution.copies import copied
from keras_capsules.distribution.copies import sizes_of
from keras_capsules.layers.base import RoutedLayer
from keras_capsules.layers.primary_capsules import PrimaryCapsules
from keras_capsules.models.saving import walk
from keras_capsules.utils.validation import check_choice

_SIDES = {"outputs": "output capsules", "inputs": "input capsules"}


class _Axes(NamedTuple):
    """Which axes of a weight stand for capsules; `None` if none does."""

    outputs: int | None
    inputs: int | None


# Weights of layers that route. A kernel is `[..., k, d, j, e]`: k input
# capsules, or their types; j output capsules.
_KERNEL = "kernel"
_WEIGHTS = {
    _KERNEL: _Axes(-2, -4),
    "bias": _Axes(0, None),
    "routing_kernel": _Axes(2, 0),
    "routing_bias": _Axes(0, 1),
    "coupling_bias": _Axes(0, 1),
}


def layout_map(
    model: keras.Model,
    mesh: keras.distribution.DeviceMesh,
    axis: str = "model",
    capsules: str = "auto",
    layers: str | Iterable[str] | None = None,
) -> keras.distribution.LayoutMap:
    """Lays out the kernels of a capsule network over several devices.

    `keras.distribution.ModelParallel` takes the result. A layer whose capsules
    vote has a matrix for each pair of an input and an output capsule. With many
    classes, these matrices are most of a network's weights, and each device
    keeps a part of them:

    - `capsules="outputs"`: each device has the matrices to some of the output
      capsules, and makes the votes for those. Routings that let output capsules
      compete, such as `"dynamic"`, then communicate in each iteration: one
      number for each pair of an example and an input capsule.
    - `capsules="inputs"`: each device has the matrices from some of the input
      capsules, and makes the votes of those. Every weighted sum of votes is
      then a sum over devices: one pose for each pair of an example and an
      output capsule. In convolutional layers, each device has the matrices from
      some of the input capsules' types.
    - `capsules="auto"`: for each layer, the output capsules if their number is
      a multiple of the number of devices, else the input capsules.

    Other weights that have an axis for those capsules, biases and the weights
    of routings, are laid out in the same way if that axis divides. So is the
    first dense layer of a decoder, which has rows for each class, if the class
    capsules are shared out. All others, such as those of convolutions, are
    copied to every device. To lay out one of them, add its path to the result.

    Args:
        model: A built `keras.Model` with layers that route.
        mesh: A `keras.distribution.DeviceMesh`.
        axis: String, the axis of the mesh along which kernels are cut. Defaults
            to `"model"`.
        capsules: `"outputs"`, `"inputs"` or `"auto"`, which capsules the
            devices share out among themselves. Defaults to `"auto"`.
        layers: Paths of the layers to lay out: a regular expression, or several
            of them, each of which must match the whole path of a layer that
            routes. The path of a layer within others, such as a `CapsuleStack`,
            has slashes. Defaults to `None`, all layers that route.

    Returns:
        A `keras.distribution.LayoutMap`. Its keys are the paths of the weights
        in the copy that `distribute` makes. In models made of others, such as a
        `keras.Sequential`, Keras may give a copy other paths.

    Raises:
        ValueError: If an argument is not as described, a regular expression is
            invalid or matches no layer, the number of capsules is not a
            multiple of the number of devices, or the model has depthwise or
            grouped convolutions, as `EfficientCapsNet` has, and the mesh has
            more than one axis that is larger than 1. XLA computes wrong
            gradients of their kernels then (found with JAX 0.10.2).

    Example:

    ```python
    import os

    # Four devices of a CPU, before JAX is imported; GPUs need no flag.
    flag = "--xla_force_host_platform_device_count=4"
    os.environ.setdefault("XLA_FLAGS", flag)
    os.environ.setdefault("KERAS_BACKEND", "jax")

    import keras
    from keras_capsules import MarginLoss, distribution
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 1000, filters=16, num_primary_capsules=4)
    if keras.backend.backend() == "jax":
        number = len(keras.distribution.list_devices())
        mesh = keras.distribution.DeviceMesh((1, number), ["batch", "model"])
        layout = distribution.layout_map(model, mesh)
        parallel = keras.distribution.ModelParallel(layout_map=layout)
        with parallel.scope():
            model = distribution.distribute(model, layout)
            model.compile("adam", MarginLoss())
            # model.fit(...) as on one device
    ```
    """
    check_choice(capsules, "capsules", ("auto", *_SIDES))
    devices = _size_of_axis(mesh, axis)
    paths = _paths(model)
    _check_convolutions(model, mesh)
    # Paths and axes of weights. One that two layers share is there once.
    found: dict[str, tuple[str | None, ...]] = {}
    for path, layer in _chosen(model, paths, layers):
        side = _side(path, layer.kernel.shape, capsules, devices)
        for weight in layer.weights:
            number = _axis_of(weight, side)
            # Only the kernel has to be cut.
            if number is not None and weight.shape[number] % devices == 0:
                found[paths[id(weight)]] = tuple(
                    axis if each == number else None
                    for each in range(len(weight.shape))
                )
        decoder = _decoder_kernel(model, layer)
        if side == "outputs" and decoder is not None:
            found[paths[id(decoder)]] = (axis, None)
    layout = keras.distribution.LayoutMap(mesh)
    for name, axes in found.items():
        layout[name] = axes
    return layout


def _size_of_axis(mesh, axis):
    if not isinstance(mesh, keras.distribution.DeviceMesh):
        raise ValueError(
            "Expected `mesh` to be a keras.distribution.DeviceMesh. "
            f"Received: mesh={mesh!r}"
        )
    check_choice(axis, "axis", mesh.axis_names)
    return sizes_of(mesh)[axis]


def _check_convolutions(model, mesh):
    """Raises if XLA would compute wrong gradients."""
    if sum(size > 1 for size in mesh.shape) < 2:
        return
    wrong = [path for path, layer in walk(model) if _is_grouped(layer)]
    if wrong:
        raise ValueError(
            "XLA computes wrong gradients of depthwise and grouped "
            "convolutions on a mesh with two axes. Expected a mesh of shape "
            f"(1, {mesh.devices.size}) or ({mesh.devices.size}, 1). Received: "
            f"mesh of shape {tuple(mesh.shape)}, and the layers "
            f"{', '.join(wrong)}"
        )


def _is_grouped(layer):
    depthwise = (
        keras.layers.DepthwiseConv1D,
        keras.layers.DepthwiseConv2D,
        keras.layers.SeparableConv1D,
        keras.layers.SeparableConv2D,
    )
    return (
        isinstance(layer, depthwise)
        or (isinstance(layer, PrimaryCapsules) and layer.depthwise)
        or (
            isinstance(
                layer,
                keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D,
            )
            and layer.groups > 1
        )
    )


def _paths(model):
    """The path of each weight in a copy of the model, by its `id`."""
    copy = copied(model)
    return {
        id(weight): other.path
        for weight, other in zip(model.weights, copy.weights, strict=True)
    }


def _chosen(model, paths, patterns):
    """Paths and layers to lay out."""
    found = {
        paths[id(layer.kernel)].rpartition("/")[0]: layer
        for _, layer in walk(model)
        if isinstance(layer, RoutedLayer)
    }
    if not found:
        raise ValueError(
            "Expected `model` to have layers whose capsules vote, such as "
            f"CapsuleLayer. Received: model={model!r}"
        )
    if patterns is None:
        return found.items()
    patterns = _patterns(patterns)
    chosen = {}
    for pattern in patterns:
        matching = {
            path: layer
            for path, layer in found.items()
            if re.fullmatch(pattern, path)
        }
        if not matching:
            raise ValueError(
                "A name in `layers` matches no layer that routes. Expected "
                "regular expressions that match one or more of "
                f"{', '.join(found)}. Received: layers={pattern!r}"
            )
        chosen |= matching
    return chosen.items()


def _patterns(layers):
    """Regular expressions as a list, at least one."""
    if isinstance(layers, str):
        layers = [layers]
    patterns = list(layers) if isinstance(layers, Iterable) else []
    if not patterns:
        raise ValueError(
            "Expected `layers` to be a regular expression, or several of them, "
            f"at least one; or None for all layers. Received: layers={layers!r}"
        )
    for pattern in patterns:
        check_pattern(pattern, f"layers={patterns!r}")
    return patterns


def _side(path, shape, capsules, devices):
    """Whether to cut a kernel along its output or its input capsules."""
    sizes = {side: shape[getattr(_WEIGHTS[_KERNEL], side)] for side in _SIDES}
    allowed = list(_SIDES) if capsules == "auto" else [capsules]
    for side in allowed:
        if sizes[side] % devices == 0:
            return side
    numbers = " or ".join(f"{sizes[x]} {_SIDES[x]}" for x in allowed)
    raise ValueError(
        f"The kernel of {path} cannot be cut into equal parts, one for each "
        f"device. Expected a multiple of {devices}, the size of the mesh's "
        f"axis, or `layers` without this layer. Received: {numbers}, "
        f"capsules={capsules!r}"
    )


def _axis_of(weight, side):
    axes = _WEIGHTS.get(weight.name)
    number = axes and getattr(axes, side)
    return None if number is None else number % len(weight.shape)


def _decoder_kernel(model, layer):
    """The kernel that a decoder multiplies these class capsules by."""
    decoder = getattr(model, "decoder", None)
    layers = walk(decoder) if isinstance(decoder, keras.Model) else []
    first = next((each for _, each in layers if each.weights), None)
    rows = layer.num_capsules * int(np.prod(layer.capsule_dim))
    if isinstance(first, keras.layers.Dense) and first.kernel.shape[0] == rows:
        return first.kernel
    return None
