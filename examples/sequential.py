"""The README's first example: capsule layers in a Sequential model."""

import keras

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import datasets

images, labels = datasets.load_arrays("digits")  # 1,437 images of 8 x 8
model = keras.Sequential()
model.add(keras.Input((8, 8, 1)))
model.add(keras.layers.Conv2D(64, 3, activation="relu"))
# 16 capsules of 8 numbers at each position
model.add(PrimaryCapsules(16, 8, kernel_size=3, strides=2))
# one capsule of 16 numbers for each class
model.add(CapsuleLayer(10, 16, routing="dynamic"))
model.add(CapsuleLength())  # lengths: the scores of the classes
model.compile(optimizer="adam", loss=MarginLoss(), metrics=["accuracy"])
model.fit(images, labels, epochs=10)
print(model.evaluate(*datasets.load_arrays("digits", "test")))
model.export("outputs/sequential")  # a SavedModel
