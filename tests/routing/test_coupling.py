"""Shares, sums and agreements of votes, compared with Keras and NumPy."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import full_coupling
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.routing.votes import total
from keras_capsules.routing.votes import weighted_sum
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import second_gradient

SHAPE = 2, 3, 5  # [b, j, i]
LOGITS = np.random.default_rng(0).normal(0, 2, SHAPE).astype("float32")
DIRECTION = np.random.default_rng(1).normal(size=SHAPE).astype("float32")

both = pytest.mark.parametrize("leaky", [False, True])


def of_keras(logits, leaky):
    if leaky:
        nowhere = ops.zeros((SHAPE[0], 1, SHAPE[2]))
        logits = ops.concatenate([logits, nowhere], axis=1)
    return ops.softmax(logits, axis=1)[:, : SHAPE[1]]


def losses(leaky):
    """Of ours and of Keras's, not linear in the shares."""
    return [
        lambda logits, form=form: ops.sum(ops.sin(form(logits, leaky)))
        for form in (softmax_over_outputs, of_keras)
    ]


@both
def test_equals_keras(leaky):
    ours = evaluate(lambda x: softmax_over_outputs(x, leaky), LOGITS)
    assert_close(ours, evaluate(lambda x: of_keras(x, leaky), LOGITS), 1e-6)


@both
def test_gradients_equal_those_of_keras(leaky):
    ours, theirs = (gradient(loss, LOGITS) for loss in losses(leaky))
    assert_close(ours, theirs, 1e-5)


@both
def test_second_derivatives_equal_those_of_keras(leaky):
    ours, theirs = (
        second_gradient(loss, LOGITS, DIRECTION) for loss in losses(leaky)
    )
    assert_close(ours, theirs, 1e-5)


@both
def test_huge_logits(leaky):
    shares = evaluate(lambda x: softmax_over_outputs(x, leaky), 1e30 * LOGITS)
    slopes = gradient(losses(leaky)[0], 1e30 * LOGITS)
    assert np.isfinite(shares).all() and np.isfinite(slopes).all()


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="others keep no graphs"
)
def test_a_result_is_freed_at_once():
    logits = ops.convert_to_tensor(LOGITS).requires_grad_()
    gc.disable()
    try:
        shares = softmax_over_outputs(logits)
        freed = weakref.ref(shares)
        del shares
        assert freed() is None
    finally:
        gc.enable()


def test_sums_and_agreements_of_votes():
    random = np.random.default_rng(2)
    votes = random.normal(size=(*SHAPE, 7)).astype("float32")
    targets = random.normal(size=(2, 3, 7)).astype("float32")
    assert_close(
        evaluate(weighted_sum, LOGITS, votes),
        np.einsum("bji,bjif->bjf", LOGITS, votes),
        1e-6,
    )
    assert_close(evaluate(total, votes), votes.sum(axis=2), 1e-6)
    assert_close(
        evaluate(agreement, votes, targets),
        np.einsum("bjif,bjf->bji", votes, targets),
        1e-6,
    )
    coupling = evaluate(lambda x: full_coupling(x, 0.25), votes)
    np.testing.assert_array_equal(coupling, np.full(SHAPE, 0.25, "float32"))
