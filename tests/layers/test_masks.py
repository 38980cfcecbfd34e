"""Input capsules that a mask excludes vote for nothing."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import CapsuleStack
from keras_capsules import ConvCapsules1D
from keras_capsules import ConvCapsules2D
from keras_capsules import ConvCapsules2DTranspose
from keras_capsules import ConvCapsules3D
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from tests.helpers.capsules import assert_all_close
from tests.helpers.capsules import pair
from tests.helpers.capsules import random
from tests.helpers.capsules import set_random_weights
from tests.helpers.routings import all_routings
from tests.helpers.testing import QUICK
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import outputs_of
from tests.helpers.testing import slow_on_jax

BATCH, LENGTH, DIM, NUMBER, OUT_DIM = 3, 7, 2, 5, 11
# The same for all examples, so that the layer without them exists.
KEPT = [0, 2, 3, 6]
MASK = np.isin(np.arange(LENGTH), KEPT)
MASKS = np.broadcast_to(MASK, (BATCH, LENGTH))

# Also with an option that depends on the number of input capsules.
ROUTINGS = {
    **all_routings(),
    "em, normalized": EMRouting(
        cost_scale="normalized", inverse_temperature=1.0, min_variance=1.0
    ),
}
routings = pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)


def without(layer, shape):
    """A layer for the kept input capsules alone, with the same weights."""
    copy = type(layer).from_config(layer.get_config())
    copy.build(shape)
    for one, other in zip(copy.weights, layer.weights, strict=True):
        value = numpy(other)
        for axis, size in enumerate(value.shape):
            if size == LENGTH:
                value = np.take(value, KEPT, axis)
        one.assign(value)
    return copy


def test_sizes_are_distinct():
    """So that `without` finds the axis of input capsules."""
    assert LENGTH not in (BATCH, DIM, NUMBER, OUT_DIM, 1, 3)


@routings
@pytest.mark.parametrize("kind", ["vectors", "matrices", "pair"])
def test_equals_the_layer_without_them(routing, kind):
    poses, activations = pair(BATCH, LENGTH, DIM)
    if kind == "matrices":
        poses = random(BATCH, LENGTH, 3, DIM).astype("float32")
    dim = (3, OUT_DIM) if kind == "matrices" else OUT_DIM
    inputs = (poses, activations) if kind == "pair" else poses
    layer = CapsuleLayer(NUMBER, dim, routing=routing)
    layer(inputs)
    set_random_weights(layer, 0.5)
    kept = keras.tree.map_structure(lambda x: x[:, KEPT], inputs)
    shape = keras.tree.map_structure(lambda x: x.shape, kept)
    exact, shares = without(layer, shape)(kept, return_coupling=True)

    # Even if padding is not a number.
    poses[:, ~MASK] = np.nan
    activations[:, ~MASK] = np.nan
    ours, coupling = layer(inputs, return_coupling=True, mask=MASKS)
    assert_all_close(ours, exact, 1e-5, 1e-5)
    coupling = numpy(coupling)
    assert not coupling[:, ~MASK].any()
    assert_all_close(coupling[:, KEPT], shares, 1e-5, 1e-5)
    assert_all_close(layer(inputs, mask=MASKS), exact, 1e-5, 1e-5)


# Some activations of output capsules are not trained here.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@routings
def test_training_ignores_padding(routing):
    """Gradients do not depend on padding, and are finite."""
    inputs = keras.Input((LENGTH, DIM))
    mask = keras.Input((LENGTH,), dtype="bool")
    outputs = CapsuleLayer(NUMBER, OUT_DIM, routing=routing)(inputs, mask=mask)
    model = keras.Model([inputs, mask], keras.tree.flatten(outputs)[0])
    model.compile("sgd", "mse", **QUICK)
    set_random_weights(model, 0.5)
    before = model.get_weights()
    targets = random(BATCH, NUMBER, OUT_DIM)
    trained = []
    for padding in (0.0, 100.0):
        poses = random(BATCH, LENGTH, DIM)
        poses[:, ~MASK] = padding
        model.set_weights(before)
        model.train_on_batch([poses, MASKS], targets)
        trained.append(model.get_weights())
    for one, other, old in zip(*trained, before, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        if one.shape[0] == LENGTH:  # a matrix for each input capsule
            np.testing.assert_allclose(one[~MASK], old[~MASK], atol=1e-6)


def test_a_different_mask_for_each_example():
    poses = random(2, LENGTH, DIM).astype("float32")
    masks = np.arange(LENGTH) < np.array([[3], [5]])
    layer = CapsuleLayer(NUMBER, OUT_DIM)
    ours = numpy(layer(poses, mask=masks))
    for index in range(2):
        alone = numpy(layer(poses[index:][:1], mask=masks[index:][:1]))
        np.testing.assert_allclose(ours[index], alone[0], atol=1e-6)
    assert not np.allclose(ours, numpy(layer(poses)), atol=1e-3)


@slow_on_jax
def test_a_mask_of_positions_is_that_of_all_types():
    poses = random(2, LENGTH, 3, DIM).astype("float32")
    masks = np.arange(LENGTH) < np.array([[3], [5]])
    layer = CapsuleLayer(
        NUMBER, OUT_DIM, share_over_positions=True, coordinate_addition=True
    )
    full = np.repeat(masks[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(
        numpy(layer(poses, mask=masks)), numpy(layer(poses, mask=full))
    )
    # Coordinates are part of the votes.
    assert_all_close(
        layer(poses[:1], mask=np.zeros((1, LENGTH), bool)),
        numpy(layer(poses[1:], mask=np.zeros((1, LENGTH), bool))),
    )


@pytest.mark.parametrize("routing", ["em", "variational_bayes", "self_routing"])
def test_nothing_but_padding_is_finite(routing):
    layer = CapsuleLayer(NUMBER, OUT_DIM, routing=routing)
    outputs = layer(random(2, LENGTH, DIM), mask=np.zeros((2, LENGTH), bool))
    for each in outputs:
        assert np.isfinite(numpy(each)).all()


def test_examples_that_are_all_padding_are_not_in_the_statistics():
    def make():
        keras.utils.set_random_seed(3)
        layer = CapsuleLayer(
            NUMBER,
            OUT_DIM,
            routing="variational_bayes",
            share_over_positions=True,
        )
        layer.build(((None, LENGTH, DIM), (None, LENGTH)))
        return layer

    # Of few examples, the variance of activations may be near 0.
    poses = random(19, LENGTH, DIM).astype("float32")
    numbers = np.random.default_rng(5)
    activations = numbers.uniform(size=(19, LENGTH)).astype("float32")
    mask = np.arange(19)[:, None] * np.ones(LENGTH) < 17
    layer, shorter = make(), make()
    found = layer((poses, activations), mask=mask, training=True)
    expected = shorter((poses[:17], activations[:17]), training=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(numpy(one)[:17], numpy(other), atol=1e-5)
    for one, other in zip(layer.weights, shorter.weights, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=1e-5)


# Where masks come from.


def text_model(routing, length=None):
    words = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(13, 4, mask_zero=True)(words)
    x = keras.layers.GRU(3, return_sequences=True)(x)
    layer = CapsuleLayer(2, 4, routing=routing, share_over_positions=True)
    return keras.Model(words, CapsuleLength()(layer(x)))


@slow_on_jax
@pytest.mark.parametrize(
    "routing", ["dynamic", pytest.param("em", marks=pytest.mark.slow)]
)
def test_words(routing, tmp_path):
    """The number of zeros behind a text does not matter."""
    model = text_model(routing)
    set_random_weights(model)
    text = np.array([[3, 5, 7, 2, 0], [1, 12, 0, 0, 0]])
    longer = np.pad(text, [(0, 0), (0, 4)])
    expected = model.predict(text, verbose=0)
    assert_all_close(model.predict(longer, verbose=0), expected)
    assert_all_close(
        model.predict(text[1:, :2], verbose=0), expected[1:], atol=1e-4
    )
    check_saving(model, text, tmp_path)
    model.compile("sgd", "mse")
    for batch in (text, longer):
        assert np.isfinite(model.train_on_batch(batch, np.ones((2, 2))))


def test_no_mask_is_passed_on():
    words = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(13, 4, mask_zero=True)(words)
    layer = CapsuleLayer(NUMBER, 4)
    assert layer.supports_masking
    assert getattr(layer(x), "_keras_mask", None) is None


# Convolutional layers pass masks on.


def text_convolution(kernel_size, strides, padding, routing="dynamic"):
    """Two convolutional layers, of which the second has the first's mask."""
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(13, 4, mask_zero=True)(words)
    x = ops.expand_dims(keras.layers.GRU(3, return_sequences=True)(x), axis=2)
    for mask in (ops.not_equal(words, 0), None):
        layer = ConvCapsules1D(
            3, 4, kernel_size, strides, padding, routing=routing
        )
        x = layer(x, mask=mask)
    x = CapsuleLayer(2, 4, routing=routing, share_over_positions=True)(x)
    model = keras.Model(words, CapsuleLength()(x))
    set_random_weights(model)
    set_random_weights(model.layers[-2], 0.1)  # or all lengths are nearly 1
    return model


