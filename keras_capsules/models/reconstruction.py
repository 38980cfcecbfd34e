"""The loss of reconstructions."""

import keras
from keras import ops

from keras_capsules.types import Tensor


class SquaredError(keras.losses.Loss):
    """The squared error of each example, summed over its pixels.

    As a loss of Keras it is scaled as others are, also where several devices
    share a batch.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        axes = tuple(range(1, len(y_pred.shape)))
        return ops.sum(ops.square(y_pred - y_true), axis=axes)
