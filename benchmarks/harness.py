"""Helpers of the benchmarks: options, processes, tables, pictures, results.

Nothing here imports Keras or a backend, because every backend is measured in
processes of its own.
"""

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import pathlib
import platform
import re
import shlex
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


def _load(path):
    """The module of a file, without the package that it is in."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# As a file, because the package would import Keras.
provenance = _load(ROOT / "keras_capsules" / "training" / "provenance.py")

RESULTS = HERE / "results"
MEBIBYTE = 2**20
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def parser(description, **defaults):
    """A parser of options, with those that every benchmark has.

    Args:
        description: Of the benchmark.
        **defaults: Other options and their defaults, which are converted to
            the types of these.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=RESULTS,
        help="folder of the results",
    )
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="only draw the results of that folder again",
    )
    for name, default in defaults.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            help=f"{default!r} by default",
        )
    return parser


def add_backends(parser):
    """Adds the option of which backends to measure."""
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=[name for name in BACKENDS if importlib.util.find_spec(name)],
        help="by default, all that are installed",
    )


def add_baseline(parser):
    """Adds the options of a comparison with another version."""
    parser.add_argument(
        "--baseline",
        type=pathlib.Path,
        help="a checkout of another version, which is measured as well",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="how often each of the two versions is measured, in turn",
    )


# Processes.


