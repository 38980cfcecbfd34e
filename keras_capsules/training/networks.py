"""Networks by name, and the loss that each is trained with."""

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
    """
    if name in _BASELINES:
        activation = "sigmoid" if task.is_multiple else "softmax"
        options = {"activation": activation, **options}
    network = (_CAPSULES | _BASELINES)[name](
        task.image_shape, task.num_classes, **options
    )
    return network, _loss(name, task)


def _loss(name, task):
    if name == "matrix_capsnet":
        return SpreadLoss()
    if name in _CAPSULES:
        return MarginLoss()
    if task.is_multiple:
        return "binary_crossentropy"
    return "sparse_categorical_crossentropy"
