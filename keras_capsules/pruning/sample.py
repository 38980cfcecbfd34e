"""What a layer routes, for a sample of images."""

import inspect
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_capsules.inspection.graph import Call
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.routes import in_windows
from keras_capsules.inspection.routes import pose_axes
from keras_capsules.layers.conv_capsules import ConvCapsules
from keras_capsules.layers.poses import broadcast_mask


class Batch(NamedTuple):
    """What a layer routes, for some images.

    Axes: b images, or in a convolution all windows of them; i input capsule, j
    output capsule.

    Attributes:
        images: Which images these are, a slice.
        activations: Activations of the input capsules, `[b, i]`: their own, or
            the lengths of vectors; 1 for matrices alone, and 0 for the padding
            of a convolution and for capsules that a mask excludes.
        outputs: Activations of the output capsules, `[b, j]`: their own, or
            their lengths; 1 if the routing gives lengths no such meaning.
        coupling: Coupling coefficients, `[b, i, j]`.
        counts: Which input capsules are no padding, and are excluded by no
            mask, `[b, i]`.
    """

    images: slice
    activations: np.ndarray
    outputs: np.ndarray
    coupling: np.ndarray
    counts: np.ndarray


def sample(
    model: keras.Model,
    call: Call,
    images: np.ndarray,
    batch_size: int,
    verbose: int,
) -> Iterator[Batch]:
    """Computes what a layer routes, for one batch of images after the other.

    Args:
        model: A functional model with one input.
        call: The call of a `CapsuleLayer` or of `ConvCapsules`.
        images: Array `(images, ...)`.
        batch_size: Positive integer.
        verbose: `0`, or `1` for a progress bar.

    Yields:
        A `Batch` for each batch.
    """
    layer: Any = call.layer
    below = keras.Model(model.inputs[0], list(call.inputs))
    progress = keras.utils.Progbar(len(images), verbose=verbose)
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        inputs, mask, (poses, coupling) = _run(
            call, below(part, training=False)
        )
        activations = _activations_of_inputs(layer, inputs)
        counts = np.ones_like(activations)
        if mask is not None:
            counts = as_array(broadcast_mask(mask, activations.shape))
            activations = activations * counts
        if isinstance(layer, ConvCapsules):
            activations, counts = (
                in_windows(layer, each) for each in (activations, counts)
            )
        coupling = as_array(coupling)
        coupling = coupling.reshape(-1, *coupling.shape[-2:])
        number, num_inputs, num_outputs = coupling.shape
        yield Batch(
            slice(start, start + len(part)),
            activations.reshape(number, num_inputs),
            _activations_of_outputs(layer, poses).reshape(number, num_outputs),
            coupling,
            counts.reshape(number, num_inputs) > 0,
        )
        progress.update(start + len(part))


def has_mask(call: Call) -> bool:
    """Whether a mask excludes input capsules of a layer."""
    return _arguments(call.layer, call.arguments).get("mask") is not None


def _run(call, tensors):
    """Inputs of a layer, their mask, and results with coupling."""
    tensors = keras.tree.flatten(tensors)
    values = dict(zip(map(id, call.inputs), tensors, strict=True))
    arguments = keras.tree.map_structure(
        lambda x: values.get(id(x), x), call.arguments
    )
    options = _arguments(call.layer, arguments)
    inputs, mask = options.pop("inputs"), options.get("mask")
    results = call.layer(inputs, **{**options, "return_coupling": True})
    return keras.tree.flatten(inputs), mask, results


def _arguments(layer, arguments):
    """The arguments of a call, by their names."""
    args, kwargs = arguments
    names = inspect.signature(layer.call).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _activations_of_inputs(layer, tensors):
    if len(tensors) > 1:
        return as_array(tensors[1])
    poses = as_array(tensors[0])
    if pose_axes(layer) == 2:
        return np.ones(poses.shape[:-2], "float32")
    return np.linalg.norm(poses, axis=-1)


def _activations_of_outputs(layer, capsules):
    if isinstance(capsules, (list, tuple)):
        return as_array(capsules[1])
    poses = as_array(capsules)
    axes = tuple(range(-pose_axes(layer), 0))
    lengths = np.sqrt(np.sum(poses**2, axis=axes))
    if layer.routing.activation_from == "length":
        return lengths
    return np.ones_like(lengths)
