"""Layers and operations that change each place of a grid by itself."""

from typing import Any

import keras

from keras_capsules.layers.capsule_dropout import CapsuleDropout
from keras_capsules.layers.pose_normalization import PoseNormalization
from keras_capsules.layers.pose_scores import PoseScores
from keras_capsules.layers.propagate_nan import PropagateNaN
from keras_capsules.layers.squeeze_excitation import SqueezeExcitation

_layers = keras.layers

# Those of preprocessing, which change nothing in inference.
_RANDOM = (
    _layers.AugMix,
    _layers.CutMix,
    _layers.MixUp,
    _layers.RandomBrightness,
    _layers.RandomColorDegeneration,
    _layers.RandomColorJitter,
    _layers.RandomContrast,
    _layers.RandomElasticTransform,
    _layers.RandomErasing,
    _layers.RandomFlip,
    _layers.RandomGaussianBlur,
    _layers.RandomGrayscale,
    _layers.RandomHue,
    _layers.RandomInvert,
    _layers.RandomPerspective,
    _layers.RandomPosterization,
    _layers.RandomRotation,
    _layers.RandomSaturation,
    _layers.RandomSharpness,
    _layers.RandomShear,
    _layers.RandomTranslation,
    _layers.RandomZoom,
    _layers.Solarization,
)
# Layers that change each position, or each capsule, by itself. (The means of
# normalizations are not looked at.)
SAME = (
    *_RANDOM,
    _layers.Activation,
    _layers.ActivityRegularization,
    _layers.AlphaDropout,
    _layers.BatchNormalization,
    _layers.Dropout,
    _layers.ELU,
    _layers.GaussianDropout,
    _layers.GaussianNoise,
    _layers.GroupNormalization,
    _layers.Identity,
    _layers.LayerNormalization,
    _layers.LeakyReLU,
    _layers.Normalization,
    _layers.PReLU,
    _layers.ReLU,
    _layers.Rescaling,
    _layers.SpatialDropout2D,
    CapsuleDropout,
    PoseNormalization,
    PoseScores,
    PropagateNaN,
    SqueezeExcitation,
)
_MERGED = (
    _layers.Add,
    _layers.Average,
    _layers.Concatenate,
    _layers.Maximum,
    _layers.Minimum,
    _layers.Multiply,
    _layers.Subtract,
)
# Keras's operations have no public classes: `x + y` is one that is called Add.
_MERGED_OPERATIONS = (
    *("Add", "Concatenate", "Divide", "Maximum", "Minimum", "Multiply"),
    *("Power", "Subtract", "TrueDivide"),
)
_SAME_OPERATIONS = (
    *("Absolute", "Cast", "Clip", "Elu", "Exp", "Gelu", "LeakyRelu", "Log"),
    *("Negative", "Relu", "Relu6", "Sigmoid", "Silu", "Softplus"),
    *("Sqrt", "Square", "Tanh"),
)


def operation_of(layer: Any) -> str:
    """The class of an operation such as `x + y`; `""` if it is a layer."""
    of_keras = type(layer).__module__.startswith("keras.")
    is_layer = isinstance(layer, _layers.Layer)
    return type(layer).__name__ if of_keras and not is_layer else ""


def is_merged(layer: Any) -> bool:
    """Whether a layer or operation merges the same places of its inputs."""
    return (
        isinstance(layer, _MERGED) or operation_of(layer) in _MERGED_OPERATIONS
    )


def is_concatenated(layer: Any) -> bool:
    """Whether it merges its inputs by laying them one behind the other."""
    return (
        isinstance(layer, _layers.Concatenate)
        or operation_of(layer) == "Concatenate"
    )


def is_same(layer: Any, arguments: Any, rank: int) -> bool:
    """Whether each place of the output is that of the only input.

    Args:
        layer: A layer, or another operation.
        arguments: Those of its call, `(args, kwargs)`.
        rank: The number of axes of its input.
    """
    if isinstance(layer, _layers.TimeDistributed):
        layer = layer.layer
    if isinstance(layer, _layers.Dense):
        return rank > 2  # it changes the last axis, which is none of places
    if operation_of(layer) == "GetItem":
        return _leaves_places(arguments, rank)
    return isinstance(layer, SAME) or operation_of(layer) in _SAME_OPERATIONS


def _leaves_places(arguments, rank):
    """Whether `x[key]` picks along axes alone that are none of places.

    The axes of places are the first ones: batch, y and x; or, of capsules in a
    row, batch and capsules.
    """
    key = [*arguments[0], *arguments[1].values()][1]
    key = list(key) if isinstance(key, tuple) else [key]
    for place, each in enumerate(key):
        if each is Ellipsis:
            key[place : place + 1] = [slice(None)] * (rank - len(key) + 1)
            break
    end = min(rank - 1, 3)
    return all(isinstance(each, slice | int) for each in key) and all(
        each == slice(None) for each in key[:end]
    )
