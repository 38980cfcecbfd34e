"""The data sets of the capsule literature."""

from keras_capsules.datasets.dataset_info import DatasetInfo
from keras_capsules.datasets.loading import info
from keras_capsules.datasets.loading import load
from keras_capsules.datasets.loading import load_arrays

__all__ = ["DatasetInfo", "info", "load", "load_arrays"]
