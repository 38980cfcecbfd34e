"""Serves an exported model, with TensorFlow and nothing else.

python examples/serve.py SAVED_MODEL IMAGES.npy SCORES.npy
"""

import os
import sys

import numpy as np
import tensorflow as tf

path, images, scores = sys.argv[1:]
model = tf.saved_model.load(path)
# A file is whole or not there.
np.save(f"{scores}.partial.npy", model.serve(np.load(images)).numpy())
os.replace(f"{scores}.partial.npy", scores)
if "keras_capsules" in sys.modules:
    raise RuntimeError("Serving imported keras_capsules, which it must not.")
