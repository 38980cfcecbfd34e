"""The cost of capsules in whole networks, in TensorFlow.

    python benchmarks/network.py

Prints tables and writes `network.json` and `network.png` to
`benchmarks/results`: a training step of CapsNet without decoder, compared with
the same network with average pooling and a dense layer in the place of its
class capsules, in float32 and in bfloat16, and with the textbook form of its
routing; as Keras compiles it by default on this machine, and with XLA; the
latency of a single image; and the first training step of MatrixCapsNet on
images of 8 x 8, most of which is tracing and compiling.

With `--baseline PATH`, the networks of the package at PATH are measured as
well, in turn with ours, in processes of their own.
"""

import functools
import pathlib
import tempfile
import time

import harness

OURS = ["capsules, float32", "capsules, bfloat16"]
STEPS = [
    "pooling, float32",
    "textbook, float32",
    "capsules, float32",
    "pooling, bfloat16",
    "capsules, bfloat16",
]
KINDS = "predict_on_batch", "graph", "SavedModel"


def main():
    parser = harness.parser(
        __doc__,
        repeats=5,
        batch=128,
        filters=256,
        xla_repeats=1,
        first_steps=2,
    )
    harness.add_baseline(parser)
    arguments = parser.parse_args()
    if arguments.redraw:
        results = harness.read("network", arguments.output)
        draw(results, arguments.output)
        return
    sizes = {"filters": arguments.filters, "batch": arguments.batch}
    found = harness.call(measure_steps, STEPS, arguments.repeats, **sizes)
    steps = {name: _summary(row) for name, row in found.items()}
    times = {name: row["median"] for name, row in steps.items()}
    ratios = {
        "capsules to pooling, float32": ("capsules", "pooling", "float32"),
        "capsules to pooling, bfloat16": ("capsules", "pooling", "bfloat16"),
        "textbook to capsules, float32": ("textbook", "capsules", "float32"),
    }
    results = {"batch": arguments.batch, "step_ms": steps}
    results["ratios"] = {
        name: round(times[f"{a}, {dtype}"] / times[f"{b}, {dtype}"], 3)
        for name, (a, b, dtype) in ratios.items()
    }
    _show("A training step of CapsNet", steps)
    if arguments.xla_repeats:
        few = max(1, arguments.batch // 4)  # a step with XLA takes very long
        found = harness.call(
            measure_steps,
            ["capsules, float32", "capsules, float32, XLA"],
            arguments.xla_repeats,
            filters=arguments.filters,
            batch=few,
        )
        rows = {name: _summary(row) for name, row in found.items()}
        results["compiled_ms"] = {"batch": few, **rows}
        _show(f"A training step of {few} images", rows)

    found = harness.call(
        measure_latency,
        ["capsules", "textbook"],
        4 * arguments.repeats,
        arguments.filters,
    )
    latencies = {
        kind: {name: _summary(row) for name, row in rows.items()}
        for kind, rows in found.items()
    }
    results["latency_ms"] = latencies
    for kind, rows in latencies.items():
        _show(f"A single image, {kind}", rows)

    firsts = {}
    for routing in ("em", "variational_bayes")[: arguments.first_steps]:
        rounds = harness.in_turn(
            measure_first_step,
            routing,
            baseline=arguments.baseline,
            rounds=arguments.rounds if arguments.baseline else 1,
        )
        firsts[routing] = {
            version: harness.summary(each) for version, each in rounds.items()
        }
        _show(f"First step of MatrixCapsNet, {routing}", firsts[routing], "s")
    results["first_step_seconds"] = firsts
    if arguments.baseline:
        against = compare(arguments, sizes)
        results["against_baseline_ms"] = against
        for name, rows in against.items():
            _show(f"{name}, two versions", rows)
    draw(results, arguments.output)
    harness.write("network", results, arguments.output)


def draw(results, folder):
    """Draws the times of steps and of a single image."""
    step, image, first = (
        "A training step of CapsNet",
        "A single image",
        "First training step of MatrixCapsNet",
    )
    steps = {name: row["median"] for name, row in results["step_ms"].items()}
    panels = {
        step: {"": {"without\ndecoder": steps}},
        image: {"": _medians(results["latency_ms"])},
    }
    if results["first_step_seconds"]:
        panels[first] = {"": _medians(results["first_step_seconds"])}
    against = _medians(results.get("against_baseline_ms", {}))
    for title in (step, image):
        # A panel of its own for each: the times are far apart.
        prefix = title.lower().removeprefix("a ").removesuffix(" of capsnet")
        rows = {
            name.partition(", ")[2]: row
            for name, row in against.items()
            if prefix in name
        }
        if rows:
            panels[f"{title}, two versions"] = {"": rows}
    units = {title: "ms" for title in panels}
    units[first] = "s"
    harness.draw("network", panels, folder, units)


def compare(arguments, sizes):
    """Training steps and latencies of this version and another, in turn."""
    options = {"baseline": arguments.baseline, "rounds": arguments.rounds}
    steps = harness.in_turn(
        measure_steps, OURS, arguments.repeats, **sizes, **options
    )
    latencies = harness.in_turn(
        measure_latency,
        ["capsules"],
        4 * arguments.repeats,
        arguments.filters,
        **options,
    )
    results = {
        f"training step, {name.removeprefix('capsules, ')}": {
            version: [each[name] for each in rounds]
            for version, rounds in steps.items()
        }
        for name in OURS
    }
    for kind in KINDS:
        results[f"a single image, {kind}"] = {
            version: [each[kind]["capsules"] for each in rounds]
            for version, rounds in latencies.items()
        }
    return {
        name: {
            version: harness.summary(
                [ms for each in rounds for ms in each["ms"]]
            )
            for version, rounds in rows.items()
        }
        for name, rows in results.items()
    }


def _summary(row):
    return {**harness.summary(row["ms"]), "first_call_seconds": row["first"]}


def _medians(tables):
    return {
        group: {name: row["median"] for name, row in rows.items()}
        for group, rows in tables.items()
    }


def _show(title, rows, unit="ms"):
    columns = {
        name: {"median": row["median"], "least": row["least"]}
        for name, row in rows.items()
    }
    harness.show(title, columns, unit)


# In processes of their own.


def measure_steps(names, repeats, filters, batch):
    """Times of training steps of some networks, in turn."""
    import forms
    import numpy as np

    from keras_capsules import MarginLoss

    random = np.random.default_rng(0)
    images = random.uniform(size=(batch, 28, 28, 1)).astype("float32")
    labels = random.integers(10, size=batch)
    steps = {}
    for name in names:
        kind, dtype, *xla = name.split(", ")
        model = make_network(kind, filters, dtype)
        model.compile(
            "adam", MarginLoss(), **{"jit_compile": True} if xla else {}
        )
        # Otherwise TensorFlow would trace the first step twice.
        model.optimizer.build(model.trainable_variables)
        steps[name] = functools.partial(model.train_on_batch, images, labels)
    return forms.timed(steps, repeats)


def make_network(kind, filters, dtype="float32"):
    """CapsNet without decoder, or the same with another last layer.

    Args:
        kind: `"capsules"`, `"textbook"` or `"pooling"`.
        filters: Of the first convolution.
        dtype: `"float32"` or `"bfloat16"`.
    """
    import keras
    import textbook

    from keras_capsules import CapsuleLength
    from keras_capsules import PrimaryCapsules
    from keras_capsules.models import CapsNet

    dtype = {"bfloat16": "mixed_bfloat16"}.get(dtype, dtype)
    if kind == "capsules":
        return CapsNet(filters=filters, decoder_units=None, dtype=dtype)
    layers = [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(
            filters,
            9,
            activation="relu",
            kernel_initializer="he_normal",
            dtype=dtype,
        ),
        PrimaryCapsules(32, 8, kernel_size=9, strides=2, dtype=dtype),
    ]
    if kind == "textbook":
        layers += [
            keras.layers.Reshape((1152, 8), dtype=dtype),
            textbook.TextbookCapsules(10, 16, dtype="float32"),
            CapsuleLength(dtype="float32"),
        ]
    else:
        layers += [
            keras.layers.Reshape((6, 6, 256), dtype=dtype),
            keras.layers.GlobalAveragePooling2D(dtype=dtype),
            keras.layers.Dense(10, activation="sigmoid", dtype="float32"),
        ]
    return keras.Sequential(layers)


def measure_latency(names, repeats, filters):
    """Times for one image: predicted, called in a graph, and served."""
    import forms
    import numpy as np
    import tensorflow as tf

    from keras_capsules import export_saved_model

    random = np.random.default_rng(0)
    image = random.uniform(size=(1, 28, 28, 1)).astype("float32")
    tensor = tf.constant(image)
    calls = {kind: {} for kind in KINDS}
    loaded = []  # or else their variables would be gone
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = make_network(name, filters)
            path = export_saved_model(model, pathlib.Path(folder) / name)
            served = tf.saved_model.load(path)
            loaded.append(served)
            functions = model.predict_on_batch, tf.function(model), served.serve
            for kind, function in zip(KINDS, functions, strict=True):
                given = image if kind == "predict_on_batch" else tensor
                calls[kind][name] = functools.partial(function, given)
        return {
            kind: forms.timed(each, repeats) for kind, each in calls.items()
        }


def measure_first_step(routing, batch=16):
    """Seconds of the first training step of MatrixCapsNet."""
    import forms
    import numpy as np

    from keras_capsules import SpreadLoss
    from keras_capsules.models import MatrixCapsNet

    forms.warm_up()
    random = np.random.default_rng(0)
    images = random.uniform(size=(batch, 8, 8, 1)).astype("float32")
    labels = random.integers(10, size=batch)
    # The network's own form of EM routing is its default.
    options = {} if routing == "em" else {"routing": routing}
    model = MatrixCapsNet((8, 8, 1), 10, **options)
    model.compile("adam", SpreadLoss(0.5))
    model.optimizer.build(model.trainable_variables)
    started = time.perf_counter()
    model.train_on_batch(images, labels)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
