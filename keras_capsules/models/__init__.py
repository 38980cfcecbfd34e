"""Capsule networks, ready to fit, one per file, and their baselines."""

from keras_capsules.models.capsnet import CapsNet
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.models.conv_net import ConvNet
from keras_capsules.models.deep_caps import DeepCaps
from keras_capsules.models.efficient_capsnet import EfficientCapsNet
from keras_capsules.models.inverted_attention_capsnet import (
    InvertedAttentionCapsNet,
)
from keras_capsules.models.matrix_capsnet import MatrixCapsNet
from keras_capsules.models.squeeze_excitation_net import SqueezeExcitationNet

__all__ = [
    "CapsNet",
    "CapsuleNetwork",
    "ConvNet",
    "DeepCaps",
    "EfficientCapsNet",
    "InvertedAttentionCapsNet",
    "MatrixCapsNet",
    "SqueezeExcitationNet",
]
