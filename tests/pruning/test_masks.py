"""Networks in which a mask excludes input capsules."""

import keras
import numpy as np
import pytest

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules1D
from keras_capsules import PrimaryCapsules
from keras_capsules import pruning
from keras_capsules.activations import squash
from keras_capsules.models import CapsuleNetwork
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import FixedRouting
from tests.fixtures import networks
from tests.helpers.pruning import assert_close
from tests.helpers.pruning import outputs_of
from tests.helpers.pruning import predict
from tests.helpers.pruning import set_weights
from tests.helpers.testing import arrays
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

LENGTHS = [6, 4, 1, 5, 6]


def sequences(lengths=LENGTHS):
    """Sequences of vectors, with zeros behind them."""
    x = np.random.default_rng(7).normal(size=(len(lengths), 6, 4))
    for each, length in zip(x, lengths, strict=True):
        each[length:] = 0
    return x.astype("float32")


def masked(routing="dynamic"):
    inputs = keras.Input((6, 4))
    x = keras.layers.Masking()(inputs)
    x = CapsuleLayer(3, 5, routing=routing, name="capsules")(x)
    return set_weights(keras.Model(inputs, CapsuleLength()(x)))


def in_numpy(model, x, lengths=LENGTHS):
    """Capsules with the mean coupling, and the dependence, one by one."""
    layer = model.get_layer("capsules")
    mask = np.arange(6) < np.array(lengths)[:, None]
    _, coupling = arrays(
        layer(x, mask=keras.ops.convert_to_tensor(mask), return_coupling=True)
    )
    mean = np.stack([coupling[mask[:, i], i].mean(axis=0) for i in range(6)])
    found = []
    for number in range(len(x)):
        for i in np.flatnonzero(mask[number]):
            others = mask[:, i] & (np.arange(len(x)) != number)
            if others.any():
                of_others = coupling[others, i].mean(axis=0)
                difference = coupling[number, i] - of_others
                found.append(np.abs(difference).sum() / 2)
    weights = mean * mask[..., None]
    votes = np.einsum("bid,idje->bije", x, numpy(layer.kernel))
    sums = np.einsum("bij,bije->bje", weights, votes) + numpy(layer.bias)
    return numpy(squash(sums)), np.mean(found)


@pytest.mark.parametrize("batch_size", [2, 128])
def test_excluded_capsules_do_not_count_in_the_mean(batch_size):
    model, x = masked(), sequences()
    result = pruning.freeze_routing(model, x, limit=1, batch_size=batch_size)
    capsules, dependence = in_numpy(model, x)
    (layer,) = result.layers
    assert layer.frozen
    np.testing.assert_allclose(layer.dependence, dependence, rtol=1e-4)
    assert dependence > 0.01
    assert_close(outputs_of(result.model, "capsules", x), [capsules])
    assert isinstance(result.model.get_layer("capsules").routing, FixedRouting)


def test_coupling_that_is_always_the_same():
    model, x = masked(DynamicRouting(1)), sequences()
    result = pruning.freeze_routing(model, x, limit=0)
    assert result.layers[0].dependence < 1e-7
    other = sequences([2, 3, 6, 6, 1])
    for each in (x, other):
        assert_close([predict(result.model, each)], [predict(model, each)])


def test_a_capsule_that_counts_in_one_image():
    """It has a mean, but nothing to compare it with."""
    lengths = [6, 4, 1, 5, 5]
    model, x = masked(), sequences(lengths)
    result = pruning.freeze_routing(model, x, limit=1)
    capsules, dependence = in_numpy(model, x, lengths)
    np.testing.assert_allclose(
        result.layers[0].dependence, dependence, rtol=1e-4
    )
    assert_close(outputs_of(result.model, "capsules", x), [capsules])


@on_one_backend
def test_capsules_that_no_image_has():
    message = (
        "averaged over the images in which an input capsule counts. Expected "
        "each to count in an image.* Received: a mask that excludes the input "
        r"capsules \[4, 5\] from all images, of 'capsules'"
    )
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(masked(), sequences([4, 2]), limit=1)
    # Each of the two images has capsules that the other one has not.
    x = sequences([6, 6])
    x[0, 3:] = x[1, :3] = 0
    message = "Received: no input capsule that counts in two images, of 'caps"
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(masked(), x, limit=1)


def convolution(routing="dynamic"):
    """A mask that layers hand on."""
    inputs = keras.Input((6, 4))
    x = keras.layers.Reshape((6, 1, 4))(inputs)
    mask = keras.ops.any(keras.ops.not_equal(inputs, 0.0), axis=-1)
    layer = ConvCapsules1D(2, 3, 3, 1, "same", routing, name="first")
    x = CapsuleLayer(3, 5, routing, name="second")(layer(x, mask=mask))
    return set_weights(CapsuleNetwork(inputs, x))


def test_a_mask_that_excludes_nothing_changes_nothing():
    model, x = convolution(), sequences([6, 6, 6, 6, 6])
    inputs = keras.Input((6, 4))
    y = keras.layers.Reshape((6, 1, 4))(inputs)
    y = ConvCapsules1D(2, 3, 3, padding="same", name="first")(y)
    plain = CapsuleNetwork(inputs, CapsuleLayer(3, 5, name="second")(y))
    plain.set_weights(model.get_weights())
    ours = pruning.freeze_routing(model, x, limit=1)
    theirs = pruning.freeze_routing(plain, x, limit=1)
    assert_close([predict(ours.model, x)], [predict(theirs.model, x)])
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        np.testing.assert_allclose(one.dependence, other.dependence, rtol=1e-5)


def test_convolutions():
    """With zeros of excluded capsules in the mean, votes would be shorter."""
    model, x = convolution(DynamicRouting(1)), sequences()
    result = pruning.freeze_routing(model, x, limit=0)
    assert [each.frozen for each in result.layers] == [True, True]
    assert_close([predict(result.model, x)], [predict(model, x)])


@on_one_backend
def test_an_unknown_number_of_capsules():
    model, x = networks.texts(), np.ones((3, 6), "int32")
    message = (
        "Expected a known number of input capsules. Received: the layer "
        r"'capsule_layer.*', whose input has the shape \(None, None, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(model, x)


@on_one_backend
def test_pruning_is_refused():
    message = (
        "a mask excludes in some examples cannot be pruned.* Received: the "
        "layer 'second', whose input has one"
    )
    for unit in ("type", "capsule"):
        with pytest.raises(ValueError, match=message):
            pruning.prune(convolution(), sequences(), 0.5, unit, "first")


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_pruning_where_no_mask_is_left():
    """Primary capsules hand no mask on."""
    inputs = keras.Input((6, 4))
    x = keras.layers.Masking()(inputs)
    x = keras.layers.Conv1D(5, 2)(x)
    x = PrimaryCapsules(4, 3, kernel_size=2, name="first")(x)
    model = set_weights(CapsuleNetwork(inputs, CapsuleLayer(3, 5)(x)))
    result = pruning.prune(model, sequences(), 0.5)
    assert len(result.kept) == 2
    assert np.isfinite(predict(result.model, sequences())).all()


@on_one_backend
@pytest.mark.parametrize("value", [[["capsules"]], [None], [3], [["a"], "b"]])
def test_layers_that_are_no_names(value):
    message = invalid("layers", r"names of layers with routing, of \['capsules")
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(masked(), sequences(), layers=value)
