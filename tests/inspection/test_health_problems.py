"""The problems that `capsule_health` finds, each by its sign, and no others.

Networks that train, well or badly, are in tests/test_capsule_health.py.
"""

import re

import keras
import numpy as np
import pytest

from keras_capsules.inspection import Problem
from keras_capsules.inspection import capsule_health
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import CapsuleStack
from keras_capsules.layers import ConvCapsules2D
from keras_capsules.layers import PoseScores
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.layers import SharedKernelConvCapsules2D
from keras_capsules.models import CapsNet
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import FixedRouting
from tests.helpers import networks
from tests.helpers.health import CLASSES
from tests.helpers.health import make_images
from tests.helpers.health import names
from tests.helpers.health import sequential
from tests.helpers.health import small
from tests.helpers.testing import numpy


def problem_of(model, images=None, labels=None):
    """The only problem."""
    images = make_images() if images is None else images
    (problem,) = capsule_health(model, images, labels).problems
    assert isinstance(problem, Problem)
    for sentence in (problem.message, problem.remedy):
        assert not sentence[0].islower() and sentence.endswith(".")
    return problem


def trained(model, steps=1000):
    """Says that the model was trained for so many steps."""
    model.compile("adam", "mse")
    model.optimizer.iterations.assign(steps)
    return model


# New networks.


@pytest.mark.parametrize(
    "name", [name for name in networks.NAMES if "Caps" in name]
)
def test_new_networks_are_well(name):
    images, labels = networks.images(16), networks.labels(16)
    health = capsule_health(networks.make(name), images, labels)
    assert health.problems == ()
    assert len(health.layers) > 1


@pytest.mark.parametrize("routing", ["em", "variational_bayes", "self_routing"])
def test_new_layers_are_well(routing):
    images, labels = make_images(), np.zeros(11, int)
    assert not names(capsule_health(small(routing=routing), images, labels))


# Images and labels.


def test_images_that_are_not_finite():
    images = make_images()
    images[4, 2, 3] = np.nan
    images[7, 0, 0] = np.inf
    problem = problem_of(small(), images)
    assert (problem.name, problem.layer) == ("images_not_finite", "images")
    assert "NaN first seen in the images: 2 of 11" in problem.message
    assert "number 4" in problem.message


def test_large_pixels():
    problem = problem_of(small(), 255 * make_images())
    assert (problem.name, problem.layer) == ("large_pixels", "primary")
    assert " to 254." in problem.message and "at most 16" in problem.message
    assert "by 255" in problem.remedy
    whole = (255 * make_images()).astype("uint8")
    assert names(capsule_health(small(), whole)) == ["large_pixels"]


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Rescaling(1 / 255),
        keras.layers.LayerNormalization(axis=[1, 2, 3]),
        # Its statistics are those of training, and 0 and 1 before.
        keras.layers.BatchNormalization(),
    ],
)
def test_a_layer_may_make_pixels_small(layer):
    model = sequential(layer, *small().layers)
    assert not names(capsule_health(model, 255 * make_images()))


def test_inputs_that_are_no_pixels():
    """Such as decibels: dividing by 255 would not help."""
    problem = problem_of(small(), -80 * make_images())
    assert problem.name == "large_pixels" and "255" not in problem.remedy
    assert "a mean of 0" in problem.remedy
    # Weights that stay as they are may be made for what they are given.
    model = small()
    model.get_layer("primary").trainable = False
    assert not names(capsule_health(model, 255 * make_images()))


def test_pixels_that_were_divided_twice():
    images = make_images() / 255
    tiny = sequential(
        *small().layers[:1],
        CapsuleLayer(CLASSES, 7, use_bias=False),
        CapsuleLength(),
    )
    problem = problem_of(tiny, images)
    assert problem.name == "vanished_activations"
    assert "at most 0.0039" in problem.remedy and "once" in problem.remedy


