"""How well the poses of trained networks tell what was done to an image.

    python benchmarks/equivariance.py

Measures the networks that `benchmarks/trainings.py` trained on MNIST with
`keras_capsules.inspection.equivariance`: how well a linear read-out of what a
network has computed tells by how much a test image was turned, shifted, scaled
or sheared. All networks are read out from 16 numbers, those without capsules
also from all features that their scores are computed of. The form of the
read-out was found on three of these networks, and its penalty is chosen within
the images that it is fitted on. Nothing else is chosen by these figures.

Reads the records and the weights, see `benchmarks/recorded.py`. Writes
`equivariance.json` to `benchmarks/results`, and a table between the marks of
`docs/inspection.md`.

    python benchmarks/equivariance.py --redraw       # writes the table only
"""

import evidence
import harness
import numpy as np
import recorded
from claims import spread
from claims import table as table_of

from keras_capsules import inspection
from keras_capsules.models import CapsuleNetwork

PAGE = harness.ROOT / "docs" / "inspection.md"
# Titles, by the part of the records' names, see `recorded.recorded`.
KINDS = {
    "": "All 60,000 images, 16 epochs",
    "-few1000": "10,000 images, 10 epochs",
}
NUMBERS = 16  # of a pose, and of the components of other features
TRANSFORMS = {
    "rotation": ("rotation, ±30°", np.linspace(-30, 30, 7)),
    "shift_x": ("shift x, ±4 pixels", np.linspace(-4, 4, 9)),
    "shift_y": ("shift y, ±4 pixels", np.linspace(-4, 4, 9)),
    "scale": ("scale, 0.7 to 1.3", np.linspace(0.7, 1.3, 7)),
    "shear": ("shear, ±0.3", np.linspace(-0.3, 0.3, 7)),
}


def main():
    arguments = recorded.parser_of(__doc__, PAGE, images=1000).parse_args()
    found = recorded.measured(
        "equivariance",
        lambda model, images, _: {"r2": measure(model, images)},
        arguments,
        kinds=KINDS,
    )
    text = arguments.page.read_text()
    text = evidence.put(text, "equivariance", "\n".join(table(found)).strip())
    harness.write_text(arguments.page, text)


def measure(model, images):
    """Figures of a network, by the number of features and transformation."""
    if isinstance(model, CapsuleNetwork):
        return {str(NUMBERS): read_out(model, images)}
    return {
        str(NUMBERS): read_out(model, images, NUMBERS),
        "all": read_out(model, images),
    }


def read_out(model, images, components=None):
    """R² and the ends of its interval, by transformation."""
    found = {}
    for name, (_, amounts) in TRANSFORMS.items():
        result = inspection.equivariance(
            model, images, name, amounts, components=components
        )
        found[name] = [round(each, 4) for each in result[:3]]
    return found


def table(found):
    """Lines of Markdown: a table for each kind of training."""
    titles = [title for title, _ in TRANSFORMS.values()]
    for kind, title in KINDS.items():
        rows = {}
        chosen = {
            name: run for name, run in found.items() if kind_of(name) == kind
        }
        for family, runs in recorded.of_families(chosen).items():
            for numbers in runs[0]["r2"]:
                rows[f"{family} | {len(runs)} | {numbers}"] = [
                    spread([run["r2"][numbers][name][0] for run in runs])
                    for name in TRANSFORMS
                ]
        if rows:
            yield f"{title}:\n"
            yield from table_of(["R² of", "seeds", "numbers", *titles], rows)


def kind_of(name):
    """The key of `KINDS` that the name of a record holds."""
    return next((each for each in KINDS if each and each in name), "")


if __name__ == "__main__":
    main()
