import keras
import numpy as np
import pytest

from keras_capsules.layers import CapsuleDropout
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import values


def capsules(*shape):
    return np.random.default_rng(1).uniform(1, 2, shape).astype("float32")


def test_vectors_are_dropped_as_a_whole_and_the_others_scaled():
    x = capsules(3, 211, 5)
    dropped = numpy(CapsuleDropout(0.2, seed=7)(x, training=True))
    off = (dropped == 0).all(axis=-1)
    assert off.mean() == pytest.approx(0.2, abs=0.06)
    np.testing.assert_allclose(dropped[~off], x[~off] / 0.8, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 211, 2, 5), (3, 211, 5)], ids=str)
def test_pairs_lose_poses_and_activations(shape):
    poses, activations = capsules(*shape), capsules(3, 211)
    layer = CapsuleDropout(0.2, seed=7)
    new_poses, new_activations = map(
        numpy, layer((poses, activations), training=True)
    )
    off = new_activations == 0
    assert off.mean() == pytest.approx(0.2, abs=0.06)
    assert (new_poses[off] == 0).all()
    # Probabilities of the others are not scaled, nor are their poses.
    np.testing.assert_allclose(new_poses[~off], poses[~off], rtol=1e-6)
    np.testing.assert_allclose(
        new_activations[~off], activations[~off], rtol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"training": False}], ids=str)
def test_nothing_happens_outside_of_training(options):
    x = capsules(2, 3, 5)
    np.testing.assert_array_equal(numpy(CapsuleDropout(0.9)(x, **options)), x)


def test_a_rate_of_zero_drops_nothing():
    x = capsules(2, 3, 5)
    np.testing.assert_array_equal(numpy(CapsuleDropout(0)(x, training=True)), x)


def test_choices_differ_from_call_to_call_and_repeat_with_the_seed():
    x = capsules(2, 31, 5)
    layer, twin = CapsuleDropout(0.5, seed=3), CapsuleDropout(0.5, seed=3)
    first, second = (numpy(layer(x, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(numpy(twin(x, training=True)), first)


@values({"one": 1, "more": 1.5, "negative": -0.1, "string": "0.5"})
def test_invalid_rate(value):
    with pytest.raises(ValueError, match=invalid("rate", "a (finite )?number")):
        CapsuleDropout(value)


@pytest.mark.parametrize(
    "shape", [(2, 5), ((2, 7, 5), (2, 6)), ((2, 5), (2,))], ids=str
)
def test_invalid_shapes(shape):
    inputs = keras.tree.map_shape_structure(lambda one: capsules(*one), shape)
    with pytest.raises(ValueError, match="takes vector capsules.*Received: in"):
        CapsuleDropout(0.5)(inputs)