def assert_padding_does_not_matter(model, length, numbers):
    text = np.random.default_rng(2).integers(1, 13, (2, length))
    first, *others = (
        outputs_of(model, np.pad(text, [(0, 0), (0, number)]))[0]
        for number in numbers
    )
    assert np.abs(first[0] - first[1]).max() > 1e-3  # texts matter
    for each in others:
        np.testing.assert_allclose(each, first, atol=1e-5)


@slow_on_jax
@pytest.mark.parametrize(
    "kernel_size, strides, padding, numbers",
    [
        (3, 1, "valid", (0, 3, 20)),
        (3, 1, "same", (0, 3, 20)),  # the window of the last word sees padding
        # Multiples of the strides of both layers.
        (3, 2, "same", (0, 4, 20)),
        (4, 3, "valid", (0, 3, 20)),
    ],
)
def test_padding_behind_texts_is_lost_on_the_way(
    kernel_size, strides, padding, numbers
):
    model = text_convolution(kernel_size, strides, padding)
    assert_padding_does_not_matter(model, 17, numbers)


@slow_on_jax
@pytest.mark.parametrize("routing", ["em", "variational_bayes"])
def test_competing_windows_see_some_padding(routing):
    """Those that are there from `kernel_size - 1` zeros on, for each layer."""
    model = text_convolution(3, 1, "valid", routing)
    assert_padding_does_not_matter(model, 9, (4, 20))


