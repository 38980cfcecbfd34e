import inspect
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import MarginLoss
from keras_capsules.models import CapsNet
from keras_capsules.routing import DynamicRouting
from tests.helpers.testing import compile_for_one_trace
from tests.helpers.testing import invalid
from tests.helpers.testing import on_one_backend

BACKEND = keras.backend.backend()
# Keras itself hands PyTorch tensors to NumPy in a way that is deprecated.
pytestmark = [
    on_one_backend,
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning"
    ),
]
only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="is about TensorFlow alone"
)
# Without graphs, TensorFlow is ready much sooner. JAX and PyTorch are not.
QUICK = {"run_eagerly": BACKEND == "tensorflow"}
# Where a size is not known before the step runs, TensorFlow finds out itself.
SHAPE_ERRORS = (ValueError,)
if BACKEND == "tensorflow":
    import tensorflow as tf

    SHAPE_ERRORS = (ValueError, tf.errors.InvalidArgumentError)

IMAGES = np.random.default_rng(1).uniform(size=(7, 8, 8, 1)).astype("float32")
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])
ONE_HOT = np.eye(3)[LABELS]
MULTI_HOT = np.array(
    [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]] + [[1, 1, 0]] * 3
)
LABEL_FORMS = {
    "integers": (LABELS, ONE_HOT),
    "column": (LABELS[:, None].astype("float32"), ONE_HOT),
    "one_hot": (ONE_HOT.astype("float32"), ONE_HOT),
    "multi_hot": (MULTI_HOT, MULTI_HOT),
}
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 0.25, 1.5], "float32")
label_forms = pytest.mark.parametrize(
    "labels, presences", LABEL_FORMS.values(), ids=LABEL_FORMS.keys()
)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(3)


def small(**options):
    return CapsNet(
        **{
            "image_shape": (8, 8, 1),
            "num_classes": 3,
            "filters": 4,
            "num_primary_capsules": 2,
            "primary_dim": 4,
            "capsule_dim": 5,
            "decoder_units": (6,),
            # A weight with which an error in either part of the loss shows.
            "reconstruction_weight": 0.03,
            **options,
        }
    )


def compiled(model, optimizer="adam", **options):
    return compile_for_one_trace(model, optimizer, MarginLoss(), **options)


def evaluate(model, *arguments, **options):
    return numbers(
        model.evaluate(*arguments, verbose=0, return_dict=True, **options)
    )


def numbers(logs):
    return {name: float(value) for name, value in logs.items()}


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def weights_of(model):
    return [weight.numpy() for weight in model.trainable_variables]


def logs_by_hand(model, presences, weights=1.0, drawn_labels=None):
    """What `evaluate` must report, from scores and drawings, in NumPy."""
    images = ops.convert_to_tensor(IMAGES)
    labels = presences if drawn_labels is None else drawn_labels
    scores = numpy(model(images))
    drawn = numpy(model.reconstruct(images, ops.convert_to_tensor(labels)))
    weights = np.broadcast_to(weights, len(IMAGES))
    margins = np.zeros(len(IMAGES))
    squares = np.zeros(len(IMAGES))
    for n in range(len(IMAGES)):
        for present, score in zip(presences[n], scores[n], strict=True):
            margins[n] += present * max(0, 0.9 - score) ** 2
            margins[n] += 0.5 * (1 - present) * max(0, score - 0.1) ** 2
        squares[n] = np.sum((drawn[n] - IMAGES[n]) ** 2)
    losses = margins + model.reconstruction_weight * squares
    return {
        "loss": np.mean(weights * losses),
        "reconstruction_error": np.average(squares / 64, weights=weights),
    }


# Training and evaluation.


@label_forms
def test_evaluate_equals_the_formula(labels, presences):
    model = compiled(small(), **QUICK)
    logs = evaluate(model, IMAGES, labels, batch_size=7)
    expected = logs_by_hand(model, presences)
    assert logs == pytest.approx(expected, rel=1e-5)
    # Integers and presences draw the same.
    expected = logs_by_hand(model, presences, drawn_labels=labels)
    assert logs == pytest.approx(expected, rel=1e-5)


