"""Images from many files, read while the network trains.

    python examples/sharded_data.py --write 20000
    python examples/sharded_data.py --epochs 2

The first command writes images into the files of a folder: digits, each moved
at random, one image at a time. The second one trains on them. Files are read
and images decoded by several threads while the network works on the batches
before, so that memory holds a few thousand encoded images and a few batches,
however many there are.

After each epoch it prints the share of the time in which training waited for
images. If that is more than a few per cent, the network is faster than the
input. `examples/distributed.py --data FOLDER` trains one network on several
machines, each of which reads files of its own.

`--processes 4 --process 2` measures what one of four machines would wait: it
reads the files of that one only, and trains a network of its own on them, into
a folder of its own.

Killed, and started again, training goes on after the last epoch that it
finished. With more `--epochs`, a training that is finished goes on, too. An
epoch whose loss is NaN is not saved.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from scaling import going_on
from scaling import options
from scaling import records

from keras_capsules import MarginLoss
from keras_capsules import datasets
from keras_capsules.models import EfficientCapsNet
from keras_capsules.training.records import Progress
from keras_capsules.utils import files

SIZE = 16


def main(argv=None):
    arguments = parse(argv)
    folder = pathlib.Path(arguments.folder)
    if arguments.write is not None:
        contents = records.write(
            folder,
            moved_digits(arguments.write, arguments.seed),
            arguments.shards,
            datasets.info("digits").num_classes,
        )
        print(f"{arguments.write} images in {len(contents['files'])} files.")
        return contents
    return train(arguments, folder)


def moved_digits(number, seed):
    """Digits at random places of larger images, one after the other."""
    images, labels = datasets.load_arrays("digits")
    random = np.random.default_rng(seed)
    _, height, width, channels = images.shape
    for _ in range(number):
        each = random.integers(len(images))
        y, x = random.integers((SIZE - height + 1, SIZE - width + 1))
        canvas = np.zeros((SIZE, SIZE, channels), "uint8")
        pixels = np.round(255 * images[each])
        canvas[y : y + height, x : x + width] = pixels
        yield canvas, labels[each]


def train(arguments, folder):
    part, parts = arguments.process, arguments.processes
    if not 0 <= part < parts:
        raise ValueError(
            f"Expected a number of a process from 0 to {parts - 1}, one less "
            f"than --processes. Received: process={part}"
        )
    contents = records.contents_of(folder)
    steps = records.steps(contents, arguments.batch_size, parts)
    output = pathlib.Path(arguments.output)
    if parts > 1:
        output /= f"process-{part}-of-{parts}"
    files.prepare_folder(output)
    # Not `epochs`: it does not change those before.
    settings = {
        key: getattr(arguments, key)
        for key in ("batch_size", "process", "processes", "seed")
    }
    settings["data"] = records.identity(contents)
    progress = Progress.of_folder(output, settings)
    keras.utils.set_random_seed(arguments.seed)
    model = EfficientCapsNet(
        contents["image_shape"],
        contents["num_classes"],
        filters=(16, 32),
        decoder_units=None,
    )
    model.compile("adam", MarginLoss(), metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)

    def fit_epoch(epoch):
        batches = records.read(
            folder, arguments.batch_size, part, parts, epoch, arguments.seed
        ).take(steps)
        logs = fit_and_measure(model, batches)
        print(
            f"Epoch {epoch + 1}: {steps} steps, loss {logs['loss']:.4f}, "
            f"accuracy {logs['accuracy']:.1%}. Waited for images "
            f"{logs['waiting']:.1%} of {logs['seconds']:.1f} s."
        )
        return logs

    going_on.train(model, fit_epoch, progress, output, arguments.epochs)
    return progress


def fit_and_measure(model, batches):
    """Trains for an epoch, and measures how long it waits for batches."""
    waited, images, sums, steps = 0.0, iter(batches), {}, 0
    started = first_step = time.perf_counter()
    while True:
        before = time.perf_counter()
        batch = next(images, None)
        if batch is None:
            break
        # Files are opened before the first batch, and the first step compiles:
        # neither says how an epoch goes.
        if first_step != started:
            waited += time.perf_counter() - before
        logs = model.train_on_batch(*map(np.asarray, batch), return_dict=True)
        # They are of this batch alone; all batches have the same size.
        for key, value in logs.items():
            sums[key] = sums.get(key, 0.0) + float(value)
        steps += 1
        if first_step == started:
            first_step = time.perf_counter()
    seconds = time.perf_counter() - first_step
    return {
        **{key: total / steps for key, total in sums.items()},
        "waiting": waited / seconds,
        "seconds": seconds,
    }


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, positive = parser.add_argument, options.at_least(1)
    add(
        "--folder",
        default="outputs/images",
        help="of the images; --write replaces it",
    )
    add("--write", type=positive, metavar="NUMBER", help="of images, then end")
    add("--shards", type=positive, default=16, help="files to write them into")
    add("--epochs", type=positive, default=3)
    add("--batch-size", type=positive, default=64)
    add("--processes", type=positive, default=1, help="that share the files")
    add("--process", type=int, default=0, help="read the files of this one")
    add("--seed", type=options.at_least(0), default=0)
    add("--output", default="outputs/sharded_data")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
