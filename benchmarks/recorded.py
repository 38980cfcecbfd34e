"""Networks that `benchmarks/trainings.py` trained on MNIST, to be measured.

Weights are kept beside the records, without decoders and with kernels in 16
bits, if they are small. The networks can then be measured again without
training. Figures of networks whose weights are too large, and are not in
`--runs` any more, stay as they were.
"""

import collections
import hashlib
import json
import pathlib

import evidence
import harness
import numpy as np
import trainings
from weights import assign
from weights import compact

from keras_capsules import datasets
from keras_capsules.training import networks as by_name
from keras_capsules.training import tasks
from keras_capsules.utils import files

FAMILIES = evidence.FAMILIES
LARGEST = 2_000_000  # parameters of a network whose weights are kept


def parser_of(description, page, images, networks=tuple(FAMILIES)):
    """A parser of the options of a benchmark of trained networks.

    Args:
        description: Of the benchmark.
        page: Path of the page with its tables.
        images: Integer, how many test images by default.
        networks: Keys of `FAMILIES`, those that it measures.
    """
    parser = harness.parser(description, images=images, data_dir="")
    add = parser.add_argument
    add("--runs", type=pathlib.Path, default=pathlib.Path("outputs/runs"))
    add("--records", type=pathlib.Path, default=evidence.RUNS)
    add("--page", type=pathlib.Path, default=page)
    add(
        "--networks",
        nargs="+",
        choices=networks,
        help="measure these alone, and keep what is known of others; by "
        "default, all of the benchmark",
    )
    return parser


def measured(
    benchmark, measure, arguments, kinds=("",), networks=tuple(FAMILIES)
):
    """The results of a benchmark, which measures all networks unless redrawn.

    Args:
        benchmark: Its name, that of the file of results.
        measure: Function of a model, test images and their labels. It returns
            a dictionary.
        arguments: Those of a `parser_of`.
        kinds: The kinds of training on MNIST, see `recorded`.
        networks: Keys of `FAMILIES`.

    Returns:
        Dictionary of what `measure` returns and of the networks' records, by
        the name of the record.
    """
    if not arguments.redraw:
        images, labels = datasets.load_arrays(
            "mnist", "test", data_dir=arguments.data_dir or None
        )
        images, labels = images[: arguments.images], labels[: arguments.images]
        earlier = {}
        if (arguments.output / f"{benchmark}.json").exists():
            earlier = harness.read(benchmark, arguments.output)["networks"]
        found, chosen = {}, arguments.networks or networks
        for name, record in recorded(
            arguments.records, kinds, networks
        ).items():
            print(name, flush=True)
            if record["network"] not in chosen or is_gone(
                name, record, arguments
            ):
                found[name] = earlier_of(earlier, name, record)
                continue
            found[name] = {
                "measured_by": harness.provenance.commit(),
                "network": record["network"],
                "parameters": record["parameters"],
                "seed": record["seed"],
                "commits": record["commits"],
                "record": digest(record),
                **measure(load(name, record, arguments), images, labels),
            }
        harness.write(benchmark, {"networks": found}, arguments.output)
    return harness.read(benchmark, arguments.output)["networks"]


def recorded(folder, kinds=("",), networks=tuple(FAMILIES)):
    """Records of the networks that learned MNIST, by name.

    Args:
        folder: Path of the records.
        kinds: Parts of the names, such as `"-few1000"` for the networks that
            learned from 1,000 images of a class. Nothing stands for those that
            learned from all images.
        networks: Keys of `FAMILIES`.

    Raises:
        ValueError: If there is none.
    """
    found = {}
    for kind in kinds:
        for network in networks:
            for seed in trainings.SEEDS["mnist"]:
                name = f"mnist-{network}{kind}-seed{seed}"
                path = folder / f"{name}.json"
                if path.exists():
                    found[name] = json.loads(path.read_text())
    if not found:
        raise ValueError(
            "No networks are recorded: run benchmarks/trainings.py. Expected "
            "mnist-conv_net-seed0.json or others. Received: "
            f"records={folder.name!r}"
        )
    return found


def load(name, record, arguments):
    """The model of a record, from the weights that are kept or from its run."""
    path = arguments.records / f"{name}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            check(name, arrays, record)
            arrays = dict(arrays)
    else:
        arrays = arrays_of(arguments.runs / name, record, path.name)
        if record["parameters"] <= LARGEST:
            with files.replacing(path) as fresh:
                np.savez(fresh, record=digest(record), **arrays)
    model = make(record)
    assign(getattr(model, "encoder", model), arrays)
    return model


def arrays_of(run, record, kept):
    """The weights of a run, if it is that of the record."""
    if not is_run_of(run, record):
        raise ValueError(
            "A network is recorded, but its weights are not there: train it "
            f"again, or remove its record. Expected {run.name} with the same "
            f"record, or {kept}. Received: runs={run.parent.name!r}"
        )
    model = make(record)
    model.load_weights(run / "model.weights.h5")
    return compact(getattr(model, "encoder", model))


def is_run_of(run, record):
    own = run / "record.json"
    return own.exists() and json.loads(own.read_text()) == record


def is_gone(name, record, arguments):
    """Whether weights are nowhere, because they were too large to be kept."""
    return record["parameters"] > LARGEST and not is_run_of(
        arguments.runs / name, record
    )


def earlier_of(earlier, name, record):
    """The figures that were measured when the weights were there."""
    if earlier.get(name, {}).get("record") != digest(record):
        raise ValueError(
            "There are no figures of a network. If --networks leaves it out, "
            "name it; if its weights are gone, train it again. Expected the "
            f"run of {name}.json, or figures of it. Received: {name} with the "
            "figures of another record, or of none"
        )
    return earlier[name]


def check(name, arrays, record):
    """Refuses weights that were kept for another record."""
    if str(arrays["record"]) != digest(record):
        raise ValueError(
            "Weights that were kept are those of another record: remove them. "
            f"Expected those of {name}.json. Received: {name}.npz"
        )


def digest(record):
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make(record):
    """The network of a record."""
    task = tasks.Task((28, 28, 1), 10, 0, None, None, None)
    options = record["settings"]["options"]
    return by_name.make(record["network"], task, options)[0]


def of_families(found):
    """The results of all seeds, by the name of the network."""
    groups = collections.defaultdict(list)
    for each in found.values():
        groups[FAMILIES[each["network"]]].append(each)
    return {name: groups[name] for name in FAMILIES.values() if name in groups}