def test_predict_takes_texts_of_several_lengths():
    """From the second length on, TensorFlow compiles for an unknown one."""
    model = text_convolution(3, 1, "same")
    text = np.array([[3, 5, 7, 2]])
    expected = model.predict(text, verbose=0)
    for zeros in (1, 6):
        longer = np.pad(text, [(0, 0), (0, zeros)])
        assert_all_close(model.predict(longer, verbose=0), expected)


def test_transposed_layers_take_masks_of_grids_of_unknown_size():
    grid, mask = keras.Input((None, None, 2, 4)), keras.Input((None, None))
    layer = ConvCapsules2DTranspose(3, 4, 4, 2, "same")
    model = keras.Model([grid, mask], layer(grid, mask=mask > 0))
    for size in (3, 5):
        inputs = np.ones((1, size, 4, 2, 4)), np.ones((1, size, 4))
        assert model.predict(inputs, verbose=0).shape == (1, 2 * size, 8, 3, 4)


def without_excluded(length, kernel_size, strides, padding):
    """The number of windows along an axis of this length."""
    covered = kernel_size if padding == "valid" else 1
    return max(0, (length - covered) // strides + 1)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kernel_size, strides", [(3, 1), (2, 2), (3, 2)])
def test_the_mask_of_a_convolution(rank, padding, kernel_size, strides):
    """Of positions there would be in a smaller grid, one for each example."""
    layer = {1: ConvCapsules1D, 2: ConvCapsules2D, 3: ConvCapsules3D}[rank](
        NUMBER, OUT_DIM, kernel_size, strides, padding
    )
    whole = (7, 6, 5)[:rank]
    grid = layer.compute_output_shape((2, *whole, 3, DIM))[1 : 1 + rank]
    smaller = [(5, 6, 3)[:rank], (2, 3, 5)[:rank]]
    mask, expected = np.zeros((2, *whole), bool), np.zeros((2, *grid), bool)
    for index, size in enumerate(smaller):
        mask[(index, *map(slice, size))] = True
        numbers = [
            without_excluded(length, kernel_size, strides, padding)
            for length in size
        ]
        expected[(index, *map(slice, numbers))] = True
    found = layer.compute_mask(None, ops.convert_to_tensor(mask))
    np.testing.assert_array_equal(numpy(found), expected)
    # Of capsules: a position counts if one of its types does.
    of_types = np.stack([mask, np.zeros_like(mask)], axis=-1)
    found = layer.compute_mask(None, (None, ops.convert_to_tensor(of_types)))
    np.testing.assert_array_equal(numpy(found), expected)
    assert layer.compute_mask(None, None) is None
    assert layer.compute_mask(None, [None, None]) is None


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel_size, strides", [(4, 2), (3, 1), (1, 3)])
def test_the_mask_of_a_transposed_convolution(padding, kernel_size, strides):
    layer = ConvCapsules2DTranspose(3, 4, kernel_size, strides, padding)
    mask = np.zeros((1, 5, 4), bool)
    mask[:, :3, :2] = True

    def grid(height, width):
        return layer.compute_output_shape((1, height, width, 2, DIM))[1:3]

    expected = np.zeros((1, *grid(5, 4)), bool)
    expected[(0, *map(slice, grid(3, 2)))] = True
    found = layer.compute_mask(None, ops.convert_to_tensor(mask))
    np.testing.assert_array_equal(numpy(found), expected)
    poses = random(1, 5, 4, 2, DIM).astype("float32")
    height, width = grid(3, 2)
    assert_all_close(
        layer(poses, mask=mask)[:, :height, :width], layer(poses[:, :3, :2])
    )


def test_masks_of_fewer_axes_are_passed_on():
    layer = ConvCapsules2D(NUMBER, OUT_DIM, 2)
    examples = ops.convert_to_tensor([True, False])
    assert layer.compute_mask(None, examples) is examples
    rows = ops.convert_to_tensor([[True, True, False]])
    found = layer.compute_mask(None, rows)
    np.testing.assert_array_equal(numpy(found), [[True, False]])


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_masks_are_attached_to_outputs_of_unknown_length(padding):
    inputs, mask = keras.Input((None, 2, DIM)), keras.Input((None,), dtype=bool)
    layer = ConvCapsules1D(NUMBER, OUT_DIM, 3, 2, padding, routing="em")
    poses, _ = layer(inputs, mask=mask)
    assert poses._keras_mask.shape == (None, None)
    assert poses._keras_mask.dtype == "bool"


@slow_on_jax
def test_a_convolution_treats_padding_as_its_own():
    poses, activations = pair(2, LENGTH, 3, DIM)
    masks = np.arange(LENGTH) < np.array([[4], [4]])
    for routing in ("dynamic", "em", "self_routing"):
        layer = ConvCapsules1D(NUMBER, OUT_DIM, 3, routing=routing)
        layer((poses, activations))
        set_random_weights(layer, 0.5)
        ours, coupling = layer(
            (poses, activations), return_coupling=True, mask=masks
        )
        zeros = poses * masks[..., None, None], activations * masks[..., None]
        exact = layer(zeros)
        assert_all_close(ours, exact)
        coupling = numpy(coupling).reshape(2, LENGTH - 2, 3, 3, NUMBER)
        assert not coupling[:, 2, 2].any() and coupling[:, 2, 1].any()


def test_transposed_capsules_take_masks():
    poses = random(2, 3, 2, 5, DIM).astype("float32")
    mask = np.ones((2, 3, 2), bool)
    mask[:, 1, 1] = False
    layer = ConvCapsules2DTranspose(NUMBER, OUT_DIM, 3, 2, use_bias=False)
    ours = layer(poses, mask=mask)
    assert_all_close(ours, layer(poses * mask[..., None, None]))


@pytest.mark.parametrize("concurrent", [True, False])
def test_a_stack_hands_the_mask_to_its_first_layer(concurrent):
    def layer(number):
        return CapsuleLayer(number, DIM, routing="inverted_attention")

    stack = CapsuleStack([layer(5), layer(3)], 3, concurrent)
    poses = random(2, LENGTH, DIM).astype("float32")
    masks = np.arange(LENGTH) < np.array([[3], [5]])
    ours = stack(poses, mask=masks)
    poses[~masks] = 100.0
    assert_all_close(stack(poses, mask=masks), ours)
    assert stack.compute_mask(poses, masks) is None


@pytest.mark.parametrize("concurrent", [True, False])
def test_all_layers_of_a_stack_leave_padding_out(concurrent):
    layers = [
        ConvCapsules1D(3, OUT_DIM, 2, routing="inverted_attention"),
        CapsuleLayer(
            NUMBER,
            OUT_DIM,
            routing="inverted_attention",
            share_over_positions=True,
        ),
    ]
    stack = CapsuleStack(layers, 3, concurrent)
    poses = random(BATCH, LENGTH, 2, DIM).astype("float32")
    exact = stack(poses)
    padded = np.pad(poses, [(0, 0), (0, 4), (0, 0), (0, 0)])
    masks = np.arange(LENGTH + 4) < np.full((BATCH, 1), LENGTH)
    assert_all_close(stack(padded, mask=masks), exact)
    assert not np.allclose(numpy(stack(padded)), numpy(exact), atol=1e-3)


def test_lengths_hand_on_the_mask_of_capsules():
    capsules = keras.Input((LENGTH, 3, DIM))
    mask = keras.Input((LENGTH,), dtype="bool")
    conv = ConvCapsules1D(NUMBER, OUT_DIM, 2)
    lengths = CapsuleLength()(conv(capsules, mask=mask))
    model = keras.Model(
        [capsules, mask], keras.layers.GlobalAveragePooling1D()(lengths)
    )
    poses = random(BATCH, LENGTH, 3, DIM).astype("float32")
    padded = poses.copy()
    padded[:, 5:] = 9.0
    masks = np.arange(LENGTH) < np.full((BATCH, 1), 5)
    exact = numpy(CapsuleLength()(conv(poses[:, :5]))).mean(axis=1)
    np.testing.assert_allclose(
        model.predict([padded, masks], verbose=0), exact, rtol=1e-4
    )


def test_16_bits():
    poses = random(2, LENGTH, DIM)
    layer = CapsuleLayer(NUMBER, OUT_DIM, routing="em", dtype="mixed_float16")
    outputs = layer(poses, mask=MASKS[:2])
    for each in outputs:
        assert keras.backend.standardize_dtype(each.dtype) == "float16"
        assert np.isfinite(numpy(each)).all()


@pytest.mark.parametrize("shape", [(BATCH, LENGTH + 1), (BATCH, LENGTH, DIM)])
def test_a_mask_that_does_not_fit_raises(shape):
    layer = CapsuleLayer(NUMBER, OUT_DIM)
    message = r"the first axes of the input capsules.*Received: mask.shape=\("
    with pytest.raises(ValueError, match=message):
        layer(random(BATCH, LENGTH, DIM), mask=np.ones(shape, bool))


# Sequences of unknown length.


def test_the_shared_kernel_does_not_depend_on_the_length():
    layer = CapsuleLayer(NUMBER, OUT_DIM, share_over_positions=True)
    layer.build((None, None, DIM))
    assert layer.kernel.shape == (1, DIM, NUMBER, OUT_DIM)
    assert layer.compute_output_shape((None, None, DIM)) == (
        None,
        NUMBER,
        OUT_DIM,
    )
    layer = CapsuleLayer(NUMBER, OUT_DIM, share_over_positions=True)
    layer.build((None, None, 3, DIM))
    assert layer.kernel.shape == (3, DIM, NUMBER, OUT_DIM)


@slow_on_jax
@pytest.mark.parametrize("types", [(), (3,)], ids=["one type", "types"])
@pytest.mark.parametrize(
    "routing",
    [
        "dynamic",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "em",
                EMRouting(cost_scale="normalized"),
                "variational_bayes",
                "inverted_attention",
            )
        ),
    ],
)
def test_unknown_lengths(routing, types, tmp_path):
    inputs = keras.Input((None, *types, DIM))
    layer = CapsuleLayer(
        NUMBER,
        OUT_DIM,
        routing=routing,
        share_over_positions=True,
        coordinate_addition=bool(types),
    )
    (outputs, coupling) = layer(inputs, return_coupling=True)
    assert coupling.shape == (None, None, NUMBER)
    model = keras.Model(inputs, keras.tree.flatten(outputs))
    set_random_weights(model, 0.3)
    for length in (7, 4):
        poses = random(2, length, *types, DIM).astype("float32")
        known = CapsuleLayer.from_config(layer.get_config())
        known.build(poses.shape)
        known.set_weights(layer.get_weights())
        assert_all_close(model.predict(poses, verbose=0), known(poses))
    model.compile("sgd", ["mse"] * len(model.outputs))
    targets = [ops.zeros((2, *each.shape[1:])) for each in model.outputs]
    model.train_on_batch(poses, targets)
    check_saving(model, poses, tmp_path)


