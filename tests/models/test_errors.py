"""Wrong options and inputs of networks, and numbers that are NaN."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.models import CapsNet
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import compiled
from tests.helpers.capsnet import evaluate
from tests.helpers.capsnet import numbers
from tests.helpers.capsnet import small
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import invalid
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import only_tensorflow

pytestmark = on_one_backend
# Where a size is not known before the step runs, TensorFlow finds out itself.
SHAPE_ERRORS = (ValueError,)
if BACKEND == "tensorflow":
    import tensorflow as tf

    SHAPE_ERRORS = (ValueError, tf.errors.InvalidArgumentError)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("image_shape", (8, 8), "3 positive integers"),
        ("image_shape", (8, 8, 1, 1), "3 positive integers"),
        ("image_shape", (8, 0, 1), "3 positive integers"),
        ("image_shape", (8, 8.0, 1), "3 positive integers"),
        ("image_shape", (None, None, 1), "3 positive integers"),
        ("image_shape", 8, "3 positive integers"),
        ("image_shape", "881", "3 positive integers"),
        ("image_shape", None, "3 positive integers"),
        ("num_classes", 0, "a positive integer"),
        ("num_classes", -1, "a positive integer"),
        ("num_classes", 3.0, "a positive integer"),
        ("num_classes", True, "a positive integer"),
        ("num_classes", None, "a positive integer"),
        ("filters", 0, "a positive integer"),
        ("filters", 2.5, "a positive integer"),
        ("kernel_size", 0, "a positive integer or a tuple of 2"),
        ("kernel_size", (3, 3, 3), "a positive integer or a tuple of 2"),
        ("kernel_size", "3", "a positive integer or a tuple of 2"),
        ("conv_strides", (1,), "a positive integer or a tuple of 2"),
        ("conv_strides", (1, 2, 2), "a positive integer or a tuple of 2"),
        ("conv_strides", None, "a positive integer or a tuple of 2"),
        ("primary_strides", (0, 2), "a positive integer or a tuple of 2"),
        ("primary_strides", 1.5, "a positive integer or a tuple of 2"),
        ("padding", "causal", "'?valid"),
        ("padding", None, "'?valid"),
        ("num_primary_capsules", 0, "a positive integer"),
        ("primary_dim", 0, "a positive integer"),
        ("capsule_dim", 2.0, "a positive integer"),
        ("routing", "dynamc", "'dynamic'"),
        ("routing", 3, "'dynamic'"),
        ("decoder_units", 512, "positive integers"),
        ("decoder_units", (6, 0), "positive integers"),
        ("decoder_units", "66", "positive integers"),
        ("reconstruction_weight", -0.1, "of at least 0"),
        ("reconstruction_weight", float("nan"), "of at least 0"),
        ("reconstruction_weight", "0.1", "of at least 0"),
    ],
)
def test_rejects_options(option, value, message):
    with pytest.raises(ValueError, match=message) as raised:
        small(**{option: value})
    # By the name that the user gave it, for there are other layers within.
    assert f"`{option}`" in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 5},
        {"kernel_size": (3, 5)},
        {"image_shape": (20, 4, 1), "kernel_size": 3},
        {"kernel_size": 3, "conv_strides": 3, "primary_strides": 1},
        {"kernel_size": 9},
    ],
    ids=str,
)
def test_rejects_images_smaller_than_the_windows(options):
    with pytest.raises(ValueError, match="images are too small") as raised:
        small(**options)
    assert f"conv_strides={2 * (options.get('conv_strides', 1),)}" in str(
        raised.value
    )
    assert small(padding="same", **options).built


WRONG_SHAPES = pytest.mark.parametrize(
    # The first two have as many primary capsules as the right shape.
    "shape",
    [(7, 7, 8, 1), (7, 8, 7, 1), (7, 9, 9, 1), (7, 8, 8, 2), (7, 8)],
    ids=str,
)
METHODS = {
    "call": lambda model, images: model(images),
    "predict": lambda model, images: model.predict(images, verbose=0),
    "fit": lambda model, images: model.fit(images, LABELS, verbose=0),
    "evaluate": lambda model, images: model.evaluate(images, LABELS, verbose=0),
    "encode": lambda model, images: model.encode(images),
}


@WRONG_SHAPES
@pytest.mark.parametrize("method", METHODS)
def test_rejects_images_of_another_shape(method, shape):
    model = compiled(small())
    with pytest.raises(ValueError, match="shape"):
        METHODS[method](model, np.zeros(shape, "float32"))


@pytest.mark.parametrize(
    "method, shape",
    [
        ("call", (7, 7, 8, 1)),
        ("predict", (7, 7, 8, 1)),
        ("predict", (7, 8, 8, 2)),
        ("evaluate", (7, 7, 8, 1)),  # as `fit`, which takes longer to trace
        ("encode", (7, 7, 8, 1)),
    ],
    ids=str,
)
def test_rejects_images_of_another_shape_later(method, shape):
    """TensorFlow does not fix the shape of a second batch in advance."""
    model = compiled(small())
    METHODS[method](model, IMAGES)
    with pytest.raises(SHAPE_ERRORS, match="[Ss]hape"):
        METHODS[method](model, np.zeros(shape, "float32"))


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("shape", [(4, 4, 5), (4, 3, 6), (4, 15)], ids=str)
def test_decode_rejects_capsules_of_another_shape(shape, used):
    model = small()
    if used:
        model.decode(np.zeros((4, 3, 5), "float32"))
    for labels in (None, np.array([0, 1, 2, 1])):
        with pytest.raises(ValueError, match="shape"):
            model.decode(np.zeros(shape, "float32"), labels)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("method", ["fit", "evaluate", "reconstruct"])
def test_rejects_one_hot_labels_of_other_classes(method, num_classes):
    model = compiled(small(), **QUICK)
    labels = np.eye(num_classes)[LABELS % num_classes]
    with pytest.raises(ValueError, match="class scores of shape"):
        getattr(model, method)(IMAGES, labels)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([0, 3], "integers from 0 to 2"),
        ([0, -1], "integers from 0 to 2"),
        ([0, 0.5], "integers from 0 to 2"),
        ([0, np.nan], "integers from 0 to 2"),
        ([[0, 0, 1], [0, 0, 2]], "numbers from 0 to 1"),
    ],
    ids=str,
)
def test_decode_rejects_labels_out_of_range(wrong, message):
    model = small()
    capsules = np.zeros((2, 3, 5), "float32")
    for labels in (np.array(wrong), wrong):
        with pytest.raises(ValueError, match=message):
            model.decode(capsules, labels)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None, "3", True], ids=repr)
def test_rejects_batch_sizes(batch_size):
    model = small()
    for method, inputs in (
        (model.encode, IMAGES),
        (model.decode, np.zeros((4, 3, 5))),
        (model.reconstruct, ops.convert_to_tensor(IMAGES)),
    ):
        with pytest.raises(
            ValueError, match=invalid("batch_size", "a positive integer")
        ):
            method(inputs, batch_size=batch_size)


def test_compiling_without_a_loss_raises():
    model = small()
    model.compile("adam")
    with pytest.raises(ValueError, match="No loss to compute"):
        model.fit(IMAGES, LABELS, verbose=0)


def test_encode_of_something_else_raises():
    with pytest.raises(ValueError, match="an array, a list or a tensor"):
        small().encode(iter(IMAGES))


# Numbers that are NaN or infinite.


class Batches(keras.utils.PyDataset):
    """One batch, which nothing looks at before it is trained with."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


