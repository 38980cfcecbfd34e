"""How small and quick trained networks become, and what that costs.

    python benchmarks/pruning.py --networks EfficientCapsNet
    python benchmarks/pruning.py           # those of a trained CapsNet, too
    python benchmarks/pruning.py --redraw  # writes the tables only

Removes primary capsules, which were ranked on 2,000 training images, or fixes
the coupling at its mean over them, and measures the error on the 10,000 test
images: as it is then; if it was changed, after fine-tuning on the training
images of the network; and of a LiteRT file with weights of 8 bits, which runs
in a process without this package. At last the files of all are timed in turn,
so that they can be compared. What is removed and the fine-tuning are not chosen
by these figures. Of a network with fixed coupling it writes the
`dependence` of `freeze_routing` as well, the largest one.

The networks are `EfficientCapsNet(weights="mnist")`, and the `CapsNet` in the
folder `--run`, which `benchmarks/trainings.py` trained: `mnist-capsnet-few1000`
on 1,000 images of each class, or `mnist-capsnet` on all. It is fine-tuned with
the random changes of images that it was trained with. Both are measured without
their decoder, which makes no scores.

Needs the environment of `make formats`. Writes `pruning.json`,
`pruning-capsnet.json` and `pruning-capsnet-longer.json` to
`benchmarks/results`, and the tables between the marks of `docs/formats.md`.
"""

import dataclasses
import json
import math
import pathlib
import statistics
import tempfile