@label_forms
def test_fits_labels_of_every_form(labels, presences):
    model = compiled(small(), optimizer=keras.optimizers.SGD(0.0))
    history = model.fit(IMAGES, labels, batch_size=7, verbose=0).history
    logs = numbers({name: values[0] for name, values in history.items()})
    # With a learning rate of 0, these are the untrained network's.
    expected = logs_by_hand(model, presences)
    assert logs == pytest.approx(expected, rel=1e-4)


def test_every_weight_learns():
    model = compiled(small(), **QUICK)
    before = weights_of(model)
    model.fit(IMAGES, LABELS, epochs=3, verbose=0)
    assert len(before) == 2 * 5  # kernel and bias of each layer
    for old, new, weight in zip(
        before, weights_of(model), model.trainable_variables, strict=True
    ):
        assert not np.allclose(old, new, atol=1e-6), weight.path


def test_fits_datasets_and_validates():
    import tensorflow as tf

    model = compiled(small(), metrics=["accuracy"])
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(3)
    history = model.fit(
        batches, validation_data=batches, epochs=2, shuffle=False, verbose=0
    ).history
    assert set(history) == {
        "accuracy",
        "loss",
        "reconstruction_error",
        "val_accuracy",
        "val_loss",
        "val_reconstruction_error",
    }
    assert np.isfinite([list(map(float, v)) for v in history.values()]).all()
    # The last values are those of the trained network. Unequal batches, for
    # the last has one image, must weigh by their images.
    logs = evaluate(model, batches)
    expected = logs_by_hand(model, ONE_HOT)
    assert logs["reconstruction_error"] == pytest.approx(
        expected["reconstruction_error"], rel=1e-4
    )
    assert logs["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for name, value in logs.items():
        last = float(history[f"val_{name}"][-1])
        assert last == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("shape", [(7,), (7, 1)], ids=str)
def test_sample_weights_weigh_both_parts(shape):
    model = compiled(small(), **QUICK)
    logs = evaluate(
        model,
        IMAGES,
        LABELS,
        batch_size=7,
        sample_weight=WEIGHTS.reshape(shape),
    )
    expected = logs_by_hand(model, ONE_HOT, WEIGHTS)
    assert logs == pytest.approx(expected, rel=1e-5)
    assert logs != pytest.approx(logs_by_hand(model, ONE_HOT), rel=1e-2)


def test_sample_weights_from_datasets():
    import tensorflow as tf

    model = compiled(small(), **QUICK)
    batches = tf.data.Dataset.from_tensors((IMAGES, LABELS, WEIGHTS))
    expected = logs_by_hand(model, ONE_HOT, WEIGHTS)
    assert evaluate(model, batches) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["integers", "one_hot"])
def test_class_weights_weigh_both_parts(form):
    labels, presences = LABEL_FORMS[form]
    model = compiled(small(), optimizer=keras.optimizers.SGD(0.0), **QUICK)
    logs = model.train_on_batch(
        IMAGES,
        labels,
        class_weight={0: 0.5, 1: 2.0, 2: 3.0},
        return_dict=True,
    )
    weights = np.array([0.5, 2.0, 3.0])[LABELS]
    expected = logs_by_hand(model, presences, weights)
    assert numbers(logs) == pytest.approx(expected, rel=1e-5)


