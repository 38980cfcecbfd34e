"""Networks by name, and the loss that each is trained with."""

import keras_capsules
from keras_capsules import models

_CAPSULES = {
    "capsnet": models.CapsNet,
    "efficient_capsnet": models.EfficientCapsNet,
    "deep_caps": models.DeepCaps,
    "inverted_attention_capsnet": models.InvertedAttentionCapsNet,
    "matrix_capsnet": models.MatrixCapsNet,
}
_BASELINES = {
    "conv_net": models.ConvNet,
    "squeeze_excitation_net": models.SqueezeExcitationNet,
}
NAMES = (*_CAPSULES, *_BASELINES)


def make(name, task, options):
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
    network = {**_CAPSULES, **_BASELINES}[name](
        task.image_shape, task.num_classes, **options
    )
    return network, _loss(name, task)


def _loss(name, task):
    if name == "matrix_capsnet":
        return keras_capsules.SpreadLoss()
    if name in _CAPSULES:
        return keras_capsules.MarginLoss()
    if task.is_multiple:
        return "binary_crossentropy"
    return "sparse_categorical_crossentropy"