import evidence
import formats
import harness
import readme


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, the files of its figures, and what is done to it.

    Args:
        file: Name of the results.
        mark: Mark of the table in the page.
        cases: List of dictionaries, arguments of `changed`.
        epochs: Integer, for how many to fine-tune what was changed.
    """

    file: str
    mark: str
    cases: list
    epochs: int = 2


NETWORKS = {
    "EfficientCapsNet": Network(
        "pruning",
        "pruned",
        [{"fraction": x} for x in (0.0, 0.25, 0.5, 0.625, 0.75)],
    ),
    "CapsNet": Network(
        "pruning-capsnet",
        "pruned CapsNet",
        [
            {},
            {"freeze": True},
            {"fraction": 0.95, "unit": "capsule"},
            {"fraction": 0.5},
            {"fraction": 0.875},
            {"fraction": 0.9375},
            {"fraction": 0.9375, "freeze": True},
        ],
    ),
    # Long enough to recover.
    "CapsNet-longer": Network(
        "pruning-capsnet-longer",
        "pruned CapsNet, longer",
        [{}, {"fraction": 0.90625}],
        epochs=10,
    ),
}
# The time of a network, and the file that is timed.
FILES = {
    "milliseconds": "int8.tflite",
    "milliseconds_float32": "float32.tflite",
}
ROUNDS = 5
HEADS = {
    "capsules": "primary capsules",
    "routing": "routing",
    "dependence": "dependence of the coupling",
    "parameters": "parameters",
    "error": "test error, %",
    "error_tuned": "fine-tuned",
    "kilobytes": "int8, KB",
    "error_int8": "int8, test error, %",
    "milliseconds": "int8, ms an image, one thread",
    "times": "times as quick",
    "milliseconds_float32": "float32, ms",
    "times_float32": "times as quick, float32",
}


def main():
    parser = harness.parser(__doc__, repeats=200)
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    add("--run", default="outputs/runs/mnist-capsnet-few1000-seed0")
    add("--runtimes", type=pathlib.Path, default=harness.ROOT / ".venv-formats")
    add("--page", type=pathlib.Path, default=formats.PAGE)
    options = parser.parse_args()
    text = options.page.read_text()
    if not options.redraw:
        formats.check_runtimes(options.runtimes)
        if any(map(is_trained_here, options.networks)):
            check_run(pathlib.Path(options.run))
    for name in options.networks:
        network = NETWORKS[name]
        if not options.redraw:
            rows = rows_of(name, network, options)
            harness.write(network.file, {"networks": rows}, options.output)
        rows = harness.read(network.file, options.output)["networks"]
        text = evidence.put(text, network.mark, table(rows))
    harness.write_text(options.page, text)


def rows_of(name, network, options):
    """The figures of each case of a network.

    Args:
        name: Key of `NETWORKS`.
        network: Its value.
        options: Of the command line.
    """
    runtimes, rows = str(options.runtimes.absolute()), []
    with tempfile.TemporaryDirectory() as scratch:
        folders = [f"{scratch}/{n}" for n in range(len(network.cases))]
        for case, folder in zip(network.cases, folders, strict=True):
            arguments = name, case, options.run, network.epochs
            row = harness.call(measure, *arguments, runtimes, folder)
            print(row, flush=True)
            rows.append(row)
        times = harness.call(times_of, folders, runtimes, options.repeats)
    for row, own in zip(rows, times, strict=True):
        row.update(own)
    return rows


def is_trained_here(network):
    """Whether a key of `NETWORKS` is of the network in the folder `--run`."""
    return network.startswith("CapsNet")


def check_run(run):
    """Raises if no `CapsNet` was trained here, before anything is measured."""
    if not (run / "record.json").exists():
        raise ValueError(
            "CapsNet is trained first. Expected the folder of a run, which "
            "`python benchmarks/trainings.py mnist-capsnet-few1000 --seeds 0 "
            f"--records outputs` makes. Received: run={str(run)!r}"
        )


def measure(network, case, run, epochs, runtimes, folder):
    """The figures but times of a network that is pruned, frozen or both.

    Args:
        network: Key of `NETWORKS`.
        case: Dictionary of arguments of `changed`.
        run: Path of the folder in which a `CapsNet` was trained.
        epochs: Integer, for how many to fine-tune what was changed.
        runtimes: Path of the environment that runs the file.
        folder: Path of a new folder, which gets the files of `FILES`.
    """
    import keras

    from keras_capsules import datasets
    from keras_capsules.export import export_litert
    from keras_capsules.models import EfficientCapsNet
    from keras_capsules.training import augmentation

    keras.utils.set_random_seed(0)
    images, labels = datasets.load_arrays("mnist", "train")
    test_images, test_labels = datasets.load_arrays("mnist", "test")
    if is_trained_here(network):
        model, chosen, change = of_run(pathlib.Path(run), labels)
        images, labels = images[chosen], labels[chosen]
    else:
        model = EfficientCapsNet(weights="mnist", decoder_units=None)
        change = augmentation.Augmentation()  # none
    model, dependence = changed(model, images[:2000], **case)

    def error():
        scores = model.predict(test_images, batch_size=250, verbose=0)
        return percent(scores, test_labels)

    errors = {"error": error()}
    if any(case.values()):
        fine_tune(model, images, labels, change, epochs)
        errors["error_tuned"] = error()
    int8, float32 = (pathlib.Path(folder, each) for each in FILES.values())
    export_litert(model, float32)
    export_litert(model, int8, "int8")
    scores, _ = formats.run(runtimes, "litert", int8, test_images)
    scores = scores.reshape(len(test_images), -1)
    return {
        "capsules": number_of(model),
        "routing": routing_of(model),
        **({} if dependence is None else {"dependence": dependence}),
        "parameters": model.count_params(),
        **errors,
        "kilobytes": round(formats.size_of(int8) / 1000),
        "error_int8": percent(scores, test_labels),
    }


def times_of(folders, runtimes, repeats):
    """Medians of the times of files, each of which runs `ROUNDS` times.

    Args:
        folders: Paths that hold the files of `FILES`.
        runtimes: Path of the environment that runs them.
        repeats: Integer, how often to measure the time in each run.

    Returns:
        For each folder, a dictionary with the keys of `FILES`.
    """
    from keras_capsules import datasets

    images, _ = datasets.load_arrays("mnist", "test")
    found = [{name: [] for name in FILES} for _ in folders]
    for _ in range(ROUNDS):
        for folder, times in zip(folders, found, strict=True):
            for name, file in FILES.items():
                _, medians = formats.run(
                    runtimes,
                    "litert",
                    pathlib.Path(folder, file),
                    images[:256],
                    threads=1,
                    repeats=repeats,
                )
                times[name].append(medians["1"])
    return [
        {name: round(statistics.median(each), 3) for name, each in own.items()}
        for own in found
    ]


def of_run(run, labels):
    """The `CapsNet` of a run, without its decoder.

    Returns:
        The network; which of the training images it was trained on; and the
        `Augmentation` that changed them.
    """
    import numpy as np

    from keras_capsules.models import CapsNet
    from keras_capsules.training import orders
    from keras_capsules.training.settings import Settings

    record = json.loads((run / "record.json").read_text())
    settings = Settings.from_record(record["settings"])
    whole = CapsNet(**settings.options)
    whole.load_weights(run / "model.weights.h5")
    model = CapsNet(**{**settings.options, "decoder_units": None})
    model.encoder.set_weights(whole.encoder.get_weights())
    if settings.per_class is None:
        chosen = np.arange(len(labels))
    else:
        # In the order of the data: the first ones are not all of one class.
        chosen = orders.few_of_each(labels, settings.per_class, settings.seed)
        chosen.sort()
    return model, chosen, settings.augmentation


def fine_tune(model, images, labels, change, epochs):
    """Trains a model on images that change, which the seed 0 chooses."""
    import keras
    import tensorflow as tf

    from keras_capsules import MarginLoss

    size = 64
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    data = data.shuffle(len(images), seed=0).repeat(epochs)
    data = data.batch(size, drop_remainder=True).enumerate()
    data = data.map(
        lambda step, each: (change(each[0], 0, step), each[1]),
        tf.data.AUTOTUNE,
    )
    rate = keras.optimizers.schedules.CosineDecay(5e-4, len(data))
    model.compile(keras.optimizers.Adam(rate), MarginLoss())
    model.fit(data.prefetch(1), shuffle=False, verbose=0)


def changed(model, images, fraction=0.0, unit="type", freeze=False):
    """A model with fewer primary capsules, or with fixed coupling.

    Returns:
        The model, and the largest dependence of the couplings that were fixed;
        `None` if there are none.
    """
    from keras_capsules import pruning

    dependence = None
    if fraction:
        model = pruning.prune(model, images, fraction, unit).model
    if freeze:
        model, layers, _ = pruning.freeze_routing(model, images, limit=1)
        dependence = max(each.dependence for each in layers if each.frozen)
        dependence = round(dependence, 4)
    return model, dependence


def number_of(model):
    """How many capsules the layer of class capsules takes."""
    shape = model.get_layer("class_capsules").input.shape
    return math.prod(shape[1:-1])


def routing_of(model):
    """The name of the routing of the class capsules."""
    from keras_capsules.routing import ROUTINGS

    kind = type(model.get_layer("class_capsules").routing)
    names = {each: name for name, each in ROUTINGS.items()}
    return names.get(kind, "fixed").replace("_", " ")


def percent(scores, labels):
    """How many of a hundred images are taken for another class."""
    wrong = (scores.argmax(axis=-1) != labels).mean()
    return round(float(100 * wrong), 2)


def table(rows):
    """A row for each network, in Markdown."""
    rows = [dict(row) for row in rows]
    rows[0].pop("error_tuned", None)  # the whole network, which is not tuned
    for name in ("", "_float32"):
        time = f"milliseconds{name}"
        for row in rows:
            if time in row:
                row[f"times{name}"] = round(rows[0][time] / row[time], 1)
    # Earlier results do not say how a network routes, and most networks have
    # no fixed coupling.
    heads = [key for key in HEADS if any(key in row for row in rows)]
    cells = [[readable(row.get(key, "–")) for key in heads] for row in rows]
    return readme.in_markdown([[HEADS[key] for key in heads], *cells])


def readable(value):
    return value if isinstance(value, str) else f"{value:,}"


if __name__ == "__main__":
    main()
