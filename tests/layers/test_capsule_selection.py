"""A constant choice of capsules."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleSelection
from tests.helpers.capsules import pair
from tests.helpers.capsules import random
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import values


def test_vectors_on_a_grid():
    capsules = random(2, 3, 5, 7, 4).astype("float32")
    kept = CapsuleSelection([104, 0, 8])(capsules)
    expected = np.stack(
        [capsules[:, 2, 4, 6], capsules[:, 0, 0, 0], capsules[:, 0, 1, 1]], 1
    )
    np.testing.assert_array_equal(numpy(kept), expected)


@pytest.mark.parametrize(
    "shape", [(5, 3, 7), (5, 3, 2, 7)], ids=["grid", "volume"]
)
@pytest.mark.parametrize("matrix", [(), (2,)], ids=["vectors", "matrices"])
def test_pairs(shape, matrix):
    poses = random(2, *shape, *matrix, 4).astype("float32")
    activations = random(2, *shape).astype("float32")
    indices = [9, 1, 20]
    kept = CapsuleSelection(indices)((poses, activations))
    flat = poses.reshape(2, -1, *matrix, 4)
    np.testing.assert_array_equal(numpy(kept[0]), flat[:, indices])
    flat = activations.reshape(2, -1)
    np.testing.assert_array_equal(numpy(kept[1]), flat[:, indices])


def test_the_gradient_is_that_of_the_chosen():
    inputs = keras.Input((5, 3))
    outputs = CapsuleSelection([1, 3])(inputs)
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, dense(outputs))
    model.compile("sgd", "mse")
    capsules = np.zeros((2, 5, 3), "float32")
    capsules[:, [0, 2, 4]] = random(2, 3, 3)
    before = numpy(dense.kernel).copy()
    model.train_on_batch(capsules, np.ones((2, 2, 3)))
    # The others are not seen.
    np.testing.assert_array_equal(numpy(dense.kernel), before)


def test_masks():
    capsules, activations = pair(2, 5, 4)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    layer = CapsuleSelection([1, 3])
    tensor = ops.convert_to_tensor(capsules)
    found = numpy(layer.compute_mask(tensor, ops.convert_to_tensor(mask)))
    np.testing.assert_array_equal(found, mask[:, [1, 3]])
    assert layer.compute_mask(tensor, None) is None
    both = layer.compute_mask(
        [tensor, ops.convert_to_tensor(activations)],
        [None, ops.convert_to_tensor(mask)],
    )
    for each in both:
        np.testing.assert_array_equal(numpy(each), mask[:, [1, 3]])
    # A mask of positions holds for all types.
    grid = ops.convert_to_tensor(random(2, 5, 3, 4))
    found = CapsuleSelection([0, 2, 9])
    found = numpy(found.compute_mask(grid, ops.convert_to_tensor(mask)))
    np.testing.assert_array_equal(found, mask[:, [0, 0, 3]])


def test_a_mask_reaches_the_next_layer():
    words = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(7, 4, mask_zero=True)(words)
    chosen = CapsuleSelection([0, 1, 4])(x)
    layer = CapsuleLayer(3, 2, name="classes")
    model = keras.Model(words, [layer(chosen), x])
    texts = np.array([[3, 1, 0, 0, 0], [2, 4, 1, 5, 6]])
    outputs, embedded = (numpy(each) for each in model(texts))
    mask = (texts != 0)[:, [0, 1, 4]]
    exact = layer(
        ops.convert_to_tensor(embedded[:, [0, 1, 4]]),
        mask=ops.convert_to_tensor(mask),
    )
    np.testing.assert_allclose(outputs, numpy(exact), rtol=1e-5, atol=1e-6)


@values(
    {
        "none": None,
        "empty": [],
        "negative": [0, -1],
        "float": [1.0],
        "bool": [True],
        "twice": [3, 1, 3],
        "nested": [[1, 2]],
    }
)
def test_invalid_indices(value):
    message = invalid("indices", "a sequence of different integers of at least")
    with pytest.raises(ValueError, match=message):
        CapsuleSelection(value)


def test_indices_of_numpy():
    layer = CapsuleSelection(np.array([3, 1]))
    assert layer.get_config()["indices"] == [3, 1]
    assert all(type(each) is int for each in layer.indices)


def test_too_few_capsules():
    message = (
        r"too few capsules\. Expected more than 15, the largest index\. "
        r"Received: 15 capsules, input_shape=\(2, 3, 5, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        CapsuleSelection([0, 15])(random(2, 3, 5, 4))


@pytest.mark.parametrize(
    "shape",
    [(2, 3), (None, None, 4), ((2, 3, 4), (2, 5)), ((2, 4), (2,))],
    ids=["scalars", "unknown", "other-activations", "single"],
)
def test_invalid_shapes(shape):
    message = r"takes vector capsules .* batch size may be unknown\. Received: "
    with pytest.raises(ValueError, match=message):
        CapsuleSelection([0]).build(shape)
