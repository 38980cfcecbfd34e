"""What the capsule layer costs in a whole network.

    python benchmarks/network.py

Prints tables and writes `network.json` and `network.png` to
`benchmarks/results`: a training step of CapsNet without decoder, beside the
same network with average pooling and a dense layer in the place of its class
capsules, in float32 and in bfloat16; as Keras compiles it by default on this
machine, and with XLA; and the latency of a single image, with our routing and
with the textbook form.
"""

import pathlib
import tempfile

import harness
import keras
import numpy as np
import tensorflow as tf

from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import export_saved_model
from keras_capsules.models import CapsNet


def main():
    arguments = harness.parse(
        __doc__, repeats=5, batch=128, filters=256, xla_repeats=1
    )
    batch, filters = arguments.batch, arguments.filters
    random = np.random.default_rng(0)
    images = random.uniform(size=(batch, 28, 28, 1)).astype("float32")
    labels = random.integers(10, size=batch)

    def stepper(model, number=batch, **options):
        model.compile("adam", MarginLoss(), **options)
        # Or else TensorFlow would trace the first step twice.
        model.optimizer.build(model.trainable_variables)
        return lambda: model.train_on_batch(images[:number], labels[:number])

    def capsules(dtype="float32", **options):
        return CapsNet(
            filters=filters, decoder_units=None, dtype=dtype, **options
        )

    times = harness.medians(
        {
            "pooling, float32": stepper(pooled(filters, "float32")),
            "capsules, float32": stepper(capsules()),
            "pooling, bfloat16": stepper(pooled(filters, "mixed_bfloat16")),
            "capsules, bfloat16": stepper(capsules("mixed_bfloat16")),
        },
        arguments.repeats,
    )
    results = {"batch": batch, "step_ms": times}
    results["ratios"] = {
        "capsules to pooling, float32": times["capsules, float32"]
        / times["pooling, float32"],
        "capsules to pooling, bfloat16": times["capsules, bfloat16"]
        / times["pooling, bfloat16"],
        "float32 to bfloat16": times["capsules, float32"]
        / times["capsules, bfloat16"],
    }
    if arguments.xla_repeats:
        few = max(1, batch // 4)  # a step with XLA takes very long
        xla = harness.medians(
            {
                "default": stepper(capsules(), few),
                "XLA": stepper(capsules(), few, jit_compile=True),
            },
            arguments.xla_repeats,
        )
        results["compiled_ms"] = {"batch": few, **xla}
        results["ratios"]["XLA to the default"] = xla["XLA"] / xla["default"]
    steps = {name: {"step": value} for name, value in times.items()}
    harness.show("A training step of CapsNet", steps)
    print("\n", results.get("compiled_ms"), results["ratios"])

    latencies = latency(
        {
            "operator": capsules(),
            "textbook": capsules(routing=harness.TextbookRouting()),
        },
        images[:1],
        4 * arguments.repeats,
    )
    results["latency_ms"] = latencies
    harness.show("A single image", latencies)
    panels = {"A training step of CapsNet": steps, "A single image": latencies}
    harness.draw("network", panels, arguments.output)
    results["ratios"] = {k: round(v, 3) for k, v in results["ratios"].items()}
    harness.write("network", results, arguments.output)


def pooled(filters, dtype):
    """The network up to its primary capsules, pooled, and a dense layer."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(
                filters,
                9,
                activation="relu",
                kernel_initializer="he_normal",
                dtype=dtype,
            ),
            PrimaryCapsules(32, 8, kernel_size=9, strides=2, dtype=dtype),
            keras.layers.Reshape((6, 6, 256), dtype=dtype),
            keras.layers.GlobalAveragePooling2D(dtype=dtype),
            keras.layers.Dense(10, activation="sigmoid", dtype="float32"),
        ]
    )


def latency(models, image, repeats):
    """Median ms for one image: predicted, called in a graph, and served."""
    rows = {}
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            path = export_saved_model(model, pathlib.Path(folder) / name)
            served = tf.saved_model.load(path)
            graph = tf.function(model)
            tensor = tf.constant(image)
            calls[name] = {
                "predict_on_batch": lambda m=model: m.predict_on_batch(image),
                "graph": lambda g=graph, t=tensor: g(t),
                "SavedModel": lambda s=served, t=tensor: s.serve(t),
            }
            rows[name] = {}
        for kind in ("predict_on_batch", "graph", "SavedModel"):
            found = harness.medians(
                {name: calls[name][kind] for name in models}, repeats
            )
            for name, value in found.items():
                rows[name][kind] = value
    return rows


if __name__ == "__main__":
    main()