def call(function, *arguments, backend="tensorflow", package=None, **options):
    """The result of a function of a benchmark, called in a process of its own.

    Args:
        function: A function of a module in this folder. Its arguments and what
            it returns must be fit for JSON.
        *arguments: Of the function.
        backend: The backend of Keras.
        package: The checkout whose `keras_capsules` is imported. Defaults to
            this one.
        **options: Of the function.
    """
    package = pathlib.Path(package or ROOT).resolve()
    module = pathlib.Path(inspect.getfile(function)).stem
    finished = subprocess.run(
        [sys.executable, "-c", "import harness; harness.answer()"],
        cwd=HERE,
        env={
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(package),
        },
        input=json.dumps([module, function.__name__, arguments, options]),
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise RuntimeError(
            f"{module}.{function.__name__} failed with {backend}:\n"
            f"{finished.stderr}"
        )
    return json.loads(finished.stdout.splitlines()[-1])


def answer():
    """Serves `call`, in the process that it began."""
    module, name, arguments, options = json.load(sys.stdin)
    package = pathlib.Path(os.environ["PYTHONPATH"])
    found = importlib.util.find_spec("keras_capsules").origin
    if not pathlib.Path(found).is_relative_to(package):
        raise RuntimeError(
            "The process would measure another version. Expected "
            f"keras_capsules in {package}. Received: {found}"
        )
    function = getattr(importlib.import_module(module), name)
    print("\n" + json.dumps(function(*arguments, **options)))


@contextlib.contextmanager
def served(command, environment, path="", **options):
    """A server on loopback, from its first answer on: its port and process.

    Args:
        command: List of the program and its arguments. A free port is added.
        environment: Dictionary of its environment.
        path: What to ask for, to know whether it answers.
        **options: Of `subprocess.Popen`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*map(str, command), "--port", str(port)]
    process = subprocess.Popen(command, env=environment, **options)
    try:
        _wait(f"http://127.0.0.1:{port}{path}", process)
        yield port, process
    finally:
        process.terminate()
        process.wait()


def _wait(address, process):
    """Waits until the server answers."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"The server ended with {process.returncode}")


def in_turn(function, *arguments, baseline, rounds, **options):
    """Calls a function for this version and another, one after the other.

    Args:
        function: See `call`.
        *arguments: Of the function.
        baseline: The other checkout; or `None` for this version alone.
        rounds: How often.
        **options: Of `call`.

    Returns:
        Dictionary of lists of the function's results, by version.
    """
    versions = {"this version": None}
    if baseline:
        versions[name_of(baseline)] = baseline
    found = {version: [] for version in versions}
    for _ in range(rounds):
        for version, package in versions.items():
            found[version].append(
                call(function, *arguments, package=package, **options)
            )
    return found


def name_of(package):
    """A name for the code of a checkout."""
    commit = provenance.commit(package) or "unknown"
    return f"commit {commit[:7]}" + " with changes" * commit.endswith("+")


def status(name):
    """A number of kB that Linux says of this process."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1])


# Results.


def summary(times):
    """Median and least of some times, in the same unit."""
    return {
        "median": round(statistics.median(times), 3),
        "least": round(min(times), 3),
    }


def medians(rows):
    """`{row: {column: summary}}` as `{row: {column: median}}`."""
    return {
        name: {column: found["median"] for column, found in row.items()}
        for name, row in rows.items()
    }


def show(title, rows, unit="ms"):
    """Prints `{row: {column: number}}`, and ratios to the first row."""
    first = next(iter(rows.values()))
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    width = max(24, *(len(column) + 2 for column in columns))
    print(f"\n{title} ({unit}, and how many times less than the first row)")
    print(f"{'':34}" + "".join(f"{column:>{width}}" for column in columns))
    for name, row in rows.items():
        cells = []
        for column in columns:
            value, other = row.get(column), first.get(column)
            cell = "-" if value is None else f"{value:.1f}"
            if value and other:
                cell += f"  x{other / value:.2f}"
            cells.append(f"{cell:>{width}}")
        print(f"{name:34}" + "".join(cells), flush=True)


def draw(name, panels, folder, units, missing="not measured"):
    """Draws groups of bars, one panel beside the other.

    Axes start at zero and are equal along a row, so that lengths of bars can be
    compared.

    Args:
        name: Of the picture.
        panels: `{row of panels: {column of panels: {group: {bar: number}}}}`.
            If a number is `None` or NaN, `missing` stands for it.
        folder: Where to put the picture.
        units: The unit of each row, by the title of the row.
        missing: Why there is no bar.
    """
    columns = list(dict.fromkeys(key for row in panels.values() for key in row))
    heights = [
        max(_height(groups) for groups in row.values())
        for row in panels.values()
    ]
    figure, axes = plt.subplots(
        len(panels),
        len(columns),
        figsize=(2 + 5 * len(columns), 1.5 + 0.2 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    colours = {}
    for row, (title, found) in zip(axes, panels.items(), strict=True):
        longest = max(filter(_is_measured, _values(found)), default=0)
        for axis, column in zip(row, columns, strict=True):
            if column not in found:
                axis.set_axis_off()
                continue
            axis.set_title(f"{title}\n{column}" if column else title)
            axis.set_xlabel(units[title])
            _draw_bars(axis, found[column], colours, missing)
            # Room for the labels after the longest bar.
            axis.set_xlim(0, 1.25 * longest or 1)
    colours.pop("", None)
    if colours:
        figure.legend(
            handles=colours.values(),
            labels=colours.keys(),
            loc="outside upper center",
            ncols=2 if len(columns) == 1 else 4,
        )
    save(figure, name, folder)


def _height(groups):
    """How many bars high a panel is, gaps between groups included."""
    return 2 + sum(1 + len(bars) for bars in groups.values())


def _draw_bars(axis, groups, colours, missing):
    """Draws groups of bars; `colours` remembers a bar of each name."""
    place, centers = 0, []
    for bars in groups.values():
        centers.append(place + (len(bars) - 1) / 2)
        for name, value in bars.items():
            label = _label(name)
            if label not in colours:
                number = len(colours)
                colours[label] = plt.Rectangle((0, 0), 1, 1, color=f"C{number}")
            if _is_measured(value):
                colour = colours[label].get_facecolor()
                bar = axis.barh(place, value, 0.9, color=colour)
                text = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
                axis.bar_label(bar, [text], padding=2, fontsize="small")
            else:
                axis.annotate(
                    f"{label}: {missing}" if label else missing,
                    (0, place),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize="small",
                )
            place += 1
        place += 1
    axis.set_yticks(centers, list(groups))
    axis.set_ylim(place - 1, -1)
    if not any(map(_is_measured, _values({"": groups}))):
        axis.set_xticks([])


def _values(columns):
    """The numbers of all bars in a row of panels."""
    return [
        value
        for groups in columns.values()
        for bars in groups.values()
        for value in bars.values()
    ]


def _is_measured(value):
    return value is not None and math.isfinite(value)


def _label(name):
    """The name of a form, or of another bar, in a picture."""
    form, *rest = name.split(", ")
    names = {
        "ours": "keras_capsules",
        "this version": "keras_capsules",
        "capsules": "keras_capsules",
        "pooling": "pooling and a dense layer",
        "textbook": "textbook form",
        "better layout": "textbook form in a better layout",
    }
    return ", ".join([names.get(form, form), *rest])


def save(figure, name, folder):
    """Writes a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.png"
    figure.savefig(partial, dpi=100)
    partial.replace(folder / f"{name}.png")
    plt.close(figure)


def read(name, folder):
    """The results that `write` wrote."""
    return json.loads((folder / f"{name}.json").read_text())


def write(name, results, folder):
    """Writes results, and the machine and versions they were measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    results = {**made_by(), **results}
    write_text(path, json.dumps(results, indent=1) + "\n")
    print(f"\nwritten to {path}")


def made_by():
    """What makes results: command, commit, date, machine, versions."""
    return {
        "command": command(),
        "commit": provenance.commit(ROOT),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": provenance.processor(),
            "cores": os.cpu_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **{
                package: importlib.metadata.version(package)
                for package in ("keras", *BACKENDS)
                if importlib.util.find_spec(package)
            },
        },
    }


def command():
    """The command that runs."""
    # Of paths, only the last part: folders of this machine mean nothing.
    script, *options = (
        re.sub(r"(^|=)/.*/(?=.)", r"\1", each) for each in sys.argv
    )
    return shlex.join(
        ["python", f"benchmarks/{pathlib.Path(script).name}", *options]
    )


def write_text(path, text):
    """Writes a file beside an old one, then puts it in its place."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
