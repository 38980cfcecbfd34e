"""All networks on the same data: accuracy, size, time and memory.

    python benchmarks/networks.py

Trains every network on the digits that come with scikit-learn (1,293 images of
8 x 8; 144 to validate, on which epochs, learning rates and batches were chosen;
360 to test), each in a process of its own, and measures the test accuracy once,
after the last epoch. Prints a table and writes `networks.json` and
`networks.png` to `benchmarks/results`. Memory is the peak above that of an
imported TensorFlow, on Linux. `--dataset mnist` trains on other data, `--only`
some of the networks.
"""

import dataclasses
import time

import forms
import harness
import keras
import numpy as np

from keras_capsules import MarginLoss
from keras_capsules import SpreadLoss
from keras_capsules import datasets
from keras_capsules import models
from keras_capsules.routing import VariationalBayesRouting

# The squared error is summed over the pixels, so that each of 64 needs more
# weight than each of 784.
DECODED = {"reconstruction_weight": 0.006}

SMALL_CAPSNET = {"filters": 128, "num_primary_capsules": 16, **DECODED}


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is made and trained."""

    network: type
    options: dict
    loss: keras.losses.Loss = MarginLoss()
    epochs: int = 30
    learning_rate: float = 3e-3
    batch: int = 32


NETWORKS = {
    "CapsNet": Training(models.CapsNet, SMALL_CAPSNET),
    "CapsNet, self-attention": Training(
        models.CapsNet, {**SMALL_CAPSNET, "routing": "self_attention"}
    ),
    "EfficientCapsNet": Training(models.EfficientCapsNet, DECODED),
    "DeepCaps, small": Training(
        models.DeepCaps,
        {
            "filters": 32,
            "num_cell_capsules": (8, 8, 8, 8),
            "capsule_dim": 16,
            **DECODED,
        },
    ),
    "InvertedAttentionCapsNet": Training(
        models.InvertedAttentionCapsNet, {"capsule_dim": 8}
    ),
    "MatrixCapsNet, EM": Training(
        models.MatrixCapsNet,
        {"filters": 32},
        SpreadLoss(0.5),
        epochs=12,
        batch=16,
    ),
    "MatrixCapsNet, variational Bayes": Training(
        models.MatrixCapsNet,
        {
            "filters": 32,
            "routing": VariationalBayesRouting(covariance_prior=100.0),
        },
        SpreadLoss(0.5),
        epochs=12,
        learning_rate=6e-3,
    ),
    "MatrixCapsNet, self-routing": Training(
        models.MatrixCapsNet,
        {"filters": 32, "routing": "self_routing"},
        SpreadLoss(0.5),
    ),
    "ConvNet": Training(models.ConvNet, {"activation": "sigmoid"}),
    "SqueezeExcitationNet": Training(
        models.SqueezeExcitationNet, {"activation": "sigmoid"}
    ),
}


def main():
    arguments = harness.parser(
        __doc__,
        repeats=1,
        dataset="digits",
        epochs=0,
        batch=0,
        images=0,
        only="",
        validation=0,
        verbose=0,
        name="networks",
    ).parse_args()
    if arguments.redraw:
        results = harness.read(arguments.name, arguments.output)
        draw(results[arguments.dataset], arguments.name, arguments.output)
        return
    rows = {}
    for name in NETWORKS:
        if arguments.only not in name:
            continue
        found = [
            forms.in_own_process(
                measure,
                name,
                dataset=arguments.dataset,
                seed=seed,
                epochs=arguments.epochs,
                batch=arguments.batch,
                images=arguments.images,
                test=not arguments.validation,
                verbose=bool(arguments.verbose),
            )
            for seed in range(arguments.repeats)
        ]
        rows[name] = {
            key: np.median([each[key] for each in found], axis=0).tolist()
            for key in found[0]
        }
        rows[name]["seeds"] = arguments.repeats
        print(f"{name}: {rows[name]}", flush=True)
    show(rows)
    draw(rows, arguments.name, arguments.output)
    harness.write(arguments.name, {arguments.dataset: rows}, arguments.output)


def draw(rows, name, folder):
    """Draws errors and times of all networks."""
    panels = {
        "Images classified wrongly": {
            "": {
                network: {
                    split: 100 - row[f"{split}_percent"]
                    for split in ("test", "validation")
                    if f"{split}_percent" in row
                }
                for network, row in rows.items()
            }
        },
        "Time per epoch": {
            "": {
                network: {"": row["seconds_per_epoch"]}
                for network, row in rows.items()
            }
        },
    }
    units = {"Images classified wrongly": "%", "Time per epoch": "s"}
    harness.draw(name, panels, folder, units)


def measure(
    name, dataset, seed, batch=0, epochs=0, images=0, test=True, verbose=False
):
    """Trains a network and measures it; for a process of its own.

    Args:
        name: Key of `NETWORKS`.
        dataset: Name of a data set.
        seed: Integer, for weights and the order of images.
        batch: Integer, the images in a step, other than the network's if
            above 0.
        epochs: Integer, other than the network's if above 0.
        images: Integer, how many to train on if above 0.
        test: Boolean, whether to look at the test images.
        verbose: Boolean, whether to print the results of each epoch.

    Returns:
        Dictionary of parameters (of all and of what no decoder needs), percent
        of images classified right, the loss of each epoch, median seconds of an
        epoch without the first, and peak memory in MiB.
    """
    training = NETWORKS[name]
    epochs, batch = epochs or training.epochs, batch or training.batch
    keras.utils.set_random_seed(seed)
    splits = {
        split: next(iter(datasets.load(dataset, split).batch(10**6)))
        for split in ("train[:90%]", "validation", "test")
    }
    train, validation, held_out = (
        [each.numpy() for each in splits[split]] for split in splits
    )
    if images:
        train = [each[:images] for each in train]
    before = harness.status("VmRSS")
    info = datasets.info(dataset)
    model = training.network(
        info.image_shape, len(info.class_names), **training.options
    )
    steps = epochs * -(-len(train[0]) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(
        training.learning_rate, steps
    )
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer, training.loss, metrics=["accuracy"])
    clock = Clock()
    history = model.fit(
        *train,
        batch_size=batch,
        epochs=epochs,
        validation_data=validation,
        callbacks=[clock],
        verbose=2 if verbose else 0,
    ).history
    row = {
        "parameters": model.count_params(),
        "parameters_without_decoder": model.count_params()
        - (getattr(model, "decoder", None) or Nothing).count_params(),
        "validation_percent": 100 * history["val_accuracy"][-1],
        "seconds_per_epoch": float(np.median(clock.seconds[1:] or [np.nan])),
        "peak_mib": round((harness.status("VmHWM") - before) / 1024),
        "losses": [round(each, 4) for each in history["loss"]],
        "epochs": epochs,
        "batch": batch,
        "steps": steps,
    }
    if test:
        scores = model.predict(held_out[0], verbose=0)
        right = scores.argmax(axis=1) == held_out[1]
        row["test_percent"] = 100 * float(right.mean())
    return row


class Nothing:
    """A decoder that is not there."""

    count_params = staticmethod(lambda: 0)


class Clock(keras.callbacks.Callback):
    """How long the training of each epoch takes, without validation."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds.append(time.perf_counter() - self._started)


def show(rows):
    columns = {
        "test_percent": "test %",
        "validation_percent": "validation %",
        "parameters_without_decoder": "parameters",
        "parameters": "with decoder",
        "seconds_per_epoch": "s per epoch",
        "peak_mib": "peak MiB",
    }
    print(f"\n{'':32}" + "".join(f"{each:>14}" for each in columns.values()))
    for name, row in rows.items():
        cells = (
            f"{row[key]:14,.0f}"
            if key.startswith(("parameters", "peak"))
            else f"{row[key]:14.2f}"
            if key in row
            else f"{'-':>14}"
            for key in columns
        )
        print(f"{name:32}" + "".join(cells))


if __name__ == "__main__":
    main()
