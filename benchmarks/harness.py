"""What the benchmarks share: forms of routing, timing, memory, and reports."""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time

import keras
import matplotlib
import numpy as np
import tensorflow as tf

matplotlib.use("agg")

import matplotlib.pyplot as plt

from keras_capsules import CapsuleLayer
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.votes import Votes

RESULTS = pathlib.Path(__file__).parent / "results"
MEBIBYTE = 2**20
ROUTINGS = (
    "dynamic",
    "self_attention",
    "self_routing",
    "inverted_attention",
    "em",
    "variational_bayes",
)


def parse(description, repeats, **defaults):
    """The options that every benchmark has, and those of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    for name, default in defaults.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default
        )
    return parser.parse_args()


# Routing, ours and as papers write it.


def inputs(batch, num_inputs, dim, num_outputs, out_dim, seed=0):
    """Poses `[b, i, 1, d]` and a kernel `[i, d, j, e]`."""
    random = np.random.default_rng(seed)
    poses = random.normal(size=(batch, num_inputs, 1, dim), scale=0.2)
    shape = num_inputs, dim, num_outputs, out_dim
    kernel = random.normal(size=shape, scale=0.1)
    return [tf.constant(each, "float32") for each in (poses, kernel)]


def ours(routing):
    """A routing as a function of poses and kernel."""
    return lambda poses, kernel: routing(Votes(poses, kernel)).poses


def textbook_dynamic(poses, kernel, num_iterations=3, stop_gradient=False):
    """Dynamic routing as papers write it, with the tensor of all votes."""
    votes = tf.einsum("bipd,idje->bije", poses, kernel)
    logits = tf.zeros(tf.shape(votes)[:3])
    for iteration in range(num_iterations):
        coupling = tf.nn.softmax(logits, axis=2)
        if stop_gradient:
            coupling = tf.stop_gradient(coupling)
        s = tf.einsum("bij,bije->bje", coupling, votes)
        squared = tf.reduce_sum(s * s, axis=-1, keepdims=True) + 1e-7
        v = s * tf.sqrt(squared) / (1 + squared)
        if iteration + 1 < num_iterations:
            logits += tf.einsum("bije,bje->bij", votes, v)
    return v


def textbook_self_attention(poses, kernel):
    """Self-attention routing as its authors' code has it, with the votes."""
    votes = tf.einsum("bipd,idje->bjie", poses, kernel)
    logits = tf.einsum("...ij,...kj->...i", votes, votes)[..., None]
    logits /= tf.sqrt(float(votes.shape[-1]))
    coupling = tf.nn.softmax(logits, axis=1)
    s = tf.reduce_sum(votes * coupling, axis=-2)
    length = tf.sqrt(tf.reduce_sum(s * s, axis=-1, keepdims=True) + 1e-7)
    return (1 - tf.exp(-length)) * s / length


def named(name, shape):
    """The routing of this name, with weights for `shape`, as `ours`."""
    _, num_inputs, dim, num_outputs, out_dim = shape
    layer = CapsuleLayer(num_outputs, out_dim, routing=name)
    layer.build((None, num_inputs, dim))

    def route(poses, kernel):
        return layer.routing(
            Votes(poses, kernel), weights=layer.routing_weights
        ).poses

    return route


@keras.saving.register_keras_serializable(package="benchmarks")
class TextbookRouting(Routing):
    """Dynamic routing in a network, with the tensor of all votes."""

    def call(self, votes, bias=None, **kwargs):
        dense = votes.dense()[:, :, :, 0]  # [b, i, j, e]
        logits = keras.ops.zeros_like(dense[..., 0])
        for iteration in range(3):
            coupling = keras.ops.softmax(logits, axis=2)
            s = keras.ops.einsum("bij,bije->bje", coupling, dense)
            s = s + keras.ops.reshape(bias, s.shape[1:])
            squared = keras.ops.sum(s * s, axis=-1, keepdims=True) + 1e-7
            v = s * keras.ops.sqrt(squared) / (1 + squared)
            if iteration < 2:
                logits += keras.ops.einsum("bije,bje->bij", dense, v)
        poses = keras.ops.transpose(v, (1, 0, 2))[:, :, None]
        return Routed(poses, None, None)


def with_gradients(function):
    """The gradients of a loss of `function`, to all that it takes."""

    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.square(function(*inputs)))
        return tape.gradient(loss, inputs)

    return step


def dynamic(**options):
    return ours(DynamicRouting(**options))


# Measuring.


def medians(functions, repeats):
    """Times functions in turn, so that a drifting machine is fair to all.

    Args:
        functions: Dictionary of functions without arguments.
        repeats: Integer, how often each is timed, after one call that is not.

    Returns:
        Dictionary of medians in ms.
    """
    times = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            for output in keras.tree.flatten(function()):
                np.asarray(output)  # waits for the result
            if repeat:  # the first call traces and compiles
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: round(statistics.median(each), 3) for name, each in times.items()
    }


def peak_memory(shape, **options):
    """What `step_memory` returns, from a process of its own.

    How TensorFlow cuts its memory depends on what it was used for before.
    """
    return in_own_process(step_memory, shape, **options)


