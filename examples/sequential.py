"""The README's first example: capsule layers in a Sequential model."""

import keras

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import datasets

images, labels = next(iter(datasets.load("digits").batch(2000)))
model = keras.Sequential()
model.add(keras.Input((8, 8, 1)))
model.add(keras.layers.Conv2D(64, 3, activation="relu"))
model.add(PrimaryCapsules(16, 8, kernel_size=3, strides=2))
model.add(CapsuleLayer(10, 16, routing="dynamic"))
model.add(CapsuleLength())
model.compile(optimizer="adam", loss=MarginLoss(), metrics=["accuracy"])
model.fit(images, labels, epochs=10)
model.export("outputs/sequential")  # a SavedModel
