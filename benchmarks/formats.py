"""Exports networks and runs each file in its own runtime.

    python benchmarks/formats.py          # or: make formats

Every network and routing with random weights, also frozen, and the networks
whose weights come with the package, also pruned, in every format; SavedModels
are portable ones, which other converters take. Each file runs in a process
without this package, on test images of MNIST (`--images` of them for trained
networks), in batches of 1 and 7, then of 100: the largest difference from
Keras's scores, the size of the file, the milliseconds of a batch, and for
trained networks the accuracy that is lost.
Writes `formats.json` after each network, and the tables of docs/formats.md.
Networks that are not named in `--cases` keep their figures.
"""

import functools
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

import evidence
import harness
import numpy as np

PAGE = harness.ROOT / "docs" / "formats.md"
BATCHES = [1, 7]
TIMED = [1, 256]
MOST_IMAGES = {"tfjs": 1000}  # which computes in plain JavaScript
MOST_MS = 2000  # for all repeats of a batch
CONVERT = ["--input_format=tf_saved_model", "--signature_name=serving_default"]


# Networks, by name: functions that make them.


def trained(name, network, fraction=0.0):
    """A network with the weights of the package, pruned if asked."""
    from keras_capsules import datasets
    from keras_capsules import models
    from keras_capsules import pruning

    options = {} if network == "ConvNet" else {"decoder_units": None}
    model = getattr(models, network)(weights=name, **options)
    if fraction:
        images, _ = datasets.load_arrays("mnist", "train")
        model = pruning.prune(model, images[:500], fraction).model
    return model


def untrained(network, freeze=False, **options):
    """A network with random weights, not zeros, and frozen if asked."""
    from keras_capsules import datasets
    from keras_capsules import models
    from keras_capsules import pruning

    model = getattr(models, network)(**options)
    numbers = np.random.default_rng(5)
    for weight in model.trainable_variables:
        value = numbers.normal(size=weight.shape)
        weight.assign(weight + 0.3 * value / np.sqrt(weight.shape[0]))
    if freeze:
        images, _ = datasets.load_arrays("mnist", "train")
        model = pruning.freeze_routing(model, images[:200], limit=1).model
    return model


TRAINED = {
    "EfficientCapsNet, MNIST": functools.partial(
        trained, "mnist", "EfficientCapsNet"
    ),
    "EfficientCapsNet, MNIST, half of the types pruned": functools.partial(
        trained, "mnist", "EfficientCapsNet", 0.5
    ),
    "ConvNet, MNIST": functools.partial(trained, "mnist", "ConvNet"),
}
SMALL = {"filters": 16, "num_primary_capsules": 4, "decoder_units": None}
MATRICES = {
    "filters": 8,
    "num_primary_capsules": 4,
    "num_conv_capsules": (4, 4),
}
UNTRAINED = {
    **{
        f"CapsNet, {routing}": functools.partial(
            untrained, "CapsNet", routing=routing, **SMALL
        )
        for routing in ("dynamic", "self_attention", "inverted_attention")
    },
    # What freezing makes of dynamic routing.
    "CapsNet, fixed": functools.partial(
        untrained, "CapsNet", freeze=True, routing="dynamic", **SMALL
    ),
    **{
        f"MatrixCapsNet, {routing}": functools.partial(
            untrained, "MatrixCapsNet", routing=routing, **MATRICES
        )
        for routing in ("em", "variational_bayes", "self_routing")
    },
    "EfficientCapsNet": functools.partial(
        untrained, "EfficientCapsNet", filters=(8, 16, 16), decoder_units=None
    ),
    "DeepCaps": functools.partial(
        untrained,
        "DeepCaps",
        filters=16,
        num_cell_capsules=(4, 4, 4, 4),
        capsule_dim=8,
        decoder_filters=None,
    ),
    "InvertedAttentionCapsNet": functools.partial(
        untrained,
        "InvertedAttentionCapsNet",
        filters=(8, 16),
        num_primary_capsules=4,
        num_conv_capsules=(4, 4),
    ),
    "ConvNet": functools.partial(untrained, "ConvNet", filters=(4, 8, 8)),
    "SqueezeExcitationNet": functools.partial(
        untrained, "SqueezeExcitationNet", filters=(8, 16, 16), ratio=2
    ),
}


# Formats: functions of a model, a folder, images to calibrate and the
# environment of the runtimes, that return what they wrote.


def saved_model(model, folder, *_):
    from keras_capsules.export import export_saved_model

    return export_saved_model(model, folder / "saved_model", portable=True)


