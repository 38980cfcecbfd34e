"""Training and evaluation of a network with a decoder."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.models import CapsNet
from keras_capsules.routing import DynamicRouting
from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABEL_FORMS
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import ONE_HOT
from tests.helpers.capsnet import WEIGHTS
from tests.helpers.capsnet import bright_quarters
from tests.helpers.capsnet import compiled
from tests.helpers.capsnet import evaluate
from tests.helpers.capsnet import label_forms
from tests.helpers.capsnet import logs_by_hand
from tests.helpers.capsnet import numbers
from tests.helpers.capsnet import small
from tests.helpers.capsnet import weights_of
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import only_tensorflow

pytestmark = on_one_backend


@label_forms
def test_evaluate_equals_the_formula(labels, multi_hot):
    model = compiled(small(), **QUICK)
    logs = evaluate(model, IMAGES, labels, batch_size=7)
    expected = logs_by_hand(model, multi_hot)
    assert logs == pytest.approx(expected, rel=1e-5)
    # Integers and multi-hot labels decode the same.
    expected = logs_by_hand(model, multi_hot, decoded_labels=labels)
    assert logs == pytest.approx(expected, rel=1e-5)


@label_forms
def test_fits_labels_of_every_form(labels, multi_hot):
    model = compiled(small(), optimizer=keras.optimizers.SGD(0.0))
    history = model.fit(IMAGES, labels, batch_size=7, verbose=0).history
    logs = numbers({name: values[0] for name, values in history.items()})
    # With a learning rate of 0, these are the untrained network's.
    expected = logs_by_hand(model, multi_hot)
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
    labels, multi_hot = LABEL_FORMS[form]
    model = compiled(small(), optimizer=keras.optimizers.SGD(0.0), **QUICK)
    logs = model.train_on_batch(
        IMAGES,
        labels,
        class_weight={0: 0.5, 1: 2.0, 2: 3.0},
        return_dict=True,
    )
    weights = np.array([0.5, 2.0, 3.0])[LABELS]
    expected = logs_by_hand(model, multi_hot, weights)
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
    decoded = model.reconstruct(IMAGES, LABELS)
    expected = np.mean((scores - ONE_HOT) ** 2)
    expected += 0.03 * 64 * np.mean((decoded - IMAGES) ** 2)
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
    images, labels = bright_quarters()
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
    decoded = model.reconstruct(IMAGES, LABELS)
    assert decoded.dtype == "float32"
    np.testing.assert_allclose(
        decoded, exact.reconstruct(IMAGES, LABELS), atol=0.02
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
