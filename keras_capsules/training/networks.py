"""Networks by name, and the loss that each is trained with."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_capsules import models
from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss
from keras_capsules.training.task import Task

_CAPSULES: dict[str, Any] = {
    "capsnet": models.CapsNet,
    "efficient_capsnet": models.EfficientCapsNet,
    "deep_caps": models.DeepCaps,
    "inverted_attention_capsnet": models.InvertedAttentionCapsNet,
    "matrix_capsnet": models.MatrixCapsNet,
}
_BASELINES: dict[str, Any] = {
    "conv_net": models.ConvNet,
    "squeeze_excitation_net": models.SqueezeExcitationNet,
}
NAMES = (*_CAPSULES, *_BASELINES)


def make(
    name: str, task: Task, options: Mapping[str, Any]
) -> tuple[keras.Model, Any]:
    """Makes a network for a task.

    Args:
        name: String, one of `NAMES`.
        task: A `Task`.
        options: Dictionary of further arguments of the network.

    Returns:
        The network, and its loss.

    Raises:
        ValueError: If the network has no such options, or an invalid one.
    """
    network = (_CAPSULES | _BASELINES)[name]
    _check_options(network, options)
    if name in _BASELINES:
        activation = "sigmoid" if task.is_multiple else "softmax"
        options = {"activation": activation, **options}
    return (
        network(task.image_shape, task.num_classes, **options),
        _loss(name, task),
    )


def _check_options(network, options):
    """Raises if there is an option that the network has not."""
    known = [*inspect.signature(network).parameters]
    for name in ("image_shape", "num_classes", "kwargs"):
        known.remove(name)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(
            "The network has no such options. The task has the shape of images "
            "and the number of classes; the policy of the dtype is one of the "
            f"settings. Expected options of {network.__name__}: "
            f"{', '.join(known)}. Received: {', '.join(map(repr, unknown))}"
        )


def _loss(name, task):
    if name == "matrix_capsnet":
        return SpreadLoss()
    if name in _CAPSULES:
        return MarginLoss()
    if task.is_multiple:
        return "binary_crossentropy"
    return "sparse_categorical_crossentropy"
