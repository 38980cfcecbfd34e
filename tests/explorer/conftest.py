"""The explorer without its page, which tests/browser/ opens in a browser."""

import pytest

from keras_capsules import models
from keras_capsules.explorer import networks


@pytest.fixture(scope="package")
def shipped():
    """The network of MNIST that the package has."""
    model = models.EfficientCapsNet(weights="mnist")
    return networks.Network("shipped", model, tuple("0123456789"))
