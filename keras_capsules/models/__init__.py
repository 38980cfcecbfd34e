"""Capsule networks, ready to fit, one per file."""

from keras_capsules.models.capsnet import CapsNet as CapsNet