def test_a_sample_weight_of_zero_hides_an_image():
    model = compiled(small(), **QUICK)
    images = IMAGES.copy()
    images[3] = 0.5  # of weight 0
    logs = [
        evaluate(model, each, LABELS, batch_size=7, sample_weight=WEIGHTS)
        for each in (IMAGES, images)
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


def test_reconstruction_weight():
    heavy = compiled(small(reconstruction_weight=0.5), **QUICK)
    light = compiled(small(reconstruction_weight=0), **QUICK)
    light.set_weights(heavy.get_weights())
    heavy = evaluate(heavy, IMAGES, LABELS)
    light = evaluate(light, IMAGES, LABELS)
    error = heavy["reconstruction_error"]
    assert light["reconstruction_error"] == pytest.approx(error, rel=1e-6)
    assert heavy["loss"] == pytest.approx(light["loss"] + 0.5 * 64 * error)


def test_other_losses():
    model = small()
    model.compile("adam", loss="mse", metrics=["accuracy"], **QUICK)
    logs = evaluate(model, IMAGES, ONE_HOT)
    scores = model.predict(IMAGES, verbose=0)
    drawn = model.reconstruct(IMAGES, LABELS)
    expected = np.mean((scores - ONE_HOT) ** 2)
    expected += 0.03 * 64 * np.mean((drawn - IMAGES) ** 2)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    accuracy = np.mean(scores.argmax(-1) == LABELS)
    assert logs["accuracy"] == pytest.approx(accuracy)


def test_without_decoder():
    model = compiled(small(decoder_units=None), **QUICK)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert set(logs) == {"loss"}
    twin = compiled(small(reconstruction_weight=0), **QUICK)
    twin.encoder.set_weights(model.encoder.get_weights())
    expected = evaluate(twin, IMAGES, LABELS)["loss"]
    logs = evaluate(model, IMAGES, LABELS)
    assert logs == pytest.approx({"loss": expected}, rel=1e-6)
    with pytest.raises(ValueError, match="without a decoder"):
        model.decode(model.encode(IMAGES))
    with pytest.raises(ValueError, match="decoder_units=None"):
        model.reconstruct(IMAGES)


def test_learns():
    # Which quarter is bright?
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 4, 96)
    images = generator.uniform(0, 0.4, (96, 8, 8, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 0.5
    model = compiled(
        small(num_classes=4, filters=8, num_primary_capsules=4),
        optimizer=keras.optimizers.Adam(0.01),
        metrics=["accuracy"],
    )
    history = model.fit(
        images[:64],
        labels[:64],
        validation_data=(images[64:], labels[64:]),
        batch_size=16,
        epochs=6,
        verbose=0,
    ).history
    assert history["val_accuracy"][-1] >= 0.95
    errors = [float(each) for each in history["reconstruction_error"]]
    assert errors[-1] < 0.75 * errors[0]


# Ways to run a step.


def test_modes_agree():
    """With graphs, without, and several steps at a time."""
    weights = small().get_weights()
    trained = []
    modes = [{"jit_compile": False}, {"run_eagerly": True}]
    if BACKEND != "torch":  # where Keras has no such thing
        modes.append({"jit_compile": False, "steps_per_execution": 2})
    for options in modes:
        model = compiled(small(), optimizer="sgd", **options)
        model.set_weights(weights)
        model.fit(
            IMAGES[:6],
            LABELS[:6],
            batch_size=3,
            shuffle=False,
            verbose=0,
        )
        trained.append(model.get_weights())
    assert not np.allclose(trained[0][0], weights[0], atol=1e-6)
    for other in trained[1:]:
        for expected, actual in zip(trained[0], other, strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-5)


@only_tensorflow
def test_xla_is_left_off_on_cpus():
    """XLA's convolutions are many times slower than TensorFlow's own there.

    Keras from 3.12 on decides so itself, if we let it, which
    the package relies on instead of saying `supports_jit = False`.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("XLA is fine on GPUs")
    model = compiled(small())
    assert model.jit_compile is False
    # Never compiled, but used by `encode` and `reconstruct`.
    assert model.encoder.jit_compile is False
    assert model.decoder.jit_compile is False


@pytest.mark.skipif(BACKEND == "torch", reason="needs a C++ compiler")
def test_xla_on_demand():
    model = compiled(small(), **QUICK)
    scores = numpy(model(IMAGES))
    logs = evaluate(model, IMAGES, LABELS)
    compiled(model, jit_compile=True)
    assert model.jit_compile is True
    np.testing.assert_allclose(
        model.predict(IMAGES, verbose=0), scores, atol=1e-5
    )
    assert evaluate(model, IMAGES, LABELS) == pytest.approx(logs, rel=1e-4)
    # Training, too; XLA takes long to compile the gradient, even of this.
    tiny = small(
        filters=1,
        num_classes=2,
        kernel_size=1,
        num_primary_capsules=1,
        routing=DynamicRouting(2),
        decoder_units=(),
    )
    compiled(tiny, jit_compile=True)
    before = weights_of(tiny)
    logs = numbers(tiny.train_on_batch(IMAGES, LABELS % 2, return_dict=True))
    assert np.isfinite(logs["loss"])
    assert any(map(np.any, map(np.subtract, weights_of(tiny), before)))


def test_mixed_bfloat16():
    model = compiled(small(dtype="mixed_bfloat16"), **QUICK)
    assert all(weight.dtype == "float32" for weight in model.weights)
    capsules = model.encoder(IMAGES)
    assert keras.backend.standardize_dtype(capsules.dtype) == "bfloat16"
    before = weights_of(model)
    logs = numbers(model.train_on_batch(IMAGES, LABELS, return_dict=True))
    assert np.isfinite(list(logs.values())).all()
    for old, new in zip(before, weights_of(model), strict=True):
        assert np.isfinite(new).all() and not np.array_equal(old, new)
    exact = small()
    exact.set_weights(model.get_weights())
    scores = model.predict(IMAGES, verbose=0)
    assert scores.dtype == "float32"
    np.testing.assert_allclose(
        scores, exact.predict(IMAGES, verbose=0), atol=0.02
    )


def test_mixed_bfloat16_reconstructs_arrays():
    model = small(dtype="mixed_bfloat16")
    exact = small()
    exact.set_weights(model.get_weights())
    drawn = model.reconstruct(IMAGES, LABELS)
    assert drawn.dtype == "float32"
    np.testing.assert_allclose(
        drawn, exact.reconstruct(IMAGES, LABELS), atol=0.02
    )


def test_scores_outside_of_steps():
    model = compiled(small(), **QUICK)
    for training in (None, False, True):
        scores = model(IMAGES, training=training)
        assert tuple(scores.shape) == (7, 3)
    model.train_on_batch(IMAGES, LABELS)
    model.test_on_batch(IMAGES, LABELS)
    # A step leaves nothing behind, not even one that fails.
    with pytest.raises(ValueError):
        model.train_on_batch(IMAGES, np.zeros((7, 5)))
    assert tuple(model(IMAGES, training=True).shape) == (7, 3)


def test_compute_loss_in_a_custom_loop():
    model = compiled(small(), **QUICK)
    images, labels = map(ops.convert_to_tensor, (IMAGES, LABELS))
    weights = ops.convert_to_tensor(WEIGHTS)
    loss = model.compute_loss(images, labels, y_pred=model(images))
    assert numpy(loss) == pytest.approx(
        evaluate(model, IMAGES, LABELS)["loss"], rel=1e-5
    )
    loss = model.compute_loss(images, labels, model(images), weights)
    expected = evaluate(model, IMAGES, LABELS, sample_weight=WEIGHTS)
    assert numpy(loss) == pytest.approx(expected["loss"], rel=1e-5)


@only_tensorflow
def test_custom_loop_trains_as_fit_does():
    import tensorflow as tf

    model = compiled(small(), optimizer=keras.optimizers.SGD(0.5), **QUICK)
    twin = small()
    twin.set_weights(model.get_weights())
    model.train_on_batch(IMAGES, LABELS)

    twin = compiled(twin, optimizer=keras.optimizers.SGD(0.5))
    with tf.GradientTape() as tape:
        scores = twin(IMAGES, training=True)
        loss = twin.compute_loss(IMAGES, tf.constant(LABELS), scores)
    gradients = tape.gradient(loss, twin.trainable_variables)
    twin.optimizer.apply(gradients, twin.trainable_variables)
    for expected, actual in zip(
        model.get_weights(), twin.get_weights(), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_a_teacher_gives_scores_in_the_step_of_another(eager):
    if eager and BACKEND == "jax":
        pytest.skip("takes long and differs from graphs on TensorFlow only")
    teacher = small(num_classes=3, decoder_units=None)
    seen = []

    class Student(CapsNet):
        def compute_loss(self, x, y, y_pred, sample_weight=None, **kwargs):
            scores = teacher(x, training=False)
            seen.append(scores)
            loss = super().compute_loss(x, y, y_pred, sample_weight, **kwargs)
            return loss + 10.0 * ops.mean(scores)

    student = Student(**small().get_config())
    plain = small()
    plain.set_weights(student.get_weights())
    options = {"run_eagerly": eager}
    logs = evaluate(compiled(student, **options), IMAGES, LABELS)
    assert seen
    assert all(tuple(scores.shape)[1:] == (3,) for scores in seen)
    expected = evaluate(compiled(plain, **QUICK), IMAGES, LABELS)["loss"]
    expected += 10.0 * np.mean(numpy(teacher(IMAGES)))
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)


def test_as_a_part_of_another_model():
    part = small()
    inputs = keras.Input((8, 8, 1))
    whole = keras.Model(inputs, keras.layers.Rescaling(2.0)(part(inputs)))
    whole.compile("adam", loss="mse", **QUICK)
    logs = evaluate(whole, IMAGES, ONE_HOT)
    # The other model's loss is its own affair.
    scores = 2.0 * numpy(part(IMAGES))
    expected = np.mean((scores - ONE_HOT) ** 2)
    assert logs == pytest.approx({"loss": expected}, rel=1e-5)
    np.testing.assert_allclose(numpy(whole(IMAGES)), scores, atol=1e-6)


# What is within.


def test_scores_are_lengths_of_capsules():
    model = small()
    capsules = model.encode(IMAGES)
    assert capsules.shape == (7, 3, 5)
    lengths = np.sqrt(np.sum(capsules**2, axis=-1))
    scores = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(scores, lengths, atol=1e-5)
    assert (scores > 0).all() and (scores < 1).all()
    assert scores.std() > 1e-3


def test_arrays_in_batches_and_tensors_at_once_agree():
    model = small()
    capsules = model.encode(IMAGES)
    drawn = model.reconstruct(IMAGES, LABELS)
    for array in (capsules, drawn, model.decode(capsules)):
        assert isinstance(array, np.ndarray)
        assert array.dtype == "float32"

    def assert_same(actual, expected):
        np.testing.assert_allclose(actual, expected, atol=1e-6)

    assert_same(model.encode(IMAGES, batch_size=3), capsules)
    assert_same(model.decode(capsules, LABELS, batch_size=3), drawn)
    assert_same(model.reconstruct(IMAGES, LABELS, batch_size=3), drawn)

    images, labels = map(ops.convert_to_tensor, (IMAGES, LABELS))
    tensors = (
        model.encode(images),
        model.decode(model.encode(images), labels),
        model.reconstruct(images, labels),
        model.reconstruct(images),
    )
    assert all(ops.is_tensor(tensor) for tensor in tensors)
    assert_same(numpy(tensors[0]), capsules)
    assert_same(numpy(tensors[1]), drawn)
    assert_same(numpy(tensors[2]), drawn)
    assert_same(numpy(tensors[3]), model.reconstruct(IMAGES))


def test_lists_are_arrays():
    model = small(decoder_units=(32,))
    capsules = model.encode(IMAGES)
    drawn = model.decode(capsules, LABELS)
    np.testing.assert_allclose(
        model.encode(IMAGES.tolist()), capsules, atol=1e-6
    )
    np.testing.assert_array_equal(
        model.decode(capsules, LABELS.tolist()), drawn
    )
    np.testing.assert_allclose(
        model.decode(capsules.tolist(), LABELS), drawn, atol=1e-6
    )


def test_decodes_the_labelled_or_the_longest_capsule():
    model = small(decoder_units=(32,))
    capsules = np.random.default_rng(2).normal(size=(4, 3, 5))
    capsules = capsules.astype("float32") * 0.1
    for n, longest in enumerate([2, 0, 1, 1]):
        capsules[n, longest] *= 5
    drawn = model.decode(capsules)
    assert drawn.shape == (4, 8, 8, 1)
    assert (drawn > 0).all() and (drawn < 1).all()
    longest = np.array([2, 0, 1, 1])
    others = np.array([0, 2, 0, 2])
    one_hot = np.eye(3)[others]
    np.testing.assert_array_equal(model.decode(capsules, longest), drawn)
    elsewhere = model.decode(capsules, others)
    assert np.abs(elsewhere - drawn).max(axis=(1, 2, 3)).min() > 1e-3
    for labels in (others[:, None], one_hot, one_hot.astype(bool)):
        np.testing.assert_array_equal(model.decode(capsules, labels), elsewhere)
    # The capsules of other classes have no say in it.
    alone = capsules * one_hot[:, :, None].astype("float32")
    np.testing.assert_allclose(model.decode(alone), elsewhere, atol=1e-6)
    # Several classes: the drawing of both, neither's own.
    both = model.decode(capsules, np.eye(3)[longest] + one_hot)
    for single in (drawn, elsewhere):
        assert np.abs(both - single).max(axis=(1, 2, 3)).min() > 1e-3


def test_the_default_is_the_papers_network():
    model = CapsNet()
    assert model.encoder.count_params() == 6_804_384
    assert model.decoder.count_params() == 1_411_344
    assert model.count_params() == 6_804_384 + 1_411_344
    grid = model.encoder.get_layer("primary_capsules").output.shape
    assert tuple(grid) == (None, 6, 6, 32, 8)
    assert tuple(model.encoder.output_shape) == (None, 10, 16)
    assert model.compute_output_shape((5, 28, 28, 1)) == (5, 10)


def test_summary():
    lines = []
    small().summary(print_fn=lambda line, **_: lines.append(line))
    for name in ("images", "convolution", "primary_capsules", "scores"):
        assert name in "".join(lines)


def test_whatever_the_global_image_data_format():
    expected = small()
    keras.config.set_image_data_format("channels_first")
    try:
        model = small()
        model.set_weights(expected.get_weights())
        scores = numpy(model(IMAGES))
        drawn = numpy(model.reconstruct(ops.convert_to_tensor(IMAGES)))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(scores, numpy(expected(IMAGES)), atol=1e-6)
    images = ops.convert_to_tensor(IMAGES)
    np.testing.assert_allclose(
        drawn, numpy(expected.reconstruct(images)), atol=1e-6
    )


# Sizes.


@pytest.mark.parametrize(
    "image_shape, num_classes, options",
    [
        ((8, 8, 1), 1, {}),
        ((8, 8, 2), 2, {}),
        ((8, 8, 1), 37, {}),
        ((5, 5, 1), 2, {}),
        ((1, 1, 1), 2, {}),
        ((7, 11, 3), 3, {}),
        ((13, 6, 2), 3, {"kernel_size": (4, 2)}),
        ((3, 4, 1), 2, {"kernel_size": 5, "padding": "same"}),
        (
            (9, 9, 1),
            2,
            {"padding": "same", "conv_strides": 2, "primary_strides": 3},
        ),
        (
            (96, 96, 2),
            5,
            {"filters": 2, "conv_strides": 4, "primary_strides": 4},
        ),
    ],
    ids=str,
)
def test_images_and_classes_of_any_number(image_shape, num_classes, options):
    model = compiled(
        small(
            **{
                "image_shape": image_shape,
                "num_classes": num_classes,
                **options,
            }
        ),
        **QUICK,
    )
    generator = np.random.default_rng(4)
    images = generator.uniform(size=(3, *image_shape)).astype("float32")
    # With one class, `(batch, 1)` tells whether it is there.
    labels = np.array([[1], [0], [1]])
    if num_classes > 1:
        labels = np.array([0, num_classes - 1, 1])
    before = weights_of(model)
    logs = numbers(model.train_on_batch(images, labels, return_dict=True))
    assert np.isfinite(list(logs.values())).all()
    assert not np.array_equal(before[0], weights_of(model)[0])
    assert model.predict_on_batch(images).shape == (3, num_classes)
    assert tuple(model.decoder.output_shape) == (None, *image_shape)
    restored = CapsNet.from_config(model.get_config())
    assert [tuple(w.shape) for w in restored.weights] == [
        tuple(w.shape) for w in model.weights
    ]


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (1, 1, 1),
        (5, 5, 1),
        (7, 7, 1),
        (8, 8, 3),
        (8, 40, 3),
        (40, 8, 3),
        (13, 13, 3),
        (14, 14, 5),
        (20, 20, 7),
        (25, 25, 7),
        (26, 26, 9),
        (28, 28, 9),
        (96, 96, 9),
    ],
)
def test_default_kernel_size(height, width, expected):
    model = small(
        image_shape=(height, width, 1),
        filters=1,
        num_primary_capsules=1,
        decoder_units=None,
    )
    assert model.kernel_size == (expected, expected)
    for name in ("convolution", "primary_capsules"):
        kernel = model.encoder.get_layer(name).kernel
        assert tuple(kernel.shape[:2]) == (expected, expected)


# Options.


def primary(model):
    """`(height, width, num_capsules, capsule_dim)` of the primary capsules."""
    return tuple(model.encoder.get_layer("primary_capsules").output.shape[1:])


def windows(model):
    return tuple(
        tuple(model.encoder.get_layer(name).kernel.shape[:2])
        for name in ("convolution", "primary_capsules")
    )


def dense_sizes(model):
    return model.decoder and [
        layer.units
        for layer in model.decoder.layers
        if isinstance(layer, keras.layers.Dense)
    ]


def filters(model):
    return model.encoder.get_layer("convolution").filters


def routing(model):
    return repr(model.encoder.get_layer("class_capsules").routing)


def dtypes(model):
    return {str(layer.compute_dtype) for layer in model.layers[1:4]}


@pytest.mark.parametrize(
    "option, value, effect, default, expected",
    [
        (
            "image_shape",
            (8, 9, 2),
            lambda model: tuple(model.decoder.output_shape),
            (None, 8, 8, 1),
            (None, 8, 9, 2),
        ),
        (
            "num_classes",
            4,
            lambda model: model.compute_output_shape((2, 8, 8, 1)),
            (2, 3),
            (2, 4),
        ),
        ("filters", 6, filters, 4, 6),
        ("kernel_size", 2, windows, ((3, 3),) * 2, ((2, 2),) * 2),
        ("kernel_size", (2, 4), windows, ((3, 3),) * 2, ((2, 4),) * 2),
        ("conv_strides", 2, primary, (2, 2, 2, 4), (1, 1, 2, 4)),
        ("conv_strides", (2, 1), primary, (2, 2, 2, 4), (1, 2, 2, 4)),
        ("primary_strides", (1, 3), primary, (2, 2, 2, 4), (4, 2, 2, 4)),
        ("primary_strides", 1, primary, (2, 2, 2, 4), (4, 4, 2, 4)),
        ("padding", "same", primary, (2, 2, 2, 4), (4, 4, 2, 4)),
        ("num_primary_capsules", 3, primary, (2, 2, 2, 4), (2, 2, 3, 4)),
        ("primary_dim", 6, primary, (2, 2, 2, 4), (2, 2, 2, 6)),
        (
            "capsule_dim",
            7,
            lambda model: tuple(model.encoder.output_shape),
            (None, 3, 5),
            (None, 3, 7),
        ),
        (
            "routing",
            DynamicRouting(2, leaky=True, stop_gradient=True),
            routing,
            repr(DynamicRouting()),
            repr(DynamicRouting(2, leaky=True, stop_gradient=True)),
        ),
        ("decoder_units", [9, 8], dense_sizes, [6, 64], [9, 8, 64]),
        ("decoder_units", (), dense_sizes, [6, 64], [64]),
        ("decoder_units", None, dense_sizes, [6, 64], None),
        # What it does to the loss has a test of its own.
        (
            "reconstruction_weight",
            2,
            lambda model: model.reconstruction_weight,
            0.03,
            2.0,
        ),
        ("name", "mine", lambda model: model.name, None, "mine"),
        ("dtype", "mixed_bfloat16", dtypes, {"float32"}, {"bfloat16"}),
        (
            "trainable",
            False,
            lambda model: len(model.trainable_variables),
            10,
            0,
        ),
    ],
)
def test_options(option, value, effect, default, expected):
    if default is not None:
        assert effect(small()) == default
    model = small(**{option: value})
    assert effect(model) == expected
    # As JSON, for that is what a file holds.
    config = json.dumps(keras.saving.serialize_keras_object(model))
    restored = keras.saving.deserialize_keras_object(json.loads(config))
    assert type(restored) is CapsNet
    assert effect(restored) == expected
    again = json.dumps(keras.saving.serialize_keras_object(restored))
    assert json.loads(again) == json.loads(config)


def test_routing_is_used():
    model = small(routing="dynamic")
    uniform = small(routing=DynamicRouting(1))
    uniform.set_weights(model.get_weights())
    restored = CapsNet.from_config(uniform.get_config())
    restored.set_weights(model.get_weights())
    scores = numpy(uniform(IMAGES))
    assert np.abs(numpy(model(IMAGES)) - scores).max() > 1e-3
    np.testing.assert_array_equal(numpy(restored(IMAGES)), scores)


def test_the_configuration_names_every_argument():
    arguments = set(inspect.signature(CapsNet).parameters) - {"kwargs"}
    config = CapsNet.from_config(small().get_config()).get_config()
    assert arguments | {"name", "trainable", "dtype"} == set(config)


# Saving.

RELOAD = """
import json
import sys

import keras
import numpy as np

import keras_capsules

folder = sys.argv[1]
data = dict(np.load(folder + "/data.npz"))
model = keras.saving.load_model(folder + "/model.keras", safe_mode=True)
results = {
    "type": type(model).__name__,
    "config": model.get_config(),
    "loss": keras.saving.serialize_keras_object(model.loss),
    "iterations": int(model.optimizer.iterations),
    "evaluation": model.evaluate(
        data["images"], data["labels"], verbose=0, return_dict=True
    ),
}
np.save(folder + "/scores.npy", model.predict(data["images"], verbose=0))
np.save(folder + "/drawn.npy", model.reconstruct(data["images"]))
model.fit(data["images"], data["labels"], batch_size=7, verbose=0)
results["iterations_after"] = int(model.optimizer.iterations)
weights = [keras.ops.convert_to_numpy(each) for each in model.weights]
np.savez(folder + "/weights.npz", *weights)
with open(folder + "/results.json", "w") as file:
    json.dump(results, file, default=float)
"""


def test_loads_in_a_new_process_and_trains_on(tmp_path):
    model = small(
        conv_strides=1,
        primary_strides=1,
        routing=DynamicRouting(2, leaky=True),
        decoder_units=(6, 7),
        dtype="float32",
        name="mine",
    )
    loss = MarginLoss(0.8, 0.2, absent_weight=0.7)
    model.compile("adam", loss=loss, metrics=["accuracy"], **QUICK)
    model.fit(IMAGES, LABELS, batch_size=3, epochs=2, verbose=0)
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    model.save(tmp_path / "model.keras")
    subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": BACKEND},
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["type"] == "CapsNet"
    assert results["config"] == json.loads(json.dumps(model.get_config()))
    assert results["loss"] == keras.saving.serialize_keras_object(loss)
    assert results["iterations"] == 6
    assert results["evaluation"] == pytest.approx(
        evaluate(model, IMAGES, LABELS), rel=1e-5
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "scores.npy"),
        model.predict(IMAGES, verbose=0),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "drawn.npy"), model.reconstruct(IMAGES), atol=1e-6
    )
    # Adam's moments were saved too, or else the next step would differ.
    model.fit(IMAGES, LABELS, batch_size=7, verbose=0)
    assert results["iterations_after"] == 7
    trained = np.load(tmp_path / "weights.npz")
    assert len(trained.files) == len(model.weights)
    for name, weight in zip(trained.files, model.weights, strict=True):
        np.testing.assert_allclose(trained[name], numpy(weight), atol=1e-5)


def test_weights_alone(tmp_path):
    model, twin = small(), small()
    assert not np.allclose(model.get_weights()[0], twin.get_weights()[0])
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# Errors.


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
        ("kernel_size", 0, "a positive integer or a pair"),
        ("kernel_size", (3, 3, 3), "a positive integer or a pair"),
        ("kernel_size", "3", "a positive integer or a pair"),
        ("conv_strides", (1,), "a positive integer or a pair"),
        ("conv_strides", (1, 2, 2), "a positive integer or a pair"),
        ("conv_strides", None, "a positive integer or a pair"),
        ("primary_strides", (0, 2), "a positive integer or a pair"),
        ("primary_strides", 1.5, "a positive integer or a pair"),
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


# Numbers that are not.


@pytest.mark.parametrize("units", [(6,), None], ids=["decoder", "without"])
def test_a_label_out_of_range_makes_the_loss_nan(units):
    model = compiled(small(decoder_units=units), **QUICK)
    labels = LABELS.copy()
    assert np.isfinite(evaluate(model, IMAGES, labels)["loss"])
    labels[4] = 3
    assert np.isnan(evaluate(model, IMAGES, labels)["loss"])
    history = model.fit(IMAGES, labels, verbose=0).history
    assert np.isnan(float(history["loss"][0]))


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


def test_nothing_of_no_images():
    model = small()
    capsules = model.encode(IMAGES[:0])
    assert capsules.shape == (0, 3, 5) and capsules.dtype == "float32"
    for labels in (None, LABELS[:0]):
        assert model.decode(capsules, labels).shape == (0, 8, 8, 1)
    assert model.reconstruct(IMAGES[:0]).shape == (0, 8, 8, 1)


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
