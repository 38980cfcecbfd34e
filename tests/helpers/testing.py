"""Helpers for the tests of many layers and models.

The only file that imports Keras's private testing module.
"""

import importlib
import json
import os
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase

BACKEND = keras.backend.backend()
# How tests that train for a step or two compile a model: TensorFlow is ready
# much sooner without a graph, JAX with one.
QUICK = {"run_eagerly": BACKEND == "tensorflow"}

# Compiling dominates the tests' time on JAX. These run there, as the slow ones.
SLOW_ON_JAX = [pytest.mark.slow] * (BACKEND == "jax")


def slow_on_jax(test):
    """Marks a test as slow on JAX."""
    return pytest.mark.slow(test) if BACKEND == "jax" else test


only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="is about TensorFlow alone"
)

NOT_POSITIVE_INTEGERS = {
    "zero": 0,
    "negative": -1,
    "float": 2.0,
    "none": None,
    "string": "2",
    "bool": True,
}
NOT_BOOLEANS = {"two": 2, "none": None, "string": "True", "float": 1.0}


# What is made of layers that are tested on JAX, and is in the conformance table
# there, is tested in detail once.
on_one_backend = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="tested in detail on TensorFlow"
)


def skip_unless_ci(reason):
    """Skips a test that lacks a package or data; in CI, fails it.

    CI installs and names everything, so a test that lacks something there
    has lost it unnoticed.
    """
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing may be missing: {reason}")
    pytest.skip(reason)


def import_or_skip(name):
    """The module, or a skipped test if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        skip_unless_ci(f"{name} is not installed")


def values(named):
    """Parametrizes a test by a `value` from a dictionary of named ones."""
    return pytest.mark.parametrize("value", named.values(), ids=named.keys())


def invalid(name, expected):
    """The start of the message of an invalid argument, as a pattern."""
    return (
        rf"Invalid value for argument `{name}`\. Expected {expected}.* "
        rf"Received: {name}="
    )


def compile_for_one_trace(model, optimizer, loss, **options):
    """Compiles a model that is trained in a graph, and returns it.

    TensorFlow traces a step again if it made variables, such as those of the
    optimizer. (Metrics that are named in `compile` make theirs as late.)
    """
    model.compile(optimizer, loss, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def as_json(config):
    return json.dumps(config, sort_keys=True)


def run_layer_test(layer_class, init_kwargs, **kwargs):
    """Runs Keras's own checks of a layer.

    They build, call, train, serialize and run it in mixed precision. See
    `keras.src.testing.TestCase.run_layer_test` for the arguments.
    """
    with warnings.catch_warnings():
        # They train on a generator, and also layers without weights.
        warnings.filterwarnings("ignore", "`shuffle=True` was passed")
        warnings.filterwarnings("ignore", "The model does not have any train")
        TestCase().run_layer_test(layer_class, init_kwargs, **kwargs)


def check_saving(model, inputs, folder):
    """Saves and loads a model, and compares its predictions for `inputs`.

    Args:
        model: A built model, with one output or several.
        inputs: An array, or another input that the model takes.
        folder: A path, where to save it.

    Returns:
        The loaded model.
    """
    # Other weights than in a new model, so that a weight not saved is noticed.
    rng = np.random.default_rng(11)
    for weight in model.weights:
        value = rng.normal(0, 0.5, weight.shape)
        # Those that are not trained may be variances.
        weight.assign(value if weight.trainable else np.abs(value))
    path = folder / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    assert type(loaded) is type(model)
    assert [weight.name for weight in loaded.weights] == [
        weight.name for weight in model.weights
    ]
    ours, exact = outputs_of(loaded, inputs), outputs_of(model, inputs)
    for one, other in zip(ours, exact, strict=True):
        assert np.isfinite(other).all()  # NaNs would pass for equal
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    return loaded


def outputs_of(model, inputs):
    """Returns all outputs of a model as a flat list of arrays."""
    if BACKEND == "jax":  # which compiles a model sooner than its operations
        return arrays(model.predict_on_batch(inputs))
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    return arrays(model(inputs))


def arrays(tensors):
    """Returns all that is in a tensor or a structure of them, as arrays."""
    return [numpy(tensor) for tensor in keras.tree.flatten(tensors)]


def numpy(tensor):
    """Returns a tensor as an array that NumPy can calculate with."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "bfloat16":
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)
