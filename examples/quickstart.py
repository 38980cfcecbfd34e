"""A capsule network from first to last: train, look inside, export, reload.

    python examples/quickstart.py                   # embedded digits, a minute
    python examples/quickstart.py --dataset mnist   # the paper's, much longer

It trains a CapsNet (on larger images than the digits, with random shifts of up
to four pixels), measures it on the test split once, at the end, and writes to
`outputs/<dataset>/`:

    reconstructions.png   test images, and the images decoded from the 16
                          numbers of the winning capsule
    capsnet.keras         the model, to train on or to look into
    saved_model/          the model for serving, which needs TensorFlow alone
    results.json          the figures, with versions and settings

Expected result on two CPU cores: about 99 % on the embedded digits, in a minute
or two. Guessing is right for 10 %.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import matplotlib
import numpy as np
import tensorflow as tf

import keras_capsules
from keras_capsules import datasets
from keras_capsules.utils import files

matplotlib.use("Agg")  # draws to files, with or without a screen
from matplotlib import pyplot as plt


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained on a data set."""

    epochs: int
    batch_size: int
    learning_rate: float
    shift: int  # by how many pixels training images are moved at most
    # Arguments of the network that are not the paper's.
    options: dict = dataclasses.field(default_factory=dict)


# Chosen on the validation split. The squared error is summed over the pixels,
# so that each of the digits' 64 pixels needs more weight.
RECIPES = {
    "digits": Recipe(
        epochs=30,
        batch_size=32,
        learning_rate=3e-3,
        shift=0,
        options={
            "filters": 128,
            "num_primary_capsules": 16,
            "reconstruction_weight": 0.006,
        },
    ),
    "mnist": Recipe(5, 64, 2e-3, shift=2),
    "fashion_mnist": Recipe(5, 64, 2e-3, shift=2),
    "cifar10": Recipe(
        10, 64, 1e-3, shift=4, options={"num_primary_capsules": 64}
    ),
    "smallnorb": Recipe(10, 64, 1e-3, shift=2),
}
# Pixels of the longer side; larger images are scaled down to this.
LARGEST_IMAGE = 32


def main(argv=None):
    arguments = parse(argv)
    keras.utils.set_random_seed(arguments.seed)
    keras.config.set_dtype_policy(arguments.dtype)
    # What an earlier run wrote stays until the new files are complete.
    folder = files.prepare_folder(
        pathlib.Path(arguments.output) / arguments.dataset
    )
    started = time.monotonic()

    recipe = RECIPES[arguments.dataset]
    epochs, batch_size = recipe.epochs, recipe.batch_size
    if arguments.epochs is not None:
        epochs = arguments.epochs
    if arguments.batch_size is not None:
        batch_size = arguments.batch_size
    train, validation, test = load(arguments, batch_size, recipe.shift)
    image_shape = test.element_spec[0].shape[1:]
    classes = datasets.info(arguments.dataset).class_names

    model = keras_capsules.models.CapsNet(
        image_shape, len(classes), **recipe.options
    )
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                recipe.learning_rate, epochs * len(train)
            )
        ),
        loss=keras_capsules.MarginLoss(),
        metrics=["accuracy"],
    )
    model.summary()
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # the data set does that
    )
    results = model.evaluate(test, return_dict=True)

    images, labels = next(test.unbatch().batch(10).as_numpy_iterator())
    draw(model, images, labels, classes, folder / "reconstructions.png")
    with files.replacing(folder / "capsnet.keras") as path:
        model.save(path)
    keras_capsules.export_saved_model(
        model, folder / "saved_model", overwrite=True
    )
    # In 16 bits two compilers round differently.
    tolerance = 1e-5 if model.compute_dtype == "float32" else 1e-2
    difference = reload_elsewhere(
        folder, images, model.predict(images), tolerance
    )

    results = {
        "dataset": arguments.dataset,
        "test_accuracy": round(results["accuracy"], 4),
        "test_reconstruction_error": results["reconstruction_error"],
        "reloaded_difference": difference,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        "seconds": round(time.monotonic() - started, 1),
        "keras_capsules": keras_capsules.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }
    with files.replacing(folder / "results.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    summarize(results, folder)


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Trains, looks into, exports and reloads a CapsNet."
    )
    parser.add_argument("--dataset", choices=RECIPES, default="digits")
    parser.add_argument("--epochs", type=positive, help="default: by data set")
    parser.add_argument(
        "--batch-size", type=positive, help="default: by data set"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--dtype",
        default="float32",
        help="Keras dtype policy; mixed_bfloat16 is faster on GPUs and on "
        "processors with instructions for it, and far slower on others",
    )
    parser.add_argument("--data-dir", help="where TensorFlow Datasets looks")
    parser.add_argument("--output", default="outputs")
    return parser.parse_args(argv)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def load(arguments, batch_size, shift):
    """Batches for training (nine tenths of the split), validation and test."""
    height, width, _ = datasets.info(arguments.dataset).image_shape
    scale = min(1.0, LARGEST_IMAGE / max(height, width))
    options = {
        "image_size": (round(height * scale), round(width * scale)),
        "data_dir": arguments.data_dir,
    }

    def shifted(image, label):
        padded = tf.pad(image, [[shift, shift], [shift, shift], [0, 0]])
        return tf.image.random_crop(padded, image.shape), label

    train = datasets.load(arguments.dataset, "train[:90%]", **options)
    validation = datasets.load(arguments.dataset, "validation", **options)
    test = datasets.load(arguments.dataset, "test", **options)
    train = train.cache().shuffle(len(train), seed=arguments.seed).map(shifted)
    return tuple(
        split.batch(batch_size).prefetch(tf.data.AUTOTUNE)
        for split in (train, validation.cache(), test)
    )


