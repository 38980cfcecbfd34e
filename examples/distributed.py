"""Many classes: a network whose class capsules are shared out among devices.

    export KERAS_BACKEND=jax
    python examples/distributed.py --devices 2 --model-parallel 2
    python examples/distributed.py --processes 2 --devices 1 --model-parallel 2

The second command starts two processes on this machine, which work together as
processes on several hosts do. There, each is started by itself, with the
number of the process and the address of the first one:

    python examples/distributed.py --processes 2 --process 0 \
        --coordinator host0:1234 --output /shared/run
    python examples/distributed.py --processes 2 --process 1 \
        --coordinator host0:1234 --output /shared/run

On GPUs, leave out `--devices`. `docs/many_devices.md` says how to do it with
Slurm and on Kubernetes.

Class capsules have a matrix for each pair of an input capsule and a class. With
1,000 classes that is 16 million weights, more than 99 % of this network.
`--model-parallel` shares them out among so many devices, together with the
votes and the state of the optimizer; the other devices work on other examples
of each batch.

Each class is a pattern of 6 x 6 cells, drawn at a random place, with noise.
`--data` reads images of your own instead, which `examples/sharded_data.py`
wrote: each process reads files of its own.

After each epoch, process 0 writes the state of the training into the folder
`--output`, which all processes must see. Killed, and started again with the
same command, the training goes on from there; the number of processes and
devices may be another. With more `--epochs`, a training that is finished goes
on, too. An epoch whose loss is NaN is not saved.
"""

import argparse
import sys

import jax
import keras
import numpy as np
from scaling import cluster
from scaling import going_on
from scaling import options
from scaling import records

from keras_capsules import MarginLoss
from keras_capsules import distribution
from keras_capsules.models import CapsNet
from keras_capsules.training import resumable
from keras_capsules.training.records import Progress
from keras_capsules.utils import files

SIZE, CELLS, SCALE = 16, 6, 2
# Where a run happens does not change its result, nor how long it is the epochs
# before its end. What there is of data is a setting, where it lies is none.
PLACES = {
    "epochs",
    "processes",
    "process",
    "coordinator",
    "cluster",
    "devices",
    "timeout",
    "model_parallel",
    "output",
    "data",
}


def main(argv=None):
    arguments = parse(argv)
    cluster.check(arguments)
    if cluster.is_launcher(arguments):
        given = sys.argv[1:] if argv is None else argv
        try:
            cluster.launch(__file__, given, arguments)
        except RuntimeError as error:
            raise SystemExit(
                f"{error}. Run the same command again: it goes on from the "
                f"last epoch that was saved in {arguments.output}."
            ) from None
        return None
    cluster.join(arguments)
    settings = {
        key: value
        for key, value in vars(arguments).items()
        if key not in PLACES
    }
    settings["data"] = identity(arguments)
    folder = files.prepare_folder(arguments.output)
    progress = Progress.of_folder(folder, settings)
    cluster.check_same(
        progress.epoch,
        "Expected a folder `output` that all processes share, with the same "
        "number of finished epochs.",
    )
    try:
        return train(arguments, progress, folder)
    except jax.errors.JaxRuntimeError as error:
        # With several processes, mostly because another one is gone.
        raise SystemExit(
            f"Process {jax.process_index()} cannot go on: {error}. Run the "
            f"same command again: {progress.epoch} epochs are done."
        ) from None


def train(arguments, progress, folder):
    keras.utils.set_random_seed(arguments.seed)
    mesh = cluster.mesh(arguments.model_parallel)
    data = source(arguments, mesh)
    network = CapsNet(
        data.shape,
        data.classes,
        filters=arguments.filters,
        kernel_size=3,
        conv_strides=2,
        num_primary_capsules=arguments.capsules,
        decoder_units=None,
        routing=arguments.routing,
    )
    layout = distribution.layout_map(network, mesh)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=layout,
            batch_dim_name="batch",
            auto_shard_dataset=False,  # each process makes its own examples
        )
    )
    try:
        model = distribution.distribute(network, layout)
        model.compile("adam", MarginLoss(), metrics=["accuracy"])
        model.optimizer.build(model.trainable_variables)
        say_what_is_where(model, mesh)

        def fit_epoch(epoch):
            history = model.fit(
                data.batches(epoch),
                initial_epoch=epoch,
                epochs=epoch + 1,
                steps_per_epoch=data.steps,
                shuffle=False,  # they are in random order
                verbose=2 if jax.process_index() == 0 else 0,
            ).history
            return {key: figures[0] for key, figures in history.items()}

        going_on.train(
            model, fit_epoch, progress, folder, arguments.epochs, gathered, say
        )
    finally:
        keras.distribution.set_distribution(None)
    say(f"Loss {progress.curve[-1]['loss']:.5f}.")
    return progress


