"""How small a trained network becomes, and what that costs.

    python benchmarks/pruning.py
    python benchmarks/pruning.py --redraw            # writes the table only

Removes primary capsules of `EfficientCapsNet(weights="mnist")`, which were
ranked on 2,000 training images, and measures the error on the 10,000 test
images: as it is then, after fine-tuning on the 60,000 training images, and of
a LiteRT file with weights of 8 bits, which runs in a process without this
package. The fractions and the fine-tuning are not chosen by these figures.

Needs the environment of `make formats`. Writes `pruning.json` to
`benchmarks/results`, and the table between the marks of `docs/formats.md`.
"""

import pathlib
import tempfile

import evidence
import formats
import harness
import readme

FRACTIONS = [0.0, 0.25, 0.5, 0.625, 0.75]
HEADS = {
    "capsules": "primary capsules",
    "parameters": "parameters",
    "error": "test error, %",
    "error_tuned": "fine-tuned",
    "kilobytes": "int8, KB",
    "error_int8": "int8, test error, %",
    "milliseconds": "int8, ms an image, one thread",
}


def main():
    parser = harness.parser(__doc__, epochs=2, repeats=200)
    add = parser.add_argument
    add("--runtimes", type=pathlib.Path, default=harness.ROOT / ".venv-formats")
    add("--page", type=pathlib.Path, default=formats.PAGE)
    options = parser.parse_args()
    if not options.redraw:
        formats.check_runtimes(options.runtimes)
        rows = []
        for fraction in FRACTIONS:
            row = harness.call(
                measure,
                fraction,
                options.epochs,
                str(options.runtimes.absolute()),
                options.repeats,
            )
            print(row, flush=True)
            rows.append(row)
        harness.write("pruning", {"networks": rows}, options.output)
    rows = harness.read("pruning", options.output)["networks"]
    text = evidence.put(options.page.read_text(), "pruned", table(rows))
    harness.write_text(options.page, text)


def measure(fraction, epochs, runtimes, repeats):
    """The figures of the network without a part of its capsules.

    Args:
        fraction: Number from 0 to 1, the part of the capsules to remove.
        epochs: Integer, for how many to fine-tune.
        runtimes: Path of the environment that runs the file.
        repeats: Integer, how often to measure the time.
    """
    import keras

    from keras_capsules import MarginLoss
    from keras_capsules import datasets
    from keras_capsules import pruning
    from keras_capsules.export import export_litert
    from keras_capsules.models import EfficientCapsNet

    keras.utils.set_random_seed(0)
    images, labels = datasets.load_arrays("mnist", "train")
    test_images, test_labels = datasets.load_arrays("mnist", "test")
    model = EfficientCapsNet(weights="mnist", decoder_units=None)
    if fraction:
        model = pruning.prune(model, images[:2000], fraction).model

    def error():
        scores = model.predict(test_images, batch_size=250, verbose=0)
        return percent(scores, test_labels)

    before = error()
    after = before
    if fraction:
        steps = epochs * len(images) // 64
        rate = keras.optimizers.schedules.CosineDecay(5e-4, steps)
        model.compile(keras.optimizers.Adam(rate), MarginLoss())
        model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
        after = error()
    with tempfile.TemporaryDirectory() as folder:
        path = export_litert(model, pathlib.Path(folder, "m.tflite"), "int8")
        scores, _ = formats.run(runtimes, "litert", path, test_images)
        _, times = formats.run(
            runtimes, "litert", path, test_images, threads=1, repeats=repeats
        )
        size = formats.size_of(path)
    scores = scores.reshape(len(test_images), -1)
    return {
        "capsules": model.get_layer("primary_capsules").num_capsules,
        "parameters": model.count_params(),
        "error": before,
        "error_tuned": after,
        "kilobytes": round(size / 1000),
        "error_int8": percent(scores, test_labels),
        "milliseconds": times["1"],
    }


def percent(scores, labels):
    """How many of a hundred images are taken for another class."""
    wrong = (scores.argmax(axis=-1) != labels).mean()
    return round(float(100 * wrong), 2)


def table(rows):
    """A row for each network, in Markdown."""
    cells = [[f"{row[key]:,}" for key in HEADS] for row in rows]
    return readme.in_markdown([[*HEADS.values()], *cells])


if __name__ == "__main__":
    main()
