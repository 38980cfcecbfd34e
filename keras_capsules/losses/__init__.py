"""Losses of class scores: lengths or activations of class capsules."""

from keras_capsules.losses.margin_loss import MarginLoss
from keras_capsules.losses.margin_loss import margin_loss
from keras_capsules.losses.spread_loss import SpreadLoss
from keras_capsules.losses.spread_loss import spread_loss

__all__ = ["MarginLoss", "SpreadLoss", "margin_loss", "spread_loss"]
