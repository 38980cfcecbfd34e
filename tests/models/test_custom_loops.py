"""Steps of training that are not those of `fit`."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import MarginLoss
from keras_capsules.models import CapsuleNetwork
from tests.helpers.networks import SHAPE
from tests.helpers.networks import images
from tests.helpers.networks import labels
from tests.helpers.networks import make
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import numpy


def step_in_tensorflow(model, x, y):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        scores = model(x, training=True)
        loss = model.compute_loss(x, y, scores)
    gradients = tape.gradient(loss, model.trainable_variables)
    model.optimizer.apply(gradients, model.trainable_variables)


def step_in_jax(model, x, y):
    import jax

    def loss_of(trainable, others, metrics):
        scores, others = model.stateless_call(
            trainable, others, x, training=True
        )
        loss, (_, others, metrics) = model.stateless_compute_loss(
            trainable, others, metrics, x=x, y=y, y_pred=scores, training=True
        )
        return loss, (others, metrics)

    @jax.jit
    def step(trainable, others, metrics, optimizer):
        gradients, (others, _) = jax.grad(loss_of, has_aux=True)(
            trainable, others, metrics
        )
        trainable, optimizer = model.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        return trainable, others, optimizer

    kinds = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
    )
    state = [[each.value for each in variables] for variables in kinds]
    metrics = [each.value for each in model.metrics_variables]
    results = step(state[0], state[1], metrics, state[2])
    for variables, values in zip(kinds, results, strict=True):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def step_in_torch(model, x, y):
    import torch

    model.zero_grad()
    loss = model.compute_loss(x, y, model(x, training=True))
    loss.backward()
    variables = model.trainable_variables
    with torch.no_grad():
        model.optimizer.apply([v.value.grad for v in variables], variables)


STEP = {
    "tensorflow": step_in_tensorflow,
    "jax": step_in_jax,
    "torch": step_in_torch,
}[BACKEND]


def trainable(model):
    """Compiled and built."""
    optimizer = keras.optimizers.SGD(0.5)
    model.compile(optimizer, MarginLoss(), **QUICK)
    model.optimizer.build(model.trainable_variables)
    return model


def test_a_custom_loop_trains_as_fit_does():
    """Weights, and the averages of batch normalization."""
    options = {"reconstruction_weight": 0.05}
    model = trainable(make("EfficientCapsNet", **options))
    twin = trainable(make("EfficientCapsNet", **options))
    before = [numpy(each) for each in model.weights]
    x, y = images(), labels()
    model.train_on_batch(x, y)
    STEP(twin, *map(ops.convert_to_tensor, (x, y)))
    moved = set()
    for old, one, other in zip(
        before, model.weights, twin.weights, strict=True
    ):
        np.testing.assert_allclose(
            numpy(other), numpy(one), rtol=1e-5, atol=1e-7, err_msg=one.path
        )
        if not np.array_equal(old, numpy(one)):
            moved.add(one.name)
    assert {"kernel", "gamma", "moving_mean", "moving_variance"} <= moved


@pytest.mark.skipif(BACKEND == "jax", reason="its states are handed on")
def test_computing_a_loss_draws_no_random_numbers():
    inner = make("CapsNet")
    inputs = keras.Input(SHAPE, name="images")
    dropped = keras.layers.Dropout(0.5, seed=1, name="dropout")(inputs)
    model = trainable(
        CapsuleNetwork(inputs, inner.encoder(dropped), inner.decoder)
    )
    x, y = map(ops.convert_to_tensor, (images(), labels()))
    state = model.get_layer("dropout").seed_generator.state
    scores = model(x, training=True)
    after_call = numpy(state)
    loss = model.compute_loss(x, y, scores)
    assert np.isfinite(numpy(loss))
    np.testing.assert_array_equal(numpy(state), after_call)