@slow_on_jax
@pytest.mark.parametrize("types", [(), (3,)], ids=["one type", "types"])
@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_later_batches_of_another_length(routing, types):
    """Also if the layer was built by its first batch."""
    layer = CapsuleLayer(NUMBER, 4, routing, share_over_positions=True)
    inputs = pair(2, LENGTH, *types, DIM)
    if routing == "dynamic":
        inputs = inputs[0]
    first = layer(inputs)
    shorter = keras.tree.map_structure(lambda x: x[:, :4], inputs)
    known = CapsuleLayer.from_config(layer.get_config())
    known(shorter)
    known.set_weights(layer.get_weights())
    assert_all_close(layer(shorter), known(shorter))
    assert_all_close(layer(inputs), first)
    if types:  # which stay
        other = keras.tree.map_structure(lambda x: x[:, :, :2], inputs)
        with pytest.raises(ValueError, match="incompatible with the layer"):
            layer(other)


@pytest.mark.parametrize("routing", ["self_attention", "self_routing"])
def test_weights_for_each_input_capsule_keep_the_length(routing):
    layer = CapsuleLayer(
        NUMBER, OUT_DIM, routing=routing, share_over_positions=True
    )
    layer(random(2, LENGTH, DIM))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(random(2, 4, DIM))


def test_stopped_gradients_with_unknown_lengths():
    inputs = keras.Input((None, DIM))
    routing = DynamicRouting(stop_gradient=True)
    layer = CapsuleLayer(NUMBER, OUT_DIM, routing, share_over_positions=True)
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse")
    for length in (7, 4):
        loss = model.train_on_batch(
            random(2, length, DIM), random(2, NUMBER, OUT_DIM)
        )
        assert np.isfinite(loss)


@pytest.mark.parametrize("routing", ["self_attention", "self_routing"])
def test_weights_for_each_input_capsule_need_a_known_length(routing):
    layer = CapsuleLayer(
        NUMBER, OUT_DIM, routing=routing, share_over_positions=True
    )
    message = "weights for each input capsule.* Received: routing="
    with pytest.raises(ValueError, match=message):
        layer.build((None, None, DIM))
    layer.build((None, LENGTH, DIM))


def test_unknown_types_raise():
    layer = CapsuleLayer(NUMBER, OUT_DIM, share_over_positions=True)
    with pytest.raises(ValueError, match="the number of positions may be unk"):
        layer.build((None, LENGTH, None, DIM))