def in_own_process(function, *arguments, **options):
    """What a function of a module returns, called in a new process."""
    # A copy of one that has imported what takes long, and done nothing else.
    multiprocessing.set_forkserver_preload(
        ["tensorflow", "keras_capsules", "matplotlib.pyplot"]
    )
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments, options)


def step_memory(shape, repeats=0, **options):
    """Peak memory of a training step of dynamic routing.

    Args:
        shape: Arguments of `inputs`.
        repeats: How many more steps to time.
        **options: Of `DynamicRouting`; or `textbook=True` for the other form;
            or `routing`, the name of another one.

    Returns:
        Peak MiB above that before the step, in which the graph, poses and
        kernel are there already, and the gradients to these are not; and the
        seconds of the step, or the median of those that are repeated.
    """
    if options.get("textbook"):
        form = textbook_dynamic
    elif "routing" in options:
        form = named(options["routing"], shape)
    else:
        form = dynamic(**options)
    poses, kernel = inputs(*shape)
    step = make_step(form, shape)
    step(poses[:1], kernel)  # traces
    # Not what the process takes: TensorFlow keeps what it has ever taken.
    try:
        tf.config.experimental.reset_memory_stats("CPU:0")
    except ValueError as error:
        raise RuntimeError(
            "TensorFlow counts memory where it uses oneDNN only."
        ) from error
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    started = time.perf_counter()
    keras.tree.map_structure(np.asarray, step(poses, kernel))
    seconds = time.perf_counter() - started
    peak = tf.config.experimental.get_memory_info("CPU:0")["peak"]
    peak = round((peak - before) / MEBIBYTE, 1)
    if repeats:
        times = medians({"step": lambda: step(poses, kernel)}, repeats)
        seconds = times["step"] / 1e3
    return peak, seconds


def operands_size(shape):
    """MiB of poses and kernel, and of the gradients to them as well."""
    batch, inputs, dim, outputs, out_dim = shape
    numbers = inputs * dim * (batch + outputs * out_dim)
    return round(4 * numbers / MEBIBYTE, 2)


def make_step(form, shape):
    """A form with gradients, in a graph for any batch size."""
    _, num_inputs, dim, num_outputs, out_dim = shape
    return tf.function(
        with_gradients(form),
        input_signature=[
            tf.TensorSpec((None, num_inputs, 1, dim)),
            tf.TensorSpec((num_inputs, dim, num_outputs, out_dim)),
        ],
    )


def status(name):
    """A number of kB that Linux says of this process."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1])


# Reporting.


def show(title, rows, unit="ms"):
    """Prints `{row: {column: number}}`, and ratios to the first row."""
    first = next(iter(rows.values()))
    print(f"\n{title} ({unit}, and how many times less than the first row)")
    print(f"{'':34}" + "".join(f"{column:>24}" for column in first))
    for name, row in rows.items():
        cells = (
            f"{row[column]:.1f}  x{first[column] / row[column]:.1f}"
            if row.get(column)
            else "-"
            for column in first
        )
        print(f"{name:34}" + "".join(f"{cell:>24}" for cell in cells))


def draw(name, panels, folder, unit="ms", form="%.0f"):
    """Draws tables as bars: `{title: rows}` as `show` takes them.

    Args:
        name: Of the picture.
        panels: The tables by title.
        folder: Where to put the picture.
        unit: Of all values, or a dictionary of units by title.
        form: How to write values.
    """
    heights = [len(rows) for rows in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(9, 0.8 + 0.5 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, rows) in zip(axes[:, 0], panels.items(), strict=True):
        columns = list(next(iter(rows.values())))
        places = np.arange(len(rows))
        height = 0.8 / len(columns)
        for number, column in enumerate(columns):
            values = [row.get(column) or np.nan for row in rows.values()]
            offset = (number - (len(columns) - 1) / 2) * height
            bars = axis.barh(places + offset, values, height, label=column)
            axis.bar_label(bars, fmt=form, padding=2, fontsize="small")
        axis.set_yticks(places, list(rows))
        axis.invert_yaxis()
        axis.set_title(title)
        axis.set_xlabel(unit if isinstance(unit, str) else unit[title])
        axis.margins(x=0.1)
        if len(columns) > 1:
            # Beside the bars, not on them.
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=120)


def write(name, results, folder):
    """Writes results with what they were measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    script, *options = pathlib.Path(sys.argv[0]).name, *sys.argv[1:]
    results = {
        **results,
        "command": shlex.join(["python", f"benchmarks/{script}", *options]),
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "commit": _commit(),
    }
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {path}")


def _processor():
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    found = name[1] if name else platform.machine()
    if flags and "avx512_bf16" in flags[1]:
        found += ", AVX512-BF16"
    return found


def _commit():
    """The commit, and whether something other than results has changed."""
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ":/"]
    changes.append(f":(top,exclude)benchmarks/{RESULTS.name}")
    try:
        commit, changed = (
            subprocess.run(
                ["git", *arguments],
                capture_output=True,
                check=True,
                text=True,
                cwd=pathlib.Path(__file__).parent,
            ).stdout.strip()
            for arguments in (["rev-parse", "--short", "HEAD"], changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "-dirty" * bool(changed)
