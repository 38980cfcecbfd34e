"""Images that no function of the inspection takes."""

import functools

import numpy as np
import pytest

from keras_capsules import inspection
from keras_capsules.models import CapsNet
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

IMAGES = np.random.default_rng(0).uniform(size=(25, 8, 8, 1)).astype("float32")


@functools.cache
def network():
    return CapsNet(
        (8, 8, 1), 1, filters=2, num_primary_capsules=2, decoder_units=(4,)
    )


FUNCTIONS = {
    "couplings": lambda x: inspection.couplings(network(), x),
    "support_map": lambda x: inspection.support_map(network(), x),
    "parse_tree": lambda x: inspection.parse_tree(network(), x[1]),
    "perturb": lambda x: inspection.perturb(network(), x, [0], [0.1]),
    "interpolate from": lambda x: inspection.interpolate(network(), x, IMAGES),
    "interpolate to": lambda x: inspection.interpolate(network(), IMAGES, x),
    "equivariance": lambda x: inspection.equivariance(
        network(), x, "shift_x", [-1, 1]
    ),
    "capsule_health": lambda x: inspection.capsule_health(network(), x),
}
# What the argument is called.
NAMES = {
    "parse_tree": "image",
    "interpolate from": "a",
    "interpolate to": "b",
}
functions = pytest.mark.parametrize("function", list(FUNCTIONS))


@functions
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"]
)
def test_real_numbers_of_all_kinds_are_taken(function, dtype):
    FUNCTIONS[function](IMAGES.astype(dtype))


@functions
@pytest.mark.parametrize(
    ("images", "dtype"),
    [
        (IMAGES.astype(complex), "complex128"),
        (IMAGES.astype(object), "object"),
        (IMAGES.astype(str), "<U"),
        (np.zeros(IMAGES.shape, "datetime64[s]"), "datetime64"),
        (IMAGES.astype(complex).tolist(), "complex128"),
    ],
    ids=["complex", "object", "string", "date", "list"],
)
def test_other_dtypes_are_refused(function, images, dtype):
    name = NAMES.get(function, "images")
    message = f"`{name}` to be real numbers.*Received: {name}.dtype={dtype}"
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[function](images)


@functions
def test_ragged_lists_are_refused(function):
    images = IMAGES.tolist()
    images[1][0] = images[1][0][:5]
    with pytest.raises(ValueError, match="to have one shape. Received: "):
        FUNCTIONS[function](images)


@functions
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_refused(function, value):
    images = IMAGES.copy()
    images[1, 2:4, 3] = value
    if function == "capsule_health":  # it names them
        problems = FUNCTIONS[function](images).problems
        assert "images_not_finite" in [each.name for each in problems]
        return
    name = NAMES.get(function, "images")
    where = "" if function == "parse_tree" else ", in image 1 first"
    with pytest.raises(ValueError) as raised:
        FUNCTIONS[function](images)
    assert str(raised.value) == (
        f"Expected `{name}` to be finite. Received: {name} with 2 numbers that "
        f"are NaN or infinite{where}"
    )
