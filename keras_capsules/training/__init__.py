"""Trains networks by name, and uses what was trained: the command line's work.

It is not imported with `keras_capsules`, because it needs TensorFlow for its
data, with every backend.
"""

from keras_capsules.training.augmentation import Augmentation as Augmentation
from keras_capsules.training.results import confusion as confusion
from keras_capsules.training.results import export as export
from keras_capsules.training.results import plot_confusion as plot_confusion
from keras_capsules.training.running import train as train
from keras_capsules.training.settings import Settings as Settings
from keras_capsules.training.trained import Evaluation as Evaluation
from keras_capsules.training.trained import Trained as Trained
from keras_capsules.training.trained import load as load
