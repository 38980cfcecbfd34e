"""Serves an exported model, with TensorFlow and nothing else.

python examples/serve.py SAVED_MODEL IMAGES.npy SCORES.npy
"""

import sys

import numpy as np
import tensorflow as tf

path, images, scores = sys.argv[1:]
model = tf.saved_model.load(path)
np.save(scores, model.serve(np.load(images)).numpy())
if "keras_capsules" in sys.modules:
    raise RuntimeError("Serving imported keras_capsules, which it must not.")