@pytest.mark.parametrize(
    ("labels", "seen", "remedy"),
    [
        ([1, 2, 3, 4, 5], "2 of 11 labels are.*from 1 to 5.*0 to 4", "Subtr"),
        ([0, 1, 7, 3, 4], "2 of 11 labels are of no class.*from 0 to 7", "Gi"),
        ([0, 1, -1, 3, 4], "2 of 11 labels are of no class.*from -1", "Give"),
        ([0, 1, np.nan, 3, 4], "class: 2 are NaN or.*number 2 .exp", "Give"),
        ([0, 1, -np.inf, 9, 4], "class: 2 are NaN or inf.* number 2", "Give"),
        ([0, 1, 2.5, 3, 4], "class: they are no whole.*such as 2.5", "Give"),
    ],
)
def test_labels_out_of_range(labels, seen, remedy):
    labels = np.array([*labels, *labels, labels[0]])
    problem = problem_of(small(), labels=labels)
    assert (problem.name, problem.layer) == ("labels_out_of_range", "scores")
    assert re.search(seen, problem.message)
    assert problem.remedy.startswith(remedy)


def test_labels_that_may_be_counted_from_one():
    model, images = small(), make_images(44)
    labels = np.arange(44) % 4 + 1
    problem = problem_of(model, images, labels)
    assert (problem.name, problem.layer) == ("labels_from_one", "scores")
    assert "None of 44 labels is 0" in problem.message
    # By chance, or because there are fewer classes.
    for some in (labels[:12], np.minimum(labels, 3), labels - 1):
        assert not names(capsule_health(model, images[: len(some)], some))


# Numbers.


def test_the_first_layer_that_is_not_finite():
    model = small()
    model.layers[1].kernel.assign(model.layers[1].kernel * np.nan)
    problem = problem_of(model)
    assert (problem.name, problem.layer) == ("not_finite", "classes")
    assert "NaN first seen in classes: 100 % of" in problem.message
    assert "training made them so" in problem.message
    assert "learning rate" in problem.remedy


def test_numbers_that_overflow():
    model = sequential(
        PrimaryCapsules(3, 4, 3, 2, activation=None, name="primary"),
        CapsuleLayer(CLASSES, 7),
        CapsuleLength(),
    )
    model.layers[0].bias.assign(np.full((3, 4), 3e38))
    model.layers[0].kernel.assign(model.layers[0].kernel * 3e38)
    problem = problem_of(model)
    assert (problem.name, problem.layer) == ("not_finite", "primary")
    assert "weights are finite: numbers overflow" in problem.message
    assert "float32" in problem.remedy


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_small_kernel(place):
    options = [{}, {}, {}]
    options[place]["kernel_initializer"] = keras.initializers.Constant(1e-6)
    model = sequential(
        keras.layers.Conv2D(7, 3, name="conv", **options[0]),
        PrimaryCapsules(3, 4, 3, name="primary", **options[1]),
        CapsuleLayer(CLASSES, 7, name="classes", **options[2]),
        CapsuleLength(),
    )
    problem = problem_of(model)
    layer = ["conv", "primary", "classes"][place]
    assert (problem.name, problem.layer) == ("small_kernel", layer)
    assert "root mean square of 1e-06" in problem.message
    seen = "classes images change" if place == 2 else "primary the highest act"
    assert seen in problem.message


@pytest.mark.parametrize("use_bias", [False, True])
def test_vanished_activations(use_bias):
    model = sequential(
        PrimaryCapsules(3, 4, 3, 2),
        *(
            CapsuleLayer(3, 4, use_bias=use_bias, name=f"layer_{n}")
            for n in range(7)
        ),
        CapsuleLayer(CLASSES, 7, name="classes"),
        CapsuleLength(),
    )
    problem = problem_of(model)
    assert problem.name == "vanished_activations"
    assert problem.layer.startswith("layer_")
    seen = "Images change the" if use_bias else "The highest activation of"
    assert problem.message.startswith(seen)


def test_equal_images_say_nothing():
    same = np.repeat(make_images(1), 5, axis=0)
    for images in (same, same[:1], 0 * same):
        assert not names(capsule_health(small(), images))


# Routing.


