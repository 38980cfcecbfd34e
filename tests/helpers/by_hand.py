"""Layers whose kernels are set by hand."""

import numpy as np

from keras_capsules import CapsuleLayer
from keras_capsules import PrimaryCapsules
from keras_capsules.routing import DynamicRouting


def with_kernel(layer, shape, kernel):
    """Builds a layer without bias, and sets its kernel."""
    layer.build((None, *shape))
    layer.set_weights([np.broadcast_to(kernel, layer.kernel.shape)])
    return layer


def primary(shape, kernel=1.0, **options):
    options = {
        "num_capsules": 1,
        "capsule_dim": 1,
        "use_bias": False,
        "activation": None,
        **options,
    }
    return with_kernel(PrimaryCapsules(**options), shape, kernel)


def classes_of(x, kernel):
    """Class capsules, with equal coupling."""
    kernel = np.asarray(kernel, "float32")
    layer = CapsuleLayer(
        *kernel.shape[2:], DynamicRouting(1), use_bias=False, name="classes"
    )
    return with_kernel(layer, x.shape[1:], kernel)(x)
