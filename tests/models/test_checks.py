"""What networks do with arrays that do not fit, and with NaN."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import CapsuleLayer
from keras_capsules import MarginLoss
from keras_capsules import SpreadLoss
from keras_capsules.losses import margin_loss
from keras_capsules.losses import spread_loss
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models import ConvNet
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import compiled
from tests.helpers.capsnet import small
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy

METHODS = {
    "fit": lambda model, x, y: model.fit(x, y, verbose=0),
    "evaluate": lambda model, x, y: model.evaluate(x, y, verbose=0),
    "train_on_batch": lambda model, x, y: model.train_on_batch(x, y),
    "validation": lambda model, x, y: model.fit(
        IMAGES, LABELS, validation_data=(x, y), verbose=0
    ),
}
methods = pytest.mark.parametrize("method", METHODS)
decoders = pytest.mark.parametrize(
    "units", [(6,), None], ids=["decoder", "without"]
)


# Labels.


@decoders
@methods
@pytest.mark.parametrize(
    "labels",
    [LABELS + 1, LABELS - 1, (LABELS + 1).tolist(), 2.0 * np.eye(3)[LABELS]],
    ids=["from 1", "from -1", "list", "not one-hot"],
)
def test_labels_out_of_range_are_refused_before_they_do_harm(
    labels, method, units
):
    model = compiled(small(decoder_units=units))
    before = model.get_weights()
    with pytest.raises(ValueError, match="`y` has .* out of range.*Received"):
        METHODS[method](model, IMAGES, labels)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


PIPELINES = {
    "dataset": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(3),
    "weighted": lambda x, y: tf.data.Dataset.from_tensors((x, y, np.ones(7))),
    "named": lambda x, y: tf.data.Dataset.from_tensors((x, {"scores": y})),
    "generator": lambda x, y: (
        batch for batch in [(x[:3], y[:3]), (x[3:], y[3:])]
    ),
    "tensors": lambda x, y: tuple(map(keras.ops.convert_to_tensor, (x, y))),
}
pipelines = pytest.mark.parametrize("kind", PIPELINES)


@pipelines
@methods
def test_bad_labels_in_pipelines(kind, method):
    """The fifth one: batches before it are trained with, its own is not."""
    if method == "train_on_batch" and kind != "tensors":
        pytest.skip("takes arrays and tensors")
    model = compiled(small(), **QUICK)
    labels = LABELS.copy()
    labels[5] = 3
    data = PIPELINES[kind](IMAGES, labels)
    message = r"`y` has .*from 0 to 2. Received: y=\[3.*\]$"
    with pytest.raises(ValueError, match=message):
        if kind == "tensors":
            METHODS[method](model, *data)
        elif method == "validation":
            model.fit(IMAGES, LABELS, validation_data=data, verbose=0)
        elif method == "fit":
            model.fit(data, shuffle=False, verbose=0)
        else:
            model.evaluate(data, verbose=0)
    for weight in model.get_weights():
        assert np.isfinite(weight).all()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pipelines
def test_good_labels_in_pipelines_train_as_ever(kind):
    histories = []
    for data in (PIPELINES[kind](IMAGES, LABELS), (IMAGES, LABELS)):
        keras.utils.set_random_seed(3)
        model = compiled(small(), keras.optimizers.SGD(1e-9), **QUICK)
        data = data if isinstance(data, tuple) else (data,)
        histories.append(model.evaluate(*data, verbose=0, return_dict=True))
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-4)


def test_a_pipeline_keeps_its_length_and_is_checked_in_every_epoch():
    model = compiled(small(), **QUICK)
    data = PIPELINES["dataset"](IMAGES, LABELS)
    history = model.fit(
        data, validation_data=data, epochs=2, shuffle=False, verbose=0
    ).history
    assert np.isfinite(history["val_loss"]).all()
    assert model.optimizer.iterations == 6


def test_errors_of_a_pipeline_are_its_own():
    def batches():
        yield IMAGES, LABELS
        raise OSError("the disk is gone")

    model = compiled(small(), **QUICK)
    with pytest.raises(Exception, match="the disk is gone"):
        model.fit(batches(), shuffle=False, verbose=0)


@pytest.mark.parametrize("loss", [margin_loss, spread_loss, MarginLoss()])
@pytest.mark.parametrize(
    "make", [small, lambda **_: ConvNet((8, 8, 1), 3, (4,))]
)
def test_losses_that_are_functions_and_networks_without_capsules(make, loss):
    model = make(decoder_units=None)
    model.compile("sgd", loss, **QUICK)
    with pytest.raises(ValueError, match="`y` has labels out of range"):
        model.fit(IMAGES, LABELS + 1, verbose=0)


def test_validation_data_by_position():
    model = compiled(small(), **QUICK)
    data = tf.data.Dataset.from_tensors((IMAGES, LABELS + 1))
    with pytest.raises(ValueError, match="`y` has labels out of range"):
        model.fit(IMAGES, LABELS, 7, 1, 0, None, 0.0, data)


def test_errors_of_callbacks_are_their_own():
    """Although a bad batch is waiting in the pipeline."""

    def stop(*arguments, **options):
        raise RuntimeError("mine")

    labels = np.concatenate([LABELS, LABELS + 1])
    data = tf.data.Dataset.from_tensor_slices(
        (np.concatenate([IMAGES, IMAGES]), labels)
    )
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    model = compiled(small(), **QUICK)
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(
            data.batch(7).prefetch(2),
            callbacks=[callback],
            shuffle=False,
            verbose=0,
        )


def test_too_few_classes_are_noticed():
    model = compiled(small(num_classes=2))
    with pytest.raises(ValueError, match="integers from 0 to 1"):
        model.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_a_network_survives_a_bad_batch(kind):
    model = compiled(small())
    model.fit(IMAGES, LABELS, verbose=0)
    before = model.get_weights()
    labels = LABELS.copy()
    labels[-1] = 3
    data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(2)
    if kind == "generator":
        data = iter(data.as_numpy_iterator())
        data = (batch for batch in data)
    with pytest.raises(ValueError, match="out of range.*Received"):
        model.evaluate(data, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert np.isfinite(model.predict(IMAGES, verbose=0)).all()


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "other"])
def test_labels_in_tensors_of_other_backends(backend):
    if backend == "tensorflow":
        labels = tf.constant(LABELS + 1)
    elif backend == "jax":
        labels = pytest.importorskip("jax.numpy").asarray(LABELS + 1)
    else:

        class Table:
            """As those of pandas."""

            shape = LABELS.shape
            dtype = LABELS.dtype

            def __len__(self):
                return len(LABELS)

            def __array__(self, dtype=None, copy=None):
                return LABELS + 1

        labels = Table()
    with pytest.raises(ValueError, match="out of range.*Received"):
        compiled(small()).fit(IMAGES, labels, verbose=0)


def test_validation_data_are_looked_at_once():
    model = compiled(small(), **QUICK)
    with pytest.warns(UserWarning) as warned:
        model.fit(
            IMAGES,
            LABELS,
            epochs=3,
            verbose=0,
            validation_data=(255.0 * IMAGES, LABELS),
        )
    assert len([x for x in warned if "Images with" in str(x.message)]) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"score": LABELS}, r"Expected 'scores'. Received: `y` with .*'score'"),
        (
            {
                "scores": np.eye(3)[LABELS],
                "targets": np.zeros((7, 2, 8, 8, 1)),
                "target_classes": np.full((7, 2), 0.5),
            },
            "`target_classes` to hold integers. Received: .* float64",
        ),
        (
            {"scores": np.eye(3)[LABELS], "target_classes": [[1, 2]] * 7},
            "Received: no targets, target_classes of type list",
        ),
        (
            {
                "scores": np.eye(3)[LABELS],
                "targets": np.zeros((7, 0, 8, 8, 1)),
                "target_classes": np.zeros((7, 0), int),
            },
            r"of at least one object.*Received.*\(7, 0\)",
        ),
    ],
    ids=["name", "floats", "list", "no objects"],
)
def test_dictionaries_of_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        compiled(small()).fit(IMAGES, labels, verbose=0)


@pytest.mark.parametrize("dtype", ["str", "object"])
def test_images_that_are_no_numbers_are_refused(dtype):
    with pytest.raises(ValueError, match="`images`. Expected numbers.*Rec"):
        compiled(small()).fit(IMAGES.astype(dtype), LABELS, verbose=0)


def test_arguments_that_fit_does_not_have():
    with pytest.raises(TypeError, match=r"CapsNet\.fit: .*'foo'"):
        compiled(small()).fit(IMAGES, LABELS, foo=1)


def test_other_losses_may_have_other_labels():
    model = small(decoder_units=None)
    model.compile("sgd", "mse", **QUICK)
    targets = np.full((7, 3), 5.0)
    assert np.isfinite(model.evaluate(IMAGES, targets, verbose=0))


@decoders
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
@pytest.mark.parametrize("shape", [(7,), (7, 1)], ids=str)
def test_labels_of_a_single_class_say_whether_it_is_there(shape, dtype, units):
    model = compiled(small(num_classes=1, decoder_units=units), **QUICK)
    present = np.array([0, 1, 1, 0, 1, 0, 0])
    labels = present.reshape(shape).astype(dtype)
    scores = model.predict(IMAGES, verbose=0)[:, 0].astype("float64")
    margins = present * np.maximum(0, 0.9 - scores) ** 2
    margins += 0.5 * (1 - present) * np.maximum(0, scores - 0.1) ** 2
    loss = float(MarginLoss()(labels, scores[:, None].astype("float32")))
    assert loss == pytest.approx(margins.mean(), rel=1e-5)
    found = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    if units is None:
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
    history = model.fit(IMAGES, labels, verbose=0).history
    assert np.isfinite(history["loss"]).all()


# Images.


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@methods
def test_pixels_up_to_255_are_warned_of(dtype, method):
    model = compiled(small(), **QUICK)
    images = (255 * IMAGES).astype(dtype)
    with pytest.warns(UserWarning, match="Expected pixels from 0 to 1; divide"):
        METHODS[method](model, images, LABELS)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pipelines
def test_pixels_up_to_255_in_pipelines_are_warned_of_once(kind):
    model = compiled(small(), **QUICK)
    data = PIPELINES[kind](255 * IMAGES, LABELS)
    data = data if isinstance(data, tuple) else (data,)
    with pytest.warns(UserWarning, match="divide pixels") as found:
        model.evaluate(*data, verbose=0)
    assert sum("divide pixels" in str(each.message) for each in found) == 1


@pytest.mark.parametrize("factor", [1, 255])
@methods
def test_pixels_that_are_no_numbers_are_warned_of(method, factor):
    model = compiled(small(), **QUICK)
    images = factor * IMAGES
    images[3, 2, 2, 0] = np.nan
    message = "not finite the loss is NaN.* in 1 of 7 images, first in number 3"
    with pytest.warns(UserWarning, match=message):
        METHODS[method](model, images, LABELS)


def test_standardized_images_are_not_warned_of():
    images = (IMAGES - IMAGES.mean()) / IMAGES.std()
    compiled(small(), **QUICK).evaluate(images, LABELS, verbose=0)


def test_complex_images_are_refused():
    for model in (small(), ConvNet((8, 8, 1), 3, (4,))):
        with pytest.raises(ValueError, match="real numbers.* dtype complex64"):
            model(IMAGES.astype("complex64"))


def test_no_images_have_no_scores():
    for model in (small(), ConvNet((8, 8, 1), 3, (4,))):
        assert tuple(model(IMAGES[:0]).shape) == (0, 3)


def test_compute_loss_says_that_it_needs_the_input():
    model = compiled(small(), **QUICK)
    labels = keras.ops.convert_to_tensor(LABELS)
    with pytest.raises(ValueError, match="Expected `x`.*Received: x=None"):
        model.compute_loss(y=labels, y_pred=model(IMAGES))


# NaN.


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["array", "tensor"])
def test_a_broken_image_is_broken_on_every_path(as_tensor, value):
    model = small()
    images = IMAGES.copy()
    images[2, 3, 3, 0] = value
    given = keras.ops.convert_to_tensor(images) if as_tensor else images
    for method in (model.encode, model.reconstruct, model.predict_on_batch):
        outputs = numpy(method(given)).reshape(7, -1)
        assert np.isnan(outputs[2]).all(), method
        assert np.isfinite(np.delete(outputs, 2, axis=0)).all(), method


def test_poses_that_are_nan_decode_to_nan():
    model = small()
    capsules = model.encode(IMAGES)
    capsules[3] = np.nan
    decoded = model.decode(capsules, LABELS).reshape(7, -1)
    assert np.isnan(decoded[3]).all()
    assert np.isfinite(np.delete(decoded, 3, axis=0)).all()


# What is refused or warned of by the loss and the network.


@pytest.mark.parametrize("num_classes", [1, 3])
def test_spread_loss_needs_a_class_in_every_example(num_classes):
    model = small(num_classes=num_classes)
    model.compile("sgd", SpreadLoss(), **QUICK)
    labels = np.eye(3)[LABELS][:, :num_classes]
    labels[4] = 0
    message = "`y` has multi-hot labels without a"
    if num_classes == 1:
        message = "Expected two classes or more, or MarginLoss"
    with pytest.raises(ValueError, match=message):
        model.fit(IMAGES, labels, verbose=0)


def test_networks_of_own_layers_may_take_other_pixels():
    images = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Reshape((8, 8))(x)
    decoder = keras.Sequential(
        [
            keras.Input((3, 4)),
            keras.layers.Flatten(),
            keras.layers.Dense(64),
            keras.layers.Reshape((8, 8, 1)),
        ]
    )
    model = CapsuleNetwork(images, CapsuleLayer(3, 4)(x), decoder)
    compiled(model, **QUICK).evaluate(255 * IMAGES, LABELS, verbose=0)
