"""Capsule networks, ready to fit, one per file, and their baselines."""

from keras_capsules.models.baselines import ConvNet as ConvNet
from keras_capsules.models.baselines import (
    SqueezeExcitationNet as SqueezeExcitationNet,
)
from keras_capsules.models.capsnet import CapsNet as CapsNet
from keras_capsules.models.deep_caps import DeepCaps as DeepCaps
from keras_capsules.models.efficient_capsnet import (
    EfficientCapsNet as EfficientCapsNet,
)
from keras_capsules.models.inverted_attention_capsnet import (
    InvertedAttentionCapsNet as InvertedAttentionCapsNet,
)
from keras_capsules.models.matrix_capsnet import MatrixCapsNet as MatrixCapsNet
