"""Smaller and faster networks, made from trained ones."""

from keras_capsules.pruning.frozen import Frozen as Frozen
from keras_capsules.pruning.frozen import FrozenLayer as FrozenLayer
from keras_capsules.pruning.frozen import freeze_routing as freeze_routing
from keras_capsules.pruning.pruned import Pruned as Pruned
from keras_capsules.pruning.pruned import prune as prune
