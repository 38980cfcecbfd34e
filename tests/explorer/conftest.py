"""The explorer without its page, which tests/browser/ opens in a browser."""

import pathlib

import pytest

from keras_capsules import models

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="package", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="package")
def drawing(importable):
    from exploring import drawing

    return drawing


@pytest.fixture(scope="package")
def figures(importable):
    from exploring import figures

    return figures


@pytest.fixture(scope="package")
def networks(importable):
    from exploring import networks

    return networks


@pytest.fixture(scope="package")
def samples(importable):
    from exploring import samples

    return samples


@pytest.fixture(scope="package")
def explorer(importable):
    import explorer

    return explorer


@pytest.fixture(scope="package")
def shipped(networks):
    """The network of MNIST that the package has."""
    model = models.EfficientCapsNet(weights="mnist")
    return networks.Network("shipped", model, tuple("0123456789"))
