"""Capsule networks whose kernels are shared out among several devices."""

from keras_capsules.distribution.copies import distribute as distribute
from keras_capsules.distribution.layouts import layout_map as layout_map

__all__ = ["distribute", "layout_map"]
