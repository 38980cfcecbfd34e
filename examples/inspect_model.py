"""Pictures of what a trained network has learned.

    python examples/inspect_model.py
    python examples/inspect_model.py --output my_pictures

Takes the `EfficientCapsNet` whose weights for MNIST come with the package, and
digits that it has not seen. Writes into `outputs/inspect_model`:

- `reconstructions.png`: digits, and what the decoder makes of their capsules
- `perturbations.png`: one digit, while one number of its pose is changed
- `interpolations.png`: the ways from one digit to another
- `supports.png`: where in the image the support of the class comes from
- `parse_tree.png`: the capsules that support a class, and what they see
- `health.png`: how active the capsules of each layer are
- `equivariance.png`: how well a pose says how far a digit was turned or moved
- `training_curves.png`: how it was trained
- `confusion.png`: which digits it takes for which
"""

import argparse
import pathlib

import numpy as np

from keras_capsules import datasets
from keras_capsules import inspection
from keras_capsules import plots
from keras_capsules.models import EfficientCapsNet
from keras_capsules.models import pretrained
from keras_capsules.utils import files

MOVES = {
    "rotation": np.linspace(-30, 30, 7),  # degrees
    "shift_x": np.linspace(-3, 3, 7),  # pixels
    "shift_y": np.linspace(-3, 3, 7),
    "scale": np.linspace(0.8, 1.2, 7),
    "shear": np.linspace(-0.3, 0.3, 7),
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="outputs/inspect_model")
    parser.add_argument("--images", type=int, default=2000, help="at least 300")
    arguments = parser.parse_args(argv)
    if arguments.images < 300:
        raise ValueError(
            "The transformations need images of each class. Expected at least "
            f"300. Received: images={arguments.images}"
        )
    folder = files.prepare_folder(pathlib.Path(arguments.output))
    model = EfficientCapsNet(weights="mnist")
    images, labels = datasets.load_arrays("mnist", "test")
    images, labels = images[: arguments.images], labels[: arguments.images]
    for name, figure in figures(model, images, labels):
        with files.replacing(folder / f"{name}.png") as path:
            figure.savefig(path, dpi=120)
        print(folder / f"{name}.png", flush=True)


def figures(model, images, labels):
    """Pairs of the name of a picture and its figure."""
    # The first image of each class.
    firsts = [int(np.argmax(labels == each)) for each in range(10)]
    digits, names = images[firsts], labels[firsts]
    yield (
        "reconstructions",
        plots.reconstructions(digits, model.reconstruct(digits), names),
    )
    bent = inspection.perturb(model, digits[2:3])
    yield "perturbations", plots.perturbations(bent[0])
    ways = inspection.interpolate(model, digits[:4], digits[5:9])
    titles = [f"{a} to {b}" for a, b in zip(names[:4], names[5:9], strict=True)]
    yield "interpolations", plots.interpolations(ways, titles)
    maps = inspection.support_map(model, digits)
    yield "supports", plots.supports(digits, maps, names)
    (tree,) = inspection.parse_tree(model, digits[4])
    yield "parse_tree", plots.parse_tree(tree, digits[4])
    health = inspection.capsule_health(model, images, labels)
    for problem in health.problems:
        print(f"{problem.layer}: {problem.message} {problem.remedy}")
    yield "health", plots.health(health)
    found = {
        move: inspection.equivariance(model, images[:300], move, amounts)
        for move, amounts in MOVES.items()
    }
    yield (
        "equivariance",
        plots.equivariance({"winning capsule of EfficientCapsNet": found}),
    )
    yield "training_curves", plots.training_curves(curves(record()))
    scores = model.predict(images, verbose=0)
    yield "confusion", plots.confusion(labels, scores)


def record():
    """The record of the training of the network."""
    wanted = "EfficientCapsNet", "mnist"
    (card,) = (
        card
        for card in pretrained.cards()
        if (card.network, card.name) == wanted
    )
    return card.record


def curves(record):
    """The figures of all epochs of a record, each as a list."""
    epochs = record["curve"]
    return {key: [each[key] for each in epochs] for key in epochs[0]}


if __name__ == "__main__":
    main()