@pytest.mark.parametrize("units", [(6,), None], ids=["decoder", "without"])
def test_a_label_out_of_range_makes_the_loss_nan(units):
    model = compiled(small(decoder_units=units), **QUICK)
    labels = LABELS.copy()
    assert np.isfinite(evaluate(model, Batches(IMAGES, labels))["loss"])
    labels[4] = 3
    assert np.isnan(evaluate(model, Batches(IMAGES, labels))["loss"])
    history = model.fit(Batches(IMAGES, labels), verbose=0).history
    assert np.isnan(float(history["loss"][0]))


@pytest.mark.filterwarnings("ignore:With values that are not finite")
@pytest.mark.parametrize("how", ["call", "predict", "evaluate"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pixel_that_is_no_number_shows_in_its_own_scores(how, value):
    model = compiled(small())
    images = IMAGES.copy()
    images[2, 3, 3, 0] = value
    if how == "evaluate":
        assert not np.isfinite(evaluate(model, images, LABELS)["loss"])
        return
    scores = numpy(METHODS[how](model, images))
    assert np.isnan(scores[2]).all()
    np.testing.assert_allclose(
        np.delete(scores, 2, axis=0),
        np.delete(numpy(METHODS[how](model, IMAGES)), 2, axis=0),
        atol=1e-6,
    )


@pytest.mark.filterwarnings("ignore:With values that are not finite")
@pytest.mark.parametrize("units", [(6,), None], ids=["decoder", "without"])
def test_terminate_on_nan_stops(units):
    # TensorFlow's graphs treat NaN unlike its functions, and both must stop.
    model = compiled(small(decoder_units=units), **(QUICK if units else {}))
    images = IMAGES.copy()
    images[2, 3, 3, 0] = np.nan
    history = model.fit(
        images,
        LABELS,
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    assert model.stop_training
    assert len(history.epoch) == 1
    assert np.isnan(float(history.history["loss"][0]))


@pytest.mark.parametrize("place", [(0, 0), (10, 10), (27, 27)], ids=str)
def test_no_pixel_escapes(place):
    """The default network's windows leave out the last row and column."""
    model = CapsNet(filters=2, num_primary_capsules=1, decoder_units=None)
    images = np.zeros((2, 28, 28, 1), "float32")
    images[1, place[0], place[1]] = np.nan
    scores = model.predict(images, verbose=0)
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1]).all()


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("float64", marks=only_tensorflow),
        "float32",
        "mixed_bfloat16",
    ],
)
def test_trains_in_every_dtype(dtype):
    model = compiled(small(dtype=dtype))
    history = model.fit(IMAGES, LABELS, verbose=0).history
    assert np.isfinite(history["loss"][0])


def test_integer_images_are_numbers_too():
    model = small()
    images = (IMAGES > 0.5).astype("uint8")
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        model.predict(images.astype("float32"), verbose=0),
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_fits_integer_images(dtype):
    """In a graph, where the size of a batch is not known."""
    options = {"filters": 1, "routing": DynamicRouting(1)}
    model = compiled(small(**options), keras.optimizers.SGD(0.0))
    images = (IMAGES > 0.5).astype(dtype)
    history = model.fit(images, LABELS, verbose=0).history
    logs = numbers({name: values[0] for name, values in history.items()})
    expected = evaluate(model, images.astype("float32"), LABELS)
    assert logs == pytest.approx(expected, rel=1e-5)