def litert(model, folder, images, _, quantization=None, calibrated=False):
    from keras_capsules.export import export_litert

    images = images if calibrated else None
    path = folder / f"{quantization}-{calibrated}.tflite"
    return export_litert(model, path, quantization, images)


def onnx(model, folder, *_):
    from keras_capsules.export import export_onnx

    return export_onnx(model, folder / "model.onnx")


def openvino(model, folder, *_):
    from keras_capsules.export import export_openvino

    return export_openvino(model, folder / "model.xml")


def tfjs(model, folder, _, runtimes):
    saved = folder / "saved_model"
    if not saved.exists():
        saved_model(model, folder)
    target = folder / "tfjs"
    converter = runtimes / "bin" / "tensorflowjs_converter"
    try:
        _call([converter, *CONVERT, saved, target], runtimes)
    except RuntimeError as error:
        found = re.search(
            r"(?m)^ValueError: Unsupported Ops.*\n(.+)", str(error)
        )
        if not found:
            raise
        raise ValueError(
            f"TensorFlow.js has no operator {found[1].strip()}"
        ) from error
    return str(target)


FORMATS = {
    "SavedModel": ("saved_model", saved_model),
    "LiteRT": ("litert", litert),
    "LiteRT, float16": (
        "litert",
        functools.partial(litert, quantization="float16"),
    ),
    "LiteRT, int8": ("litert", functools.partial(litert, quantization="int8")),
    "LiteRT, int8, calibrated": (
        "litert",
        functools.partial(litert, quantization="int8", calibrated=True),
    ),
    "ONNX": ("onnx", onnx),
    "OpenVINO": ("openvino", openvino),
    "TensorFlow.js": ("tfjs", tfjs),
}


def main():
    parser = harness.parser(__doc__, images=10_000, repeats=20)
    add = parser.add_argument
    add("--runtimes", type=pathlib.Path, default=harness.ROOT / ".venv-formats")
    add("--cases", nargs="+", choices=[*TRAINED, *UNTRAINED])
    add("--formats", nargs="+", choices=FORMATS, default=[*FORMATS])
    add("--no-timing", action="store_true", help="measure no latencies")
    add("--page", type=pathlib.Path, default=PAGE)
    options = parser.parse_args()
    results = {"cases": {}}
    if (options.output / "formats.json").exists():
        results = harness.read("formats", options.output)
    if not options.redraw:
        check_runtimes(options.runtimes)
        for name in options.cases or [*TRAINED, *UNTRAINED]:
            found = harness.call(
                measure,
                name,
                options.formats,
                str(options.runtimes.absolute()),
                options.images,
                0 if options.no_timing else options.repeats,
            )
            # Networks may be measured one by one, after changes.
            for each in found.values():
                each["command"] = harness.command()
                each["commit"] = harness.provenance.commit(harness.ROOT)
                each["processor"] = harness.provenance.processor()
            results["cases"].setdefault(name, {}).update(found)
            harness.write(
                "formats", {"cases": results["cases"]}, options.output
            )
    render(results["cases"], options.page)


def check_runtimes(runtimes):
    """Raises if there are no runtimes, or this package is among them."""
    python = runtimes / "bin" / "python"
    if not python.exists():
        raise ValueError(
            "The runtimes have an environment of their own. Expected one that "
            f"`make formats` made. Received: runtimes={str(runtimes)!r}"
        )
    code = "import importlib.util as u; print(u.find_spec('keras_capsules'))"
    if _call([python, "-I", "-c", code], runtimes).strip() != "None":
        raise ValueError(
            "Expected an environment without keras_capsules. Received: "
            f"runtimes={str(runtimes)!r}"
        )


def measure(name, formats, runtimes, number, repeats):
    """What a network becomes in each format, by its name."""
    from keras_capsules import datasets

    is_trained = name in TRAINED
    model = (TRAINED if is_trained else UNTRAINED)[name]()
    images, labels = datasets.load_arrays("mnist", "test")
    calibration, _ = datasets.load_arrays("mnist", "train")
    number = number if is_trained else sum(BATCHES)
    images, labels = images[:number], labels[:number]
    scores = model.predict(images, batch_size=100, verbose=0)
    found = {}
    for form in formats:
        runtime, export = FORMATS[form]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            try:
                path = export(
                    model, folder, calibration[:200], pathlib.Path(runtimes)
                )
            except ValueError as error:
                found[form] = {"cannot": str(error)}
                continue
            few = slice(MOST_IMAGES.get(runtime))
            call = functools.partial(run, runtimes, runtime, path, images[few])
            found[form] = {
                "bytes": size_of(path),
                **compare(
                    call(), scores[few], labels[few] if is_trained else None
                ),
            }
            if repeats:
                _, one = call(threads=1, repeats=repeats)
                default = one  # JavaScript has no other
                if runtime != "tfjs":
                    _, default = call(repeats=repeats)
                found[form]["latency_ms"] = {"one": one, "default": default}
    return found


