"""The contract of all layers."""

import json

import keras
import numpy as np
import pytest

from keras_capsules.layers import ConvCapsules1D
from keras_capsules.layers import ConvCapsules3D
from tests.conformance.layers import LAYERS
from tests.helpers.capsules import random
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import SLOW_ON_JAX
from tests.helpers.testing import arrays
from tests.helpers.testing import as_json
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import run_layer_test


def row_id(row):
    return f"{row.layer.__name__}-{row.label}"


# JAX compiles all operations of a layer anew for each row.
first_rows = {row.layer: row for row in reversed(LAYERS)}
layers = pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            marks=() if row is first_rows[row.layer] else SLOW_ON_JAX,
            id=row_id(row),
        )
        for row in LAYERS
    ],
)


def capsules(shape):
    """Poses, or poses and activations if `shape` is a pair of shapes."""
    if not is_pair(shape):
        return random(*shape).astype("float32")
    poses, activations = shape
    random_activations = np.random.default_rng(6).uniform(size=activations)
    return random(*poses).astype("float32"), random_activations.astype(
        "float32"
    )


def is_pair(shape):
    return isinstance(shape[0], tuple)


def batches_of(number, shape):
    """The same shape, or the same pair of shapes, for another batch."""
    return keras.tree.map_shape_structure(lambda one: (number, *one[1:]), shape)


def inputs_of(shape):
    return keras.tree.map_shape_structure(
        lambda one: keras.Input(one[1:]), shape
    )


def model_of(row):
    inputs = inputs_of(row.shape)
    return keras.Model(inputs, row.make()(inputs))


# The other ranks are thin over the same.
OF_OTHER_RANKS = {ConvCapsules1D, ConvCapsules3D}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            marks=[pytest.mark.slow]
            * (row is not first_rows[row.layer] or row.layer in OF_OTHER_RANKS),
            id=row_id(row),
        )
        for row in LAYERS
    ],
)
def test_keras_layer_test(row):
    run_layer_test(
        row.layer,
        row.arguments(),
        input_shape=row.shape,
        expected_output_shape=row.output_shape,
        expected_output_dtype=keras.tree.map_shape_structure(
            lambda _: "float32", row.output_shape
        ),
        expected_num_trainable_weights=row.num_weights,
        expected_num_non_trainable_weights=row.num_non_trainable,
        expected_num_losses=row.num_losses,
        expected_num_seed_generators=row.num_seeds,
        # JAX compiles every operation again for it, and there is a test below.
        run_mixed_precision_check=BACKEND != "jax",
    )


@layers
def test_layer_config_round_trip(row):
    layer = row.make(name="other", dtype="mixed_bfloat16")
    config = layer.get_config()
    assert set(row.kwargs) <= set(config)
    loaded = row.layer.from_config(json.loads(json.dumps(config)))
    assert loaded.name == "other"
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert as_json(loaded.get_config()) == as_json(config)
    # As a layer of a model is.
    loaded = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(loaded) is row.layer
    assert as_json(loaded.get_config()) == as_json(config)


@layers
def test_layer_is_saved_and_loaded(row, tmp_path):
    check_saving(model_of(row), capsules(row.shape), tmp_path)


@layers
def test_unknown_batch_size(row):
    inputs = inputs_of(row.shape)
    layer = row.make()
    outputs = layer(inputs)
    shapes = keras.tree.map_structure(lambda x: x.shape, outputs)
    assert shapes == batches_of(None, row.output_shape)
    assert layer.compute_output_shape(batches_of(None, row.shape)) == shapes
    model = keras.Model(inputs, outputs)
    batch = capsules(batches_of(3, row.shape))
    predictions = arrays(model.predict(batch, verbose=0))
    assert [one.shape for one in predictions] == [
        (3, *one.shape[1:]) for one in keras.tree.flatten(outputs)
    ]
    second = keras.tree.map_structure(lambda x: x[1:2], batch)
    single = arrays(model.predict(second, verbose=0))
    for one, other in zip(single, predictions, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # see `unused`
@pytest.mark.parametrize(
    "dtype, row",
    [
        (dtype, row)
        for dtype in ("mixed_bfloat16", "mixed_float16")
        for row in (first_rows.values() if BACKEND == "jax" else LAYERS)
    ],
    ids=lambda value: value if isinstance(value, str) else row_id(value),
)
def test_training_in_16_bits(dtype, row):
    inputs = inputs_of(row.shape)
    below = []  # its weights get gradients through the layer

    def dense(x, activation="linear"):
        below.append(keras.layers.Dense(x.shape[-1], activation, dtype=dtype))
        return below[-1](x)

    if is_pair(row.shape):
        handed_up = dense(inputs[0]), dense(inputs[1], "sigmoid")
    else:
        handed_up = dense(inputs)
    layer = row.make(dtype=dtype)
    model = keras.Model(inputs, layer(handed_up))
    # A step large enough for the smallest gradients.
    model.compile(keras.optimizers.SGD(1.0), "mse", **QUICK)
    before = [numpy(one.kernel) for one in below]
    batch = capsules(row.shape)
    losses = model.train_on_batch(batch, capsules(row.output_shape))
    assert np.isfinite(losses).all()
    assert all(np.isfinite(numpy(weight)).all() for weight in model.weights)
    for index, (one, old) in enumerate(zip(below, before, strict=True)):
        is_unchanged = np.array_equal(numpy(one.kernel), old)
        assert is_unchanged == (index == row.unused), index
    assert all(weight.dtype == "float32" for weight in model.weights)
    # The announced dtype, and the dtype of the result.
    compute_dtype = dtype.removeprefix("mixed_")
    assert {one.dtype for one in model.outputs} == {compute_dtype}
    outputs = keras.tree.flatten(model.predict_on_batch(batch))
    for one in outputs:
        assert keras.backend.standardize_dtype(one.dtype) == compute_dtype
        assert np.isfinite(numpy(one)).all()
