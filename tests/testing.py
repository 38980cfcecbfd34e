"""What the tests of many layers and models share.

The only file that imports Keras's private testing module.
"""

import warnings

import keras
import numpy as np
from keras import ops
from keras.src.testing import TestCase


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
    """Saves and loads a model, and compares what it predicts for `inputs`.

    Returns:
        The loaded model.
    """
    # Other weights than a new model's: what is not saved shall be noticed.
    rng = np.random.default_rng(11)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    path = folder / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    assert type(loaded) is type(model)
    assert [weight.name for weight in loaded.weights] == [
        weight.name for weight in model.weights
    ]
    inputs = ops.convert_to_tensor(inputs)
    np.testing.assert_allclose(
        numpy(loaded(inputs)), numpy(model(inputs)), rtol=1e-5, atol=1e-6
    )
    return loaded


def numpy(tensor):
    """Returns a tensor as an array that NumPy can calculate with."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "bfloat16":
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)
