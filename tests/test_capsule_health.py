"""`CapsuleHealth`: what it says of trainings that fail, and of healthy ones."""

import re
import warnings

import keras
import numpy as np
import pytest

from keras_capsules.callbacks import CapsuleHealth
from keras_capsules.callbacks import CapsuleHealthWarning
from keras_capsules.layers import CapsuleLayer
from keras_capsules.losses import MarginLoss
from keras_capsules.routing import DynamicRouting
from tests.helpers.learners import LEARNERS
from tests.helpers.learners import compiled
from tests.helpers.learners import digits
from tests.helpers.learners import each_class
from tests.helpers.learners import sequential
from tests.helpers.learners import without
from tests.helpers.testing import QUICK
from tests.helpers.testing import slow_on_jax


def fit(model, images, labels, callback, **options):
    """Trains, and returns the warnings of the callback and the history."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CapsuleHealthWarning)
        # Self-routing makes no use of the poses of class capsules, and networks
        # notice some mistakes as well.
        warnings.filterwarnings("ignore", "Gradients do not exist")
        warnings.filterwarnings("ignore", "(With values that|Images with)")
        history = model.fit(
            images, labels, verbose=0, callbacks=[callback], **options
        )
    found = [str(one.message) for one in caught]
    assert {one.category for one in caught} <= {CapsuleHealthWarning}
    return found, history.history


def warnings_of(model, images, labels, look=None, rate=0.001, **options):
    """The warnings of two short epochs."""
    if not model.compiled:
        compiled(model, MarginLoss(), rate, **QUICK)
    options = {"batch_size": 32, "epochs": 2, **options}
    callback = CapsuleHealth(*(look or (images, labels)))
    return fit(model, images, labels, callback, **options)[0]


def some(number=64):
    images, labels = digits()
    return images[:number], labels[:number]


def is_about(message, name, layer, *parts):
    """Whether a warning names a problem, a layer, numbers and a remedy."""
    assert message.startswith(f"{name} in {layer}: "), message
    for part in ("(expected", *parts):
        assert part in message, message
    return True


# Eight trainings that fail.


@pytest.mark.parametrize("rate", [0.1, 30.0])
def test_a_learning_rate_that_is_too_high(rate):
    (message,) = warnings_of(sequential(), *some(), rate=rate)
    assert is_about(message, "learning_rate", "conv", "Lower the learning rate")
    good = float(re.search(r"to about (\S+)\.$", message)[1])
    assert 0.0005 < good < 0.005


def test_the_recommended_learning_rate_is_no_longer_too_high():
    assert warnings_of(sequential(), *some(), rate=0.002) == []


@pytest.mark.parametrize("layer", ["conv", "primary", "classes"])
def test_a_kernel_that_begins_too_small(layer):
    tiny = {"kernel_initializer": keras.initializers.Constant(1e-6)}
    model = sequential(**{layer: tiny})
    (message,) = warnings_of(model, *some())
    parts = "root mean square of 1e-06", "initializer"
    assert is_about(message, "small_kernel", layer, *parts)


def test_kernels_that_begin_too_small_below_means_of_votes():
    """Votes hardly differ at first in any case, and here they never do."""
    model, *options = LEARNERS["MatrixCapsNet"]()
    for weight in model.trainable_variables:
        if weight.path.endswith("kernel"):
            weight.assign(0.01 * weight)
    (message,) = warnings_of(compiled(model, *options, **QUICK), *each_class(6))
    assert message.startswith("small_kernel in ") and "root mean" in message


def test_pixels_from_0_to_255():
    images, labels = some()
    (message,) = warnings_of(sequential(), 255 * images, labels)
    parts = "from 0 to 255", "at most 16", "by 255"
    assert is_about(message, "large_pixels", "conv", *parts)


def test_labels_from_1_to_10():
    images, labels = some()
    (message,) = warnings_of(sequential(), images, labels + 1)
    parts = "from 1 to 10", "from 0 to 9", "Subtract 1"
    assert is_about(message, "labels_out_of_range", "scores", *parts)
    # A network of this package does not even begin.
    model = compiled(*LEARNERS["CapsNet"](), **QUICK)
    message = r"Expected integers from 0 to 9\. Received: y=\[10"
    with pytest.raises(ValueError, match=message):
        model.fit(images, labels + 1, verbose=0)


def test_no_label_0():
    images, labels = without(0)
    (message,) = warnings_of(sequential(), images[:96], labels[:96])
    parts = "None of 96 labels is 0", "about 10 of class 0", "subtract 1"
    assert is_about(message, "labels_from_one", "scores", *parts)


@pytest.mark.parametrize("use_bias", [False, True])
def test_activations_that_vanish_in_a_deep_stack(use_bias):
    layers = [
        CapsuleLayer(8, 8, use_bias=use_bias, name=f"layer_{n}")
        for n in range(6)
    ]
    (message,) = warnings_of(sequential(*layers), *some())
    layer = message.split(":")[0].split(" ")[-1]
    assert layer.startswith("layer_")
    seen = "more than 0.0005" if not use_bias else "at least 0.0001"
    parts = seen, "exponential_squash", "fewer layers"
    assert is_about(message, "vanished_activations", layer, *parts)


def test_the_remedy_for_deep_stacks():
    options = {"routing": "self_attention", "use_bias": False}
    layers = [CapsuleLayer(8, 8, **options) for _ in range(6)]
    primary = {"activation": "exponential_squash"}
    model = sequential(*layers, primary=primary)
    assert warnings_of(model, *some()) == []


def test_routing_that_is_uniform():
    (message,) = warnings_of(sequential(routing=DynamicRouting(1)), *some())
    parts = "num_iterations=1", "less than 0.999999", "2 or 3 iterations"
    assert is_about(message, "uniform_routing", "classes", *parts)
    # A layer that learns nothing, after long training.
    model = sequential(routing="self_routing")
    model.get_layer("classes").trainable = False
    compiled(model, "sparse_categorical_crossentropy", 0.001, **QUICK)
    model.optimizer.iterations.assign(997)
    (message,) = warnings_of(model, *some(), epochs=3)
    parts = "after 1001 steps", "less than 0.999999", "trainable"
    assert is_about(message, "uniform_routing", "classes", *parts)


@slow_on_jax
def test_a_dead_class():
    model = compiled(sequential(), MarginLoss(), 0.01)
    look = each_class(12)
    (message,) = warnings_of(model, *without(7), look, epochs=3)
    parts = "Class 7 never wins", "12 images", "in the training data"
    assert is_about(message, "dead_class", "classes", *parts)


@pytest.mark.parametrize("make", [sequential, lambda: LEARNERS["CapsNet"]()[0]])
def test_pixels_that_are_nan(make):
    images, labels = some()
    images = images.copy()
    images[5, 3, 3] = np.nan
    (message,) = warnings_of(make(), images, labels)
    parts = "NaN first seen in the images: 1 of 64", "number 5", "Remove"
    assert is_about(message, "images_not_finite", "images", *parts)
    # The callback is given others: what remains is what training made of it.
    (message,) = warnings_of(make(), images, labels, look=some(32))
    layer = "conv" if make is sequential else "convolution"
    parts = f"NaN first seen in {layer}", "training made them so", "100 %"
    assert is_about(message, "not_finite", layer, *parts)


def test_a_loss_that_is_nan_by_itself():
    def loss(y_true, y_pred):
        return keras.ops.mean(y_pred) + np.nan

    model = compiled(sequential(), loss, 0.001, **QUICK)
    (message,) = warnings_of(model, *some())
    assert is_about(
        message, "loss_not_finite", model.name, "is nan", "no label"
    )


# Eight that do not.


@slow_on_jax
@pytest.mark.parametrize("name", LEARNERS)
def test_healthy_beginnings(name):
    images, labels = each_class(6)
    model = compiled(*LEARNERS[name](), **QUICK)
    assert warnings_of(model, images, labels, epochs=3) == []


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", LEARNERS)
def test_healthy_runs(name):
    model = compiled(*LEARNERS[name](), metrics=["accuracy"])
    callback = CapsuleHealth(*each_class(10))
    found, history = fit(model, *digits(), callback, batch_size=32, epochs=6)
    assert found == []
    assert history["accuracy"][-1] > 0.8
