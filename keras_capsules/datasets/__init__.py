"""The data sets of the capsule literature."""

from keras_capsules.datasets.dataset_info import DatasetInfo
from keras_capsules.datasets.loading import info
from keras_capsules.datasets.loading import load
from keras_capsules.datasets.loading import load_arrays
from keras_capsules.datasets.overlapping import multi_mnist
from keras_capsules.datasets.turntable import coil20
from keras_capsules.datasets.viewpoints import affine_mnist

__all__ = [
    "DatasetInfo",
    "affine_mnist",
    "coil20",
    "info",
    "load",
    "load_arrays",
    "multi_mnist",
]