@pytest.mark.parametrize("routing", [DynamicRouting(1), EMRouting(1)])
def test_routing_with_one_iteration(routing):
    problem = problem_of(small(routing=routing))
    assert (problem.name, problem.layer) == ("uniform_routing", "classes")
    assert "is 1.0000000 (expected less than 0.999999)" in problem.message
    assert "num_iterations=1" in problem.message
    assert "iterations" in problem.remedy


def test_types_with_a_shared_kernel_and_one_iteration():
    for number, expected in ((1, ["uniform_routing"]), (3, [])):
        layer = SharedKernelConvCapsules2D(5, 4, num_iterations=number)
        model = sequential(PrimaryCapsules(3, 4, 3, 2), layer)
        assert names(capsule_health(trained(model), make_images())) == expected


def test_uniform_routing_after_training():
    model = small(routing="self_routing")
    assert not names(capsule_health(trained(model, 999), make_images()))
    problem = problem_of(trained(model))
    assert (problem.name, problem.layer) == ("uniform_routing", "classes")
    assert "after 1000 steps" in problem.message
    bias = model.layers[1].routing_weights["routing_bias"]
    bias.assign(np.random.default_rng(3).normal(0, 0.1, bias.shape))
    assert not names(capsule_health(model, make_images()))


def test_routing_that_has_to_be_uniform():
    """By choice, with nothing to choose from, or because a stack ends."""
    assert not names(
        capsule_health(trained(small(routing=FixedRouting())), make_images())
    )
    single = sequential(PrimaryCapsules(3, 4, 3, 2), CapsuleLayer(1, 7))
    assert not names(capsule_health(trained(single), make_images()))

    def stacked(num_iterations):
        options = {"routing": "inverted_attention"}
        layers = [
            ConvCapsules2D(4, 6, 2, name="conv", **options),
            CapsuleLayer(CLASSES, 7, name="top", **options),
        ]
        return sequential(
            PrimaryCapsules(3, 4, 3, 2),
            CapsuleStack(layers, num_iterations, name="stack"),
            PoseScores(),
            CapsuleLength(),
        )

    health = capsule_health(trained(stacked(2)), make_images())
    assert health.layers[1].entropy == 1 and not names(health)
    problem = problem_of(stacked(1))
    assert (problem.name, problem.layer) == ("uniform_routing", "stack/top")


# Classes.


def reader(*weights):
    """Scores that grow with the pixel of their class."""
    number = len(weights)
    model = keras.Sequential(
        [
            keras.Input((number,)),
            keras.layers.Reshape((number, 1)),
            CapsuleLayer(number, 1, use_bias=False, name="classes"),
            CapsuleLength(name="scores"),
        ]
    )
    kernel = model.layers[1].kernel
    kernel.assign(30 * np.diag(weights).reshape(kernel.shape))
    return model


def test_a_dead_class():
    labels = np.arange(60) % 5
    images = np.eye(5)[labels] + make_images(60, (5,)) / 10
    assert not names(capsule_health(reader(1, 1, 1, 1, 1), images, labels))
    model = reader(1, 1, 1, 0.01, 1)
    problem = problem_of(model, images, labels)
    assert (problem.name, problem.layer) == ("dead_class", "classes")
    assert problem.message.startswith("Class 3 never wins")
    assert "its own 12 images" in problem.message
    # A class that the network hesitates to name is not dead, nor is one that
    # hardly any image shows, or whose labels nobody gave.
    health = capsule_health(reader(1, 1, 1, 0.6, 1), images, labels)
    assert health.own[3] < health.own[0] and not names(health)
    some = (labels != 3) | (np.arange(60) < 20)
    for options in ((images[some], labels[some]), (images, None)):
        assert not names(capsule_health(model, *options))
    # Without other classes that are recognized, nothing is known.
    assert not names(capsule_health(reader(0, 0, 0, 0, 1), images, labels))


def test_a_decoder_is_no_part_of_the_graph():
    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    for weight in model.decoder.weights:
        weight.assign(0 * numpy(weight))
    assert not names(capsule_health(model, networks.images()))
