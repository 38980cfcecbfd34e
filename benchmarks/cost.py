"""What it costs to learn MNIST: time of an epoch, memory, time to 99 %.

    python benchmarks/cost.py
    python benchmarks/cost.py --networks conv_net capsnet --seeds 1 2
    python benchmarks/cost.py --redraw         # writes table and picture only

Results of other networks and seeds are kept. All must be from the same machine
and versions. Each row has its own command, commit and date.

Trains each network, in a process of its own, with AdamW, a constant rate of
0.003 and batches of 64, on nine tenths of the training images as they are.
After each 50 steps it looks at the other tenth, until 99 % of it is right. Only
the steps count as time. Memory is the peak of the first 50 steps above that of
the process with the images in it, on Linux. Nothing else may run on the machine
meanwhile.

Writes `cost.json` to `benchmarks/results`, `claims-cost.png` to `docs`, and the
table between the marks of `docs/claims.md`.
"""

import pathlib
import statistics
import time

import evidence
import harness

PAGE = harness.ROOT / "docs" / "claims.md"
BATCH = 64
EVERY = 50  # steps, it looks at the validation images
EPOCH = 60_000 // BATCH  # steps
ROWS = {
    "parameters": "parameters, without decoder",
    "seconds_per_epoch": "seconds an epoch",
    "peak_mib": "memory, MiB",
    "seconds": "seconds to 99 %",
    "steps": "steps to 99 %",
}


def main():
    parser = harness.parser(__doc__, most_steps=4000, target=0.99, data_dir="")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        help="by default, 0 1 2",
    )
    parser.add_argument("--page", type=pathlib.Path, default=PAGE)
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=evidence.FAMILIES,
        default=[*evidence.FAMILIES],
        help="by default, all of these",
    )
    arguments = parser.parse_args()
    if not arguments.redraw:
        found = {}
        if (arguments.output / "cost.json").exists():
            found = harness.read("cost", arguments.output)["networks"]
        made_by = harness.made_by()
        for row in sum(found.values(), []):
            for key in ("machine", "versions"):
                if row[key] != made_by[key]:
                    parser.error(
                        "times of other machines and versions cannot be "
                        f"compared. Expected {key}={row[key]}, or another "
                        f"--output. Received: {key}={made_by[key]}"
                    )
        for seed in arguments.seeds:
            for name in arguments.networks:
                row = harness.call(
                    measure,
                    name,
                    seed,
                    arguments.target,
                    arguments.most_steps,
                    arguments.data_dir or None,
                )
                print(name, row, flush=True)
                others = [x for x in found.get(name, ()) if x["seed"] != seed]
                found[name] = sorted(
                    [*others, row | made_by], key=lambda x: x["seed"]
                )
                harness.write("cost", {"networks": found}, arguments.output)
    found = harness.read("cost", arguments.output)["networks"]
    text = evidence.put(
        arguments.page.read_text(), "cost", "\n".join(table(found))
    )
    harness.write_text(arguments.page, text)
    draw(found, arguments.page.parent)


def measure(name, seed, target, most_steps, data_dir):
    """Trains a network until it is right often enough.

    Args:
        name: Key of `evidence.FAMILIES`.
        seed: Integer.
        target: Number, the share of the validation images that are right.
        most_steps: Integer. After so many, it gives up.
        data_dir: Where TensorFlow Datasets looks, or `None`.

    Returns:
        Dictionary of numbers. Those to the target are `None` if it was not
        reached.
    """
    import keras
    import numpy as np

    from keras_capsules import datasets
    from keras_capsules.training import networks
    from keras_capsules.training import tasks

    keras.utils.set_random_seed(seed)
    images, labels = datasets.load_arrays(
        "mnist", tasks.SPLITS[True], data_dir=data_dir
    )
    held_out, answers = datasets.load_arrays(
        "mnist", "validation", data_dir=data_dir
    )
    task = tasks.Task((28, 28, 1), 10, len(images), None, None, None)
    before = harness.status("VmRSS")
    model, loss = networks.make(name, task, {})
    model.compile(keras.optimizers.AdamW(0.003, weight_decay=0.0), loss)
    order = np.random.default_rng(seed).permutation(len(images))
    times, peak, reached = [], None, None
    for step in range(1, most_steps + 1):
        chosen = order.take(
            range((step - 1) * BATCH, step * BATCH), mode="wrap"
        )
        started = time.perf_counter()
        model.train_on_batch(images[chosen], labels[chosen])
        times.append(time.perf_counter() - started)
        if step % EVERY == 0:
            # Before the first prediction, which takes larger batches.
            peak = peak or harness.status("VmHWM")
            scores = model.predict(held_out, batch_size=500, verbose=0)
            if np.mean(scores.argmax(axis=1) == answers) >= target:
                reached = step
                break
    peak = peak or harness.status("VmHWM")
    typical = statistics.median(times[1:])
    return {
        "seed": seed,
        "parameters": getattr(model, "encoder", model).count_params(),
        "seconds_per_epoch": round(typical * EPOCH, 1),
        "peak_mib": round((peak - before) / 1024),
        "steps": reached,
        "seconds": None if reached is None else round(typical * reached, 1),
    }


def table(found):
    """Lines of Markdown."""
    yield "![Time and memory of each network](claims-cost.png)\n"
    yield "| network | " + " | ".join(ROWS.values()) + " |"
    yield "|---" * (1 + len(ROWS)) + "|"
    for name, runs in found.items():
        cells = [middle([run[key] for run in runs]) for key in ROWS]
        yield f"| {evidence.FAMILIES[name]} | {' | '.join(cells)} |"


def middle(values):
    """The median; and the least and the largest, if they differ."""
    if None in values:
        return "not reached"
    text = f"{statistics.median(values):,.4g}"
    if statistics.median(values) >= 1000:
        text = f"{statistics.median(values):,.0f}"
    if min(values) == max(values):
        return text
    return f"{text} ({min(values):,.4g} to {max(values):,.4g})"


def draw(found, folder):
    """Draws bars of times and of memory."""
    panels, units = {}, {}
    for key, unit in (
        ("seconds_per_epoch", "s"),
        ("seconds", "s"),
        ("peak_mib", "MiB"),
    ):
        units[ROWS[key]] = unit
        panels[ROWS[key]] = {
            "": {
                evidence.FAMILIES[name]: {
                    "": None
                    if None in [run[key] for run in runs]
                    else statistics.median(run[key] for run in runs)
                }
                for name, runs in found.items()
            }
        }
    harness.draw("claims-cost", panels, folder, units, "not reached")


if __name__ == "__main__":
    main()
