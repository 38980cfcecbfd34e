"""How fast routing is, beside the textbook form, in one process.

    python benchmarks/speed.py

Prints two tables and writes `benchmarks/results/speed.json`:

1. Dynamic routing with three iterations at the shape of the MNIST CapsNet, as
   our operator and as its textbook form, which makes the tensor of votes.
2. A training step of CapsNet as `compile()` makes it by default on this
   machine, and compiled with XLA.

The forms are timed in turn, and medians are reported: on a machine that does
other work as well, ratios hold where times do not.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import time

import keras
import numpy as np
import tensorflow as tf

from keras_capsules import MarginLoss
from keras_capsules.models import CapsNet
from keras_capsules.routing import DynamicRouting
from keras_capsules.votes import Votes

BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 128, 1152, 8, 10, 16


def main(argv=None):
    parser = argparse.ArgumentParser(description="Measures speed.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--output", default=pathlib.Path(__file__).parent)
    parser.add_argument("--skip-steps", action="store_true")
    arguments = parser.parse_args(argv)
    if keras.backend.backend() != "tensorflow":
        parser.error("this measures TensorFlow: set KERAS_BACKEND=tensorflow")
    results = {
        "routing_ms": routing(arguments.batch, arguments.repeats),
        "machine": platform.processor() or platform.machine(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "commit": commit(),
    }
    show("Dynamic routing", results["routing_ms"])
    if not arguments.skip_steps:
        results["step_ms"] = steps(arguments.batch, arguments.repeats)
        show("Training step of CapsNet", results["step_ms"])
    path = pathlib.Path(arguments.output) / "results" / "speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {path}")


def routing(batch, repeats):
    """Median milliseconds of each form, forward and with gradients."""
    random = np.random.default_rng(0)
    poses = random.normal(size=(batch, INPUTS, 1, DIM), scale=0.2)
    kernel = random.normal(size=(INPUTS, DIM, OUTPUTS, OUT_DIM), scale=0.1)
    inputs = [tf.constant(x, "float32") for x in (poses, kernel)]

    def operator(poses, kernel, **options):
        return DynamicRouting(**options)(Votes(poses, kernel)).poses

    def stopped(poses, kernel):
        return operator(poses, kernel, stop_gradient=True)

    def gradients(function):
        def forward_and_gradients(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = tf.reduce_sum(tf.square(function(*inputs)))
            return tape.gradient(loss, inputs)

        return forward_and_gradients

    forms = {
        "textbook": tf.function(textbook),
        "textbook, XLA": tf.function(textbook, jit_compile=True),
        "operator": tf.function(operator),
        "operator, coupling's gradient stopped": tf.function(stopped),
    }
    with_gradients = {
        name: tf.function(
            gradients(form.python_function), jit_compile="XLA" in name
        )
        for name, form in forms.items()
    }
    forward = medians(forms, inputs, repeats)
    backward = medians(with_gradients, inputs, repeats)
    return {
        name: {"forward": forward[name], "with gradients": backward[name]}
        for name in forms
    }


def textbook(poses, kernel, num_iterations=3):
    """Dynamic routing as papers write it, with the tensor of all votes."""
    votes = tf.einsum("bipd,idje->bije", poses, kernel)
    logits = tf.zeros(tf.shape(votes)[:3])
    for iteration in range(num_iterations):
        coupling = tf.nn.softmax(logits, axis=2)
        s = tf.einsum("bij,bije->bje", coupling, votes)
        squared = tf.reduce_sum(s * s, axis=-1, keepdims=True) + 1e-7
        v = s * tf.sqrt(squared) / (1 + squared)
        if iteration + 1 < num_iterations:
            logits += tf.einsum("bije,bje->bij", votes, v)
    return v


def steps(batch, repeats):
    """Median milliseconds of a training step, by default and with XLA."""
    random = np.random.default_rng(0)
    images = random.uniform(size=(batch, 28, 28, 1)).astype("float32")
    labels = random.integers(10, size=batch)
    trainers = {}
    for name, jit_compile in (("default", "auto"), ("XLA", True)):
        model = CapsNet()
        model.compile("adam", MarginLoss(), jit_compile=jit_compile)
        trainers[name] = model.train_on_batch
    repeats = max(1, repeats // 5)  # a step with XLA takes very long
    return {
        name: {"step": value}
        for name, value in medians(trainers, (images, labels), repeats).items()
    }


def medians(functions, inputs, repeats):
    """Times functions in turn and returns each one's median, in ms."""
    times = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            for output in tf.nest.flatten(function(*inputs)):
                np.asarray(output)  # waits for the result
            if repeat:  # the first call traces and compiles
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: round(statistics.median(each), 2) for name, each in times.items()
    }


def show(title, table):
    columns = list(next(iter(table.values())))
    first = next(iter(table.values()))
    print(f"\n{title} (ms, and how many times as fast as the first row)")
    print(f"{'':40}" + "".join(f"{column:>22}" for column in columns))
    for name, row in table.items():
        cells = (f"{row[c]:.1f}  x{first[c] / row[c]:.1f}" for c in columns)
        print(f"{name:40}" + "".join(f"{cell:>22}" for cell in cells))


def commit():
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            check=True,
            text=True,
            cwd=pathlib.Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


if __name__ == "__main__":
    main()
