"""Training callbacks."""

from keras_capsules.callbacks.capsule_health import CapsuleHealth
from keras_capsules.callbacks.capsule_health import CapsuleHealthWarning
from keras_capsules.callbacks.spread_margin_schedule import SpreadMarginSchedule
from keras_capsules.callbacks.spread_margin_schedule import spread_margin

__all__ = [
    "CapsuleHealth",
    "CapsuleHealthWarning",
    "SpreadMarginSchedule",
    "spread_margin",
]
