"""Networks that learn scikit-learn's digits in some epochs."""

import functools

import keras
import numpy as np

from keras_capsules import datasets
from keras_capsules import models
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss

SHAPE, CLASSES = (8, 8, 1), 10


@functools.cache
def digits():
    """The training images and labels."""
    return datasets.load_arrays("digits")


def sequential(
    *capsules, conv=None, primary=None, classes=None, routing="dynamic"
):
    """A network of own layers: options of each, and more layers of capsules."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(
                16, 3, activation="relu", name="conv", **(conv or {})
            ),
            PrimaryCapsules(8, 8, 3, 2, name="primary", **(primary or {})),
            *capsules,
            CapsuleLayer(
                CLASSES, 16, routing=routing, name="classes", **(classes or {})
            ),
            CapsuleLength(name="scores"),
        ]
    )


def _matrix(**options):
    return models.MatrixCapsNet(
        SHAPE, CLASSES, filters=16, num_primary_capsules=4, **options
    )


# Of each network: the network, the loss, and the learning rate of Adam.
LEARNERS = {
    "CapsNet": lambda: (
        models.CapsNet(
            SHAPE,
            CLASSES,
            filters=16,
            kernel_size=3,
            num_primary_capsules=8,
            decoder_units=(32,),
        ),
        MarginLoss(),
        0.003,
    ),
    "EfficientCapsNet": lambda: (
        models.EfficientCapsNet(
            SHAPE,
            CLASSES,
            filters=(16,),
            num_primary_capsules=8,
            decoder_units=(32,),
        ),
        MarginLoss(),
        0.001,
    ),
    "MatrixCapsNet": lambda: (
        _matrix(num_conv_capsules=(8,), capsule_strides=(2,)),
        SpreadLoss(),
        0.003,
    ),
    "variational_bayes": lambda: (
        _matrix(
            num_conv_capsules=(),
            capsule_strides=(),
            routing="variational_bayes",
        ),
        "sparse_categorical_crossentropy",
        0.005,
    ),
    "DeepCaps": lambda: (
        models.DeepCaps(
            SHAPE,
            CLASSES,
            filters=16,
            num_cell_capsules=(4, 4),
            cell_dims=(4, 4),
            capsule_dim=8,
            decoder_filters=(4, 2),
        ),
        MarginLoss(),
        0.001,
    ),
    "InvertedAttentionCapsNet": lambda: (
        models.InvertedAttentionCapsNet(
            SHAPE,
            CLASSES,
            filters=(16,),
            num_primary_capsules=4,
            num_conv_capsules=(8,),
            capsule_strides=(2,),
            capsule_dim=8,
        ),
        MarginLoss(),
        0.001,
    ),
    "own": lambda: (sequential(), MarginLoss(), 0.003),
    "self_routing": lambda: (
        sequential(routing="self_routing"),
        "sparse_categorical_crossentropy",
        0.01,
    ),
}


def compiled(model, loss, rate, **options):
    """Compiles a network with Adam, and makes its variables."""
    model.compile(keras.optimizers.Adam(rate), loss, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def without(label):
    """The digits of all other classes."""
    images, labels = digits()
    kept = labels != label
    return images[kept], labels[kept]


def each_class(number):
    """So many digits of each class."""
    images, labels = digits()
    chosen = [np.flatnonzero(labels == n)[:number] for n in range(CLASSES)]
    return images[np.concatenate(chosen)], labels[np.concatenate(chosen)]
