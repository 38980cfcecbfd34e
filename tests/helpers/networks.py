"""Every network in a small size."""

import keras
import numpy as np

from keras_capsules import models

SHAPE, CLASSES = (8, 8, 1), 3
OPTIONS = {
    "CapsNet": {
        "filters": 4,
        "kernel_size": 3,
        "num_primary_capsules": 2,
        "primary_dim": 4,
        "decoder_units": (7,),
    },
    "ConvNet": {"filters": (4,), "units": (7,)},
    "DeepCaps": {
        "filters": 4,
        "num_cell_capsules": (2, 2),
        "cell_dims": (4, 4),
        "decoder_filters": (4, 2),
    },
    "EfficientCapsNet": {
        "filters": (4,),
        "num_primary_capsules": 3,
        "primary_dim": 4,
        "decoder_units": (7,),
    },
    "InvertedAttentionCapsNet": {
        "filters": (4,),
        "num_primary_capsules": 2,
        "num_conv_capsules": (2,),
        "capsule_strides": (2,),
        "capsule_dim": 4,
        "decoder_units": (7,),
    },
    "MatrixCapsNet": {
        "filters": 4,
        "num_primary_capsules": 2,
        "num_conv_capsules": (2,),
        "capsule_strides": (2,),
        "decoder_units": (7,),
    },
    "SqueezeExcitationNet": {"filters": (4, 4), "blocks": 1, "ratio": 2},
}
# `CapsuleNetwork` itself takes layers instead of options.
NAMES = [name for name in models.__all__ if name != "CapsuleNetwork"]


def make(name, **kwargs):
    """The network of this name, with a fixed seed."""
    keras.utils.set_random_seed(3)
    options = {**OPTIONS[name], **kwargs}
    return getattr(models, name)(SHAPE, CLASSES, **options)


def images(number=5):
    """Images for these networks."""
    numbers = np.random.default_rng(7)
    return numbers.uniform(size=(number, *SHAPE)).astype("float32")


def labels(number=5):
    """Integer labels of such images."""
    return np.random.default_rng(8).integers(0, CLASSES, size=number)
