"""Sharing out among parents, against the softmax of Keras."""

import gc
import weakref

import keras
import numpy as np
import pytest
from gradients import assert_close
from gradients import evaluate
from gradients import gradient
from gradients import second_gradient
from keras import ops

from keras_capsules.routing._coupling import softmax_over_parents

SHAPE = 3, 2, 5
LOGITS = np.random.default_rng(0).normal(0, 2, SHAPE).astype("float32")
DIRECTION = np.random.default_rng(1).normal(size=SHAPE).astype("float32")

both = pytest.mark.parametrize("leaky", [False, True])


def of_keras(logits, leaky):
    if leaky:
        nowhere = ops.zeros((1, *SHAPE[1:]))
        logits = ops.concatenate([logits, nowhere], axis=0)
    return ops.softmax(logits, axis=0)[: SHAPE[0]]


def losses(leaky):
    """Of ours and of Keras's, not linear in the shares."""
    return [
        lambda logits, form=form: ops.sum(ops.sin(form(logits, leaky)))
        for form in (softmax_over_parents, of_keras)
    ]


@both
def test_equals_keras(leaky):
    ours = evaluate(lambda x: softmax_over_parents(x, leaky), LOGITS)
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
    shares = evaluate(lambda x: softmax_over_parents(x, leaky), 1e30 * LOGITS)
    slopes = gradient(losses(leaky)[0], 1e30 * LOGITS)
    assert np.isfinite(shares).all() and np.isfinite(slopes).all()


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="others keep no graphs"
)
def test_a_result_is_freed_at_once():
    logits = ops.convert_to_tensor(LOGITS).requires_grad_()
    gc.disable()
    try:
        shares = softmax_over_parents(logits)
        freed = weakref.ref(shares)
        del shares
        assert freed() is None
    finally:
        gc.enable()
