"""Class capsules on a backbone of `keras.applications`.

    python examples/own_backbone.py                     # embedded digits
    python examples/own_backbone.py --dataset cifar10 --weights imagenet

`CapsuleNetwork` adds to any functional model that ends in capsules: a decoder
with its loss, `encode`, `decode`, `reconstruct`, saving and export. The
backbone is the first half of an EfficientNet, whose map of an image of 32 x 32
pixels has 2 x 2 positions. Images of other sizes are resized.

Expected result on two CPU cores, without pretrained weights: 98 to 99 % of
the embedded test digits are right, after less than two minutes.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

from keras_capsules import CapsuleLayer
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import datasets
from keras_capsules import export_saved_model
from keras_capsules.models import CapsuleNetwork
from keras_capsules.utils import files

DATASETS = ["digits", "mnist", "fashion_mnist", "cifar10"]
SHAPE = (32, 32, 3)
CUT = "block5a_expand_activation"  # the end of the first half


def main(argv=None):
    arguments = parse(argv)
    keras.utils.set_random_seed(arguments.seed)
    folder = files.prepare_folder(arguments.output)
    # The validation split is the last tenth of the training images.
    train, validation, test = (
        datasets.load(arguments.dataset, split)
        for split in ("train[:90%]", "validation", "test")
    )
    train, validation, test = (
        split.map(to_shape).batch(arguments.batch_size).take(arguments.steps)
        for split in (train.shuffle(5000), validation, test)
    )
    number = datasets.info(arguments.dataset).num_classes
    model = make(number, arguments.weights)
    model.compile("adam", MarginLoss(), metrics=["accuracy"])
    model.summary()
    model.fit(
        train,
        epochs=arguments.epochs,
        validation_data=validation,
        shuffle=False,  # `train` does it
    )
    results = model.evaluate(test, return_dict=True, verbose=0)
    print(f"Test accuracy: {results['accuracy']:.1%}")

    with files.replacing(folder / "network.keras") as path:
        model.save(path)
    loaded = keras.saving.load_model(folder / "network.keras")
    images, _ = next(iter(test))
    scores = model.predict(images, verbose=0)
    difference = np.abs(loaded.predict(images, verbose=0) - scores).max()
    print(f"Saved and loaded: scores differ by {difference:.0e}.")
    if keras.backend.backend() != "torch":
        export_saved_model(loaded, folder / "saved_model", overwrite=True)
        print(f"Exported to {folder / 'saved_model'}.")


def make(number, weights=None):
    """A network for images of `SHAPE`, pixels between 0 and 1."""
    whole = keras.applications.EfficientNetV2B0(
        include_top=False,
        weights=weights,
        input_shape=SHAPE,
        include_preprocessing=False,
    )
    backbone = keras.Model(
        whole.input, whole.get_layer(CUT).output, name="backbone"
    )
    images = keras.Input(SHAPE, name="images")
    x = keras.layers.Rescaling(2.0, offset=-1.0, name="rescaling")(images)
    x = PrimaryCapsules(32, 8, kernel_size=1, name="primary_capsules")(
        backbone(x)
    )
    capsules = CapsuleLayer(number, 16, name="class_capsules")(x)
    decoder = keras.Sequential(
        [
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(256, activation="relu", name="hidden"),
            keras.layers.Dense(
                int(np.prod(SHAPE)), activation="sigmoid", name="pixels"
            ),
            keras.layers.Reshape(SHAPE, name="image"),
        ],
        name="decoder",
    )
    return CapsuleNetwork(images, capsules, decoder)


def to_shape(image, label):
    """An image in the size and with the channels of the backbone."""
    image = tf.image.resize(image, SHAPE[:2])
    return tf.broadcast_to(image, SHAPE), label


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", choices=DATASETS, default="digits")
    parser.add_argument(
        "--weights", choices=["imagenet"], help="pretrained (downloaded)"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=-1, help="batches of each split (-1: all)"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="outputs/own_backbone")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
