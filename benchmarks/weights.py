"""Puts the weights of a run into the package, and all cards on a page.

    python benchmarks/weights.py outputs/runs/NAME --name mnist \
        --description "..." --data "..."
    python benchmarks/weights.py          # only writes docs/weights.md again

Kernels are kept in 16 bits; the card says the test error that is left. The
record of the run must be among `benchmarks/results/runs`.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib

import evidence
import harness
import keras
import numpy as np

from keras_capsules.models import pretrained
from keras_capsules.models import saving
from keras_capsules.training import networks
from keras_capsules.training import tasks
from keras_capsules.utils import files

PAGE = harness.ROOT / "docs" / "weights.md"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", nargs="?", type=pathlib.Path, help="its folder")
    add("--name", help="of the weights")
    add("--description", help="a sentence for the card")
    add("--data", help="the images and their licence")
    add("--data-dir", help="where TensorFlow Datasets looks")
    add("--records", type=pathlib.Path, default=evidence.RUNS)
    add("--folder", type=pathlib.Path, default=pretrained.FOLDER)
    add("--page", type=pathlib.Path, default=PAGE)
    arguments = parser.parse_args()
    pretrained.FOLDER = arguments.folder
    if arguments.run:
        if not (arguments.name and arguments.description and arguments.data):
            parser.error("a run needs --name, --description and --data")
        publish(arguments)
    text = arguments.page.read_text()
    text = evidence.put(text, "weights", table(pretrained.cards()))
    harness.write_text(arguments.page, text)


def publish(arguments):
    """Writes the file of a run's weights, and its card."""
    record = json.loads((arguments.run / "record.json").read_text())
    kept = arguments.records / f"{arguments.run.name}.json"
    if not kept.exists() or json.loads(kept.read_text()) != record:
        raise ValueError(
            "The record of a run is not kept, so nobody could look at it. "
            f"Expected it as {kept.name}. Received: run={arguments.run.name!r}"
        )
    task = tasks.get(record["task"], record["seed"], False, arguments.data_dir)
    options = record["settings"]["options"]
    network, loss = networks.make(record["network"], task, options)
    network.load_weights(arguments.run / "model.weights.h5")
    arrays = compact(network)
    assign(network, arrays)
    network.compile(loss=loss, metrics=[task.metric()])
    found = network.evaluate(
        task.test().batch(256), verbose=0, return_dict=True
    )
    class_name = type(network).__name__
    path = arguments.folder / f"{class_name}-{arguments.name}.npz"
    with files.replacing(path) as fresh:
        np.savez(fresh, **arrays)
    card = pretrained.Card(
        network=class_name,
        name=arguments.name,
        description=arguments.description,
        options=saving.arguments_of(network),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=record["parameters"],
        test_error=round(100 * (1 - found["accuracy"]), 4),
        data=arguments.data,
        record=record,
    )
    text = json.dumps(dataclasses.asdict(card), indent=1) + "\n"
    harness.write_text(path.with_suffix(".json"), text)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {card.test_error} %")


def compact(network):
    """Arrays by path: kernels in 16 bits, the few other numbers as they are."""
    arrays = {}
    for each in network.weights:
        array = keras.ops.convert_to_numpy(each)
        dtype = "float16" if array.ndim > 1 else "float32"
        arrays[each.path] = array.astype(dtype)
    return arrays


def assign(network, arrays):
    """Sets the weights of a network."""
    for each in network.weights:
        each.assign(arrays[each.path].astype("float32"))


def table(cards):
    """The table of all weights, and a card for each."""
    lines = [
        "| weights | parameters | file | test error, % | trained in |",
        "|---|---|---|---|---|",
    ]
    for card in cards:
        file = pretrained.FOLDER / f"{card.stem}.npz"
        lines.append(
            f'| `{card.network}(weights="{card.name}")` | '
            f"{card.parameters:,} | {file.stat().st_size / 1e6:.1f} MB | "
            f"{card.test_error:.2f} | {card.record['seconds'] / 60:.0f} min |"
        )
    for card in cards:
        lines += [
            "",
            f"### {card.network}, {card.name}",
            "",
            card.description,
            "",
            f"- Data: {card.data}",
            f"- Trained with: `{card.record['command']}`, "
            f"{card.record['epochs']} epochs, on {card.record['processor']}.",
            f"- Test error: {card.test_error:.2f} % in 16 bits, "
            f"{card.record['test_error']:.2f} % before.",
            f"- Arguments: `{json.dumps(card.options)}`.",
        ]
    return "\n".join(lines) if cards else "There are none yet."


if __name__ == "__main__":
    main()