def size_of(path):
    """The bytes of a file and what belongs to it, or of a folder."""
    path = pathlib.Path(path)
    files = (
        path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    )
    return sum(file.stat().st_size for file in files if file.is_file())


def compare(outcome, scores, labels=None):
    """How a runtime's scores differ from Keras's."""
    ours, _ = outcome
    ours = ours.reshape(scores.shape)
    found = {"largest_difference": float(np.abs(ours - scores).max())}
    if labels is not None:
        right = (ours.argmax(axis=-1) == labels).mean()
        lost = (scores.argmax(axis=-1) == labels).mean() - right
        found["images"] = len(labels)
        found["accuracy"] = round(float(100 * right), 4)
        found["accuracy_lost"] = round(float(100 * lost), 4)
    return found


def run(runtimes, runtime, path, images, threads=None, repeats=0):
    """The scores of a runtime, or how long it takes, in its own process."""
    folder = pathlib.Path(runtimes)
    is_javascript = runtime == "tfjs"
    command = ["node"] if is_javascript else [folder / "bin" / "python", "-I"]
    script = "runtimes.cjs" if is_javascript else "runtimes.py"
    batches = []
    for size in (
        () if repeats else itertools.chain(BATCHES, itertools.repeat(100))
    ):
        rest = len(images) - sum(batches)
        if not rest:
            break
        batches.append(min(rest, size))
    options = {
        "shape": images.shape[1:],
        "batches": batches,
        "timed": TIMED if repeats else [],
        "repeats": repeats,
        "most_ms": MOST_MS,
        "threads": threads,
    }
    with tempfile.TemporaryDirectory() as scratch:
        given, made = (pathlib.Path(scratch, each) for each in ("in", "out"))
        images.astype("float32").tofile(given)
        command += [harness.HERE / script, runtime, path, given, made]
        printed = _call(command, folder, json.dumps(options))
        scores = np.fromfile(made, "float32")
    times = json.loads(printed.splitlines()[-1])
    return scores, {
        size: round(statistics.median(each), 3) for size, each in times.items()
    }


def _call(command, runtimes, text=None):
    """What a program prints, which has no path to this package."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "KERAS_BACKEND")
    }
    finished = subprocess.run(
        [str(each) for each in command],
        input=text,
        env={**environment, "NODE_PATH": str(runtimes / "node_modules")},
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{finished.stderr[-3000:]}")
    return finished.stdout


# The page.


def render(cases, page):
    """Writes the tables of the page."""
    text = page.read_text()
    text = evidence.put(text, "trained", table(cases, TRAINED))
    text = evidence.put(text, "untrained", table_of_differences(cases))
    text = evidence.put(text, "all formats", table(cases, UNTRAINED))
    harness.write_text(page, text)


def table(cases, names):
    """Rows of networks and formats."""
    lines = [
        "| network | format | KB | largest difference | accuracy lost, points "
        "| ms for 1 image, one thread | default | ms for 256, one thread "
        "| default |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        for form, found in cases.get(name, {}).items():
            if "cannot" in found:
                lines.append(f"| {name} | {form} | cannot |" + " – |" * 6)
                continue
            latency = found.get("latency_ms", {})
            cells = [
                name,
                form,
                f"{found['bytes'] / 1000:,.0f}",
                f"{found['largest_difference']:.1g}",
                f"{found['accuracy_lost'] + 0:.1f}"
                if names is TRAINED
                else "–",
                *(
                    f"{latency[threads][str(size)]:.2f}" if latency else "–"
                    for size in TIMED
                    for threads in ("one", "default")
                ),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_differences(cases):
    lines = [
        f"| network | {' | '.join(FORMATS)} |",
        f"|---|{'---|' * len(FORMATS)}",
    ]
    for name in UNTRAINED:
        if name in cases:
            cells = [_difference(cases[name].get(form)) for form in FORMATS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(found):
    if found is None:
        return "–"
    if "cannot" in found:
        return "cannot"
    return f"{found['largest_difference']:.0e}"


if __name__ == "__main__":
    main()