def draw(model, images, labels, classes, path):
    """Draws images, above the images decoded from their capsules."""
    scores = model.predict(images, verbose=0)
    decoded = model.reconstruct(images)
    figure, axes = plt.subplots(
        2,
        len(images),
        figsize=(1.1 * len(images), 3),
        layout="constrained",
        squeeze=False,
    )
    for column, label in enumerate(labels):
        best = scores[column].argmax()
        titles = (
            classes[label],
            f"{classes[best]}\n{scores[column, best]:.2f}",
        )
        for axis, image, title in zip(
            axes[:, column],
            (images[column], decoded[column]),
            titles,
            strict=True,
        ):
            # One channel is drawn grey; of two, the first is enough to see.
            image = image if image.shape[-1] == 3 else image[..., 0]
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("test image")
    axes[1, 0].set_ylabel("decoded")
    with files.replacing(path) as fresh:
        figure.savefig(fresh, dpi=150)
    plt.close(figure)


def reload_elsewhere(folder, images, expected, tolerance):
    """Serves the SavedModel in a process that imports TensorFlow only.

    Returns:
        The largest difference between its scores and the model's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, made = (
            pathlib.Path(scratch, name) for name in ("images.npy", "scores.npy")
        )
        np.save(given, images)
        script = pathlib.Path(__file__).with_name("serve.py")
        arguments = [script, folder / "saved_model", given, made]
        subprocess.run([sys.executable, *map(str, arguments)], check=True)
        difference = float(np.abs(np.load(made) - expected).max())
    if difference > tolerance:
        raise RuntimeError(f"The SavedModel's scores differ by {difference}.")
    return difference


def summarize(results, folder):
    print(
        f"""
{results["dataset"]}: {results["test_accuracy"]:.2%} of the test images right, \
in {results["seconds"]:.0f} s
  {folder / "reconstructions.png"}: test images and their reconstructions
  {folder / "capsnet.keras"}: the model, for keras.saving.load_model
  {folder / "saved_model"}: the model for serving; in a process without this
    package its scores were the same, to {results["reloaded_difference"]:.0e}
  {folder / "results.json"}: these figures"""
    )


if __name__ == "__main__":
    main()