def identity(arguments):
    """Which data a run is trained on."""
    if arguments.data is None:
        return "patterns"
    return records.identity(records.contents_of(arguments.data))


def source(arguments, mesh):
    """The examples of this process."""
    size, (part, parts) = arguments.batch_size, cluster.share(mesh)
    if size % mesh.shape[0]:
        raise ValueError(
            f"Expected a multiple of {mesh.shape[0]}, the number of devices "
            f"that share a batch. Received: batch_size={size}"
        )
    kind = Patterns if arguments.data is None else Files
    return kind(arguments, size // parts, part, parts)


class Patterns:
    """Examples that are made on the way."""

    shape = (SIZE, SIZE, 1)

    def __init__(self, arguments, size, part, parts):
        del parts
        self.classes, self.seed = arguments.classes, arguments.seed
        self.steps = arguments.steps
        self.batch_size = arguments.batch_size
        self.rows = slice(part * size, (part + 1) * size)
        random = np.random.default_rng(self.seed)
        cells = random.integers(0, 2, (self.classes, CELLS, CELLS))
        self.patterns = np.kron(cells, np.ones((SCALE, SCALE)))

    def batches(self, epoch):
        for step in range(self.steps):
            yield self.batch([self.seed, epoch, step])

    def batch(self, seed):
        """The rows of this process. All processes make the same batch."""
        random = np.random.default_rng(seed)
        images = random.uniform(0, 0.2, (self.batch_size, *self.shape))
        labels = random.integers(0, self.classes, self.batch_size)
        room = SIZE - CELLS * SCALE + 1
        places = random.integers(0, room, (self.batch_size, 2))
        for image, label, (y, x) in zip(images, labels, places, strict=True):
            pattern = self.patterns[label]
            height, width = pattern.shape
            image[y : y + height, x : x + width, 0] += 0.8 * pattern
        return images[self.rows].astype("float32"), labels[self.rows]


class Files:
    """Examples from files, of which each process reads its own."""

    def __init__(self, arguments, size, part, parts):
        contents = records.contents_of(arguments.data)
        self.shape = tuple(contents["image_shape"])
        self.classes = contents["num_classes"]
        self.steps = records.steps(contents, size, parts)
        self.arguments = (arguments.data, size, part, parts)
        self.seed = arguments.seed

    def batches(self, epoch):
        data = records.read(*self.arguments, epoch=epoch, seed=self.seed)
        return data.take(self.steps)


def say_what_is_where(model, mesh):
    variables = resumable.state(model)
    whole = sum(each.value.nbytes for each in variables)
    share = cluster.share_of_a_device(variables)
    say(
        f"{jax.process_count()} processes, {mesh.devices.size} devices: "
        f"{mesh.shape[0]} groups share a batch, {mesh.shape[1]} devices of a "
        "group share the class capsules. Weights and the optimizer's state are "
        f"{whole:,} bytes, {share:,} of them on each device."
    )


def gathered(model):
    """The state of the training in process 0, which writes it; else `None`."""
    is_first = jax.process_index() == 0
    arrays = []
    for variable in resumable.state(model):
        array = cluster.gathered(variable)
        if is_first:
            arrays.append(array)
    return arrays if is_first else None


def say(text):
    if jax.process_index() == 0:
        print(text, flush=True)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, positive = parser.add_argument, options.at_least(1)
    add("--classes", type=positive, default=1000)
    add("--steps", type=positive, default=100, help="of an epoch")
    add("--data", help="folder of images to train on instead")
    add("--epochs", type=positive, default=3)
    add("--batch-size", type=positive, default=32, help="over all devices")
    add("--filters", type=positive, default=32)
    add(
        "--capsules",
        type=positive,
        default=14,
        help="types of primary capsules",
    )
    add("--routing", default="dynamic")
    add("--seed", type=options.at_least(0), default=0)
    add(
        "--model-parallel",
        type=positive,
        default=1,
        help="devices for one model",
    )
    add("--output", default="outputs/distributed")
    cluster.add_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
