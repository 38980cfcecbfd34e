"""The pictures of docs/routings: where each routing sends the same image.

    python docs/make_pictures.py              # all routings, a few minutes
    python docs/make_pictures.py em dynamic   # these alone

It trains the same small network with each routing on scikit-learn's digits,
scaled up to 16 x 16 pixels, and draws the coupling of the last iteration for
one test image.
"""

import argparse
import pathlib

import keras
import matplotlib
import numpy as np

from keras_capsules import MarginLoss
from keras_capsules import datasets
from keras_capsules import routing
from keras_capsules.models import CapsNet
from keras_capsules.utils import files

matplotlib.use("Agg")  # draws to files, with or without a screen
from matplotlib import colors
from matplotlib import pyplot as plt

FOLDER = pathlib.Path(__file__).with_name("routings")
SIZE = 16  # pixels, height and width
DIGIT = 4  # the first test image of this class is drawn
# Options with which two of them learn in a few epochs, see their pages.
ROUTINGS = {name: each() for name, each in routing.ROUTINGS.items()} | {
    "em": routing.EMRouting(cost_scale="normalized"),
    "variational_bayes": routing.VariationalBayesRouting(
        covariance_prior=100.0
    ),
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="routing")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER)
    arguments = parser.parse_args(argv)
    folder = files.prepare_folder(arguments.output)
    images, labels = datasets.load_arrays("digits", image_size=SIZE)
    test, answers = datasets.load_arrays("digits", "test", image_size=SIZE)
    image = test[np.argmax(answers == DIGIT)]
    for name in arguments.names or ROUTINGS:
        keras.utils.set_random_seed(0)
        model = make_model(ROUTINGS[name])
        model.fit(
            images, labels, batch_size=64, epochs=arguments.epochs, verbose=2
        )
        _, right = model.evaluate(test, answers, verbose=0)
        title = f"{name}: {right:.1%} of the test digits right"
        print(title, flush=True)
        best = model.predict(image[None], verbose=0).argmax()
        shares = coupling_of(model, image)
        with files.replacing(folder / f"{name}.png") as path:
            draw(image, f"read as {best}", shares, title, path)


def make_model(algorithm):
    """One network for all: 8 x 8 positions with 8 types of capsules each."""
    model = CapsNet(
        (SIZE, SIZE, 1),
        filters=64,
        num_primary_capsules=8,
        primary_strides=1,
        routing=algorithm,
        decoder_units=None,
    )
    adam = keras.optimizers.Adam(0.002)
    model.compile(adam, MarginLoss(), metrics=["accuracy"])
    return model


def coupling_of(model, image):
    """Shares of the classes `(rows, columns, classes)`, means over types."""
    layer = model.get_layer("class_capsules")
    below = keras.Model(model.input, layer.input)
    _, coupling = layer(below(image[None]), return_coupling=True)
    grid = layer.input.shape[1:4]
    shares = keras.ops.convert_to_numpy(coupling).reshape(*grid, -1)
    return shares.mean(axis=2)


def draw(image, caption, shares, title, path):
    """Draws the image and, for each class, its share at each position."""
    equal = 1 / shares.shape[-1]
    # Equal shares are white, others at least a little coloured.
    norm = colors.TwoSlopeNorm(
        equal,
        min(shares.min(), 0.99 * equal),
        max(shares.max(), 1.01 * equal),
    )
    figure = plt.figure(figsize=(8, 3), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3))
    axis = left.subplots()
    axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(caption, fontsize=9)
    axes = right.subplots(2, 5)
    for number, axis in enumerate(axes.flat):
        drawn = axis.imshow(shares[..., number], cmap="RdBu_r", norm=norm)
        axis.set_title(f"capsule of {number}", fontsize=9)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
    bar = right.colorbar(drawn, ax=axes, ticks=[norm.vmin, equal, norm.vmax])
    bar.ax.set_yticklabels(
        [f"{each:.3f}" for each in (norm.vmin, equal, norm.vmax)], fontsize=8
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
