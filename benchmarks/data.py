"""What training waits for when images are read from many files.

    python benchmarks/data.py
    python benchmarks/data.py --redraw         # writes the table only

Writes images of noise, which PNG cannot make smaller, into the files of a
folder, and trains a network on them for an epoch, as `examples/sharded_data.py`
does: in one process that reads all files, and in two, one after the other, that
each read half of them. Measures in which share of the time training waits for
images, and by how much the memory of the process grows over what the network
takes, beside what the images would take. The process may take 1 GiB for them:
it would end if it kept them all. Needs Linux.

Needs as much disk as the images. Writes `data.json` to `benchmarks/results`,
and the table between the marks of `docs/data_at_scale.md`.
"""

import importlib
import pathlib
import sys
import tempfile

import evidence
import harness
import readme

PAGE = harness.ROOT / "docs" / "data_at_scale.md"
PARTS = {"all of them": (0, 1), "process 0 of 2": (0, 2), "1 of 2": (1, 2)}
# How much memory a process may take for the images, less than they all need.
LIMIT_MIB = 1024
HEADS = {
    "images": "images read",
    "seconds": "seconds",
    "waiting": "waited, % of the time",
    "memory_mib": "memory of the process grew by, MiB",
    "decoded_mib": "images in memory would take, MiB",
}


def main():
    parser = harness.parser(
        __doc__, images=60_000, size=64, shards=16, batch=64
    )
    parser.add_argument("--page", type=pathlib.Path, default=PAGE)
    options = parser.parse_args()
    if not options.redraw:
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            folder = str(pathlib.Path(folder, "images"))
            harness.call(
                write, folder, options.images, options.size, options.shards
            )
            for name, (part, parts) in PARTS.items():
                found[name] = harness.call(
                    measure, folder, options.batch, part, parts
                )
                print(name, found[name], flush=True)
        sizes = {key: getattr(options, key) for key in ("images", "size")}
        harness.write("data", {**sizes, "processes": found}, options.output)
    found = harness.read("data", options.output)["processes"]
    text = evidence.put(options.page.read_text(), "waiting", table(found))
    harness.write_text(options.page, text)


def table(found):
    """A row for each process, in Markdown."""
    rows = [
        [name, *(f"{each[key]:,}" for key in HEADS)]
        for name, each in found.items()
    ]
    return readme.in_markdown([["files", *HEADS.values()], *rows])


# In processes of their own.


def write(folder, number, size, shards):
    """Writes images of noise, with labels from 0 to 9."""
    import numpy as np

    records = of_examples("scaling.records")
    random = np.random.default_rng(0)
    examples = (
        (random.integers(256, size=(size, size, 3), dtype="uint8"), each % 10)
        for each in range(number)
    )
    return records.write(folder, examples, shards, num_classes=10)


def measure(folder, batch_size, part, parts):
    """How an epoch of one process goes."""
    import resource  # which only Unix has

    from keras_capsules import MarginLoss
    from keras_capsules.models import EfficientCapsNet

    records = of_examples("scaling.records")
    contents = records.contents_of(folder)
    steps = records.steps(contents, batch_size, parts)
    model = EfficientCapsNet(
        contents["image_shape"],
        contents["num_classes"],
        filters=(16, 32),
        conv_strides=(2, 2, 2),
        decoder_units=None,
    )
    model.compile("adam", MarginLoss())
    fit_and_measure = of_examples("sharded_data").fit_and_measure

    def fit(steps, **options):
        batches = records.read(folder, batch_size, part, parts, **options)
        return fit_and_measure(model, batches.take(steps))

    fit(3, shuffle=1)  # compiles, and takes the memory of the network alone
    before = harness.status("VmHWM")
    limit = 1024 * (harness.status("VmData") + LIMIT_MIB * 1024)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # for good
    found = fit(steps)
    pixels = 4 * steps * batch_size
    for each in contents["image_shape"]:
        pixels *= each
    return {
        "images": steps * batch_size,
        "seconds": round(found["seconds"], 1),
        "waiting": round(100 * found["waiting"], 2),
        "memory_mib": round((harness.status("VmHWM") - before) / 1024),
        "decoded_mib": round(pixels / harness.MEBIBYTE),
    }


def of_examples(name):
    """A module of the examples, which are no package."""
    folder = str(harness.ROOT / "examples")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


if __name__ == "__main__":
    main()
