"""What two and four devices bring to a network with 1,000 classes.

    python benchmarks/devices.py
    python benchmarks/devices.py --redraw      # writes picture and table only

Trains a CapsNet on one, two and four devices of a CPU, with JAX: with the batch
shared out (`DataParallel`), and with the matrices of the class capsules shared
out over classes or over input capsules (`ModelParallel`, laid out by
`keras_capsules.distribution.layout_map`). Every kind has the same global batch,
and a process of its own. Measures examples per second, the bytes of weights and
of the optimizer's state on each device, and the bytes that the compiled step
needs on each device, and counts the tensors in collective operations of that
step.

One device has all cores of the machine to itself, because XLA computes with
several threads. So several devices of one CPU show what sharing costs, not what
a second GPU brings. Prints the results, writes `devices.json` and `devices.png`
to `benchmarks/results`, and the table between the marks of
`docs/many_devices.md`.
"""

import os
import pathlib
import re
import statistics

import evidence
import harness
import readme

PAGE = harness.ROOT / "docs" / "many_devices.md"
KINDS = {
    "one device": (1, None),
    "batch, 2": (2, None),
    "batch, 4": (4, None),
    "classes, 2": (2, "outputs"),
    "classes, 4": (4, "outputs"),
    "input capsules, 2": (2, "inputs"),
    "input capsules, 4": (4, "inputs"),
}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_INSTRUCTION = re.compile(
    rf"= (\(?\S.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\("
)
_SIZE = re.compile(r"\w+\[([\d,]*)\]")
PANELS = {
    "examples_per_second": ("speed", "examples per second"),
    "state_mib": ("weights and state of a device", "MiB"),
    "temporary_mib": ("memory of the compiled step", "MiB"),
}


def main():
    parser = harness.parser(
        __doc__, classes=1000, batch=32, filters=32, capsules=16, repeats=5
    )
    parser.add_argument("--page", type=pathlib.Path, default=PAGE)
    arguments = parser.parse_args()
    if not arguments.redraw:
        sizes = {
            name: getattr(arguments, name)
            for name in ("classes", "batch", "filters", "capsules")
        }
        found = {}
        for kind, (devices, capsules) in KINDS.items():
            found[kind] = harness.call(
                measure,
                devices,
                capsules,
                sizes,
                arguments.repeats,
                backend="jax",
            )
            print(f"{kind}: {found[kind]}", flush=True)
        harness.write("devices", {**sizes, "kinds": found}, arguments.output)
    found = harness.read("devices", arguments.output)["kinds"]
    draw(found, arguments)
    text = evidence.put(arguments.page.read_text(), "devices", table(found))
    harness.write_text(arguments.page, text)


def table(found):
    """A row for each way to share, in Markdown."""
    titles = [f"{title}, {unit}" for title, unit in PANELS.values()]
    rows = [
        [
            kind,
            *(f"{each[key]:,}" for key in PANELS),
            sum(each["collectives"].values()),
            f"{each['largest']:,}",
        ]
        for kind, each in found.items()
    ]
    heads = ["shared out", *titles, "tensors communicated", "the largest"]
    return readme.in_markdown([heads, *rows])


def draw(found, arguments):
    harness.draw(
        "devices",
        {
            title: {"": {kind: {"": each[key]} for kind, each in found.items()}}
            for key, (title, _) in PANELS.items()
        },
        arguments.output,
        dict(PANELS.values()),
    )


def collectives(text):
    """The collective operations of a compiled program.

    Args:
        text: The program, as XLA writes it.

    Returns:
        Dictionary of lists, for each kind of operation that there is: how many
        numbers each tensor has that is communicated.
    """
    found = {}
    for result, name in _INSTRUCTION.findall(text):
        for sizes in _SIZE.findall(result):
            number = 1
            for size in filter(None, sizes.split(",")):
                number *= int(size)
            found.setdefault(name, []).append(number)
    return found


# In a process of its own.


def measure(devices, capsules, sizes, repeats):
    """Speed, memory and communication of a training step."""
    import time

    import keras
    import numpy as np

    # JAX reads it when it first looks for devices.
    flag = f"--xla_force_host_platform_device_count={devices}"
    flags = [os.environ.get("XLA_FLAGS", ""), flag]
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    model = make(devices, capsules, sizes)
    step = compile_step(model, sizes)
    random = np.random.default_rng(0)
    images = random.uniform(size=(sizes["batch"], 16, 16, 1)).astype("float32")
    labels = random.integers(0, sizes["classes"], sizes["batch"])
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        model.train_on_batch(images, labels)
        seconds.append(time.perf_counter() - started)
    variables = [*model.variables, *model.optimizer.variables]
    held = sum(
        int(np.prod(each.value.sharding.shard_shape(each.value.shape)))
        * each.value.dtype.itemsize
        for each in variables
    )
    counted = collectives(step.as_text())
    keras.distribution.set_distribution(None)
    return {
        # The first two steps compile.
        "examples_per_second": round(
            sizes["batch"] / statistics.median(seconds[2:]), 2
        ),
        "state_mib": round(held / harness.MEBIBYTE, 2),
        "temporary_mib": round(
            step.memory_analysis().temp_size_in_bytes / harness.MEBIBYTE, 2
        ),
        "collectives": {name: len(each) for name, each in counted.items()},
        "largest": max((max(each) for each in counted.values()), default=0),
    }


def make(devices, capsules, sizes):
    """A compiled network on some devices."""
    import keras

    from keras_capsules import MarginLoss
    from keras_capsules import distribution
    from keras_capsules.models import CapsNet

    keras.utils.set_random_seed(0)

    def network():
        return CapsNet(
            (16, 16, 1),
            sizes["classes"],
            filters=sizes["filters"],
            kernel_size=3,
            conv_strides=2,
            num_primary_capsules=sizes["capsules"],
            decoder_units=None,
        )

    if capsules is None:
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(parallel)
        model = network()
    else:
        mesh = keras.distribution.DeviceMesh((1, devices), ["batch", "model"])
        original = network()
        layout = distribution.layout_map(original, mesh, capsules=capsules)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=layout,
                batch_dim_name="batch",
                auto_shard_dataset=False,
            )
        )
        model = distribution.distribute(original, layout)
    model.compile("adam", MarginLoss())
    model.optimizer.build(model.trainable_variables)
    return model


def compile_step(model, sizes):
    """The training step as JAX compiles it, written with Keras's functions."""
    import jax
    import keras
    import numpy as np

    distribution = keras.distribution.distribution()
    images = np.zeros((sizes["batch"], 16, 16, 1), "float32")
    labels = np.zeros(sizes["batch"], "int32")
    images, labels = (
        keras.distribution.distribute_tensor(
            jax.numpy.asarray(each), distribution.get_data_layout(each.shape)
        )
        for each in (images, labels)
    )

    def loss(trainable, fixed, images, labels):
        scores, fixed = model.stateless_call(
            trainable, fixed, images, training=True
        )
        return keras.ops.mean(model.loss(labels, scores)), fixed

    def step(trainable, fixed, state, images, labels):
        (value, fixed), gradients = jax.value_and_grad(loss, has_aux=True)(
            trainable, fixed, images, labels
        )
        trainable, state = model.optimizer.stateless_apply(
            state, gradients, trainable
        )
        return value, trainable, fixed, state

    values = [
        [each.value for each in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
        )
    ]
    places = jax.tree.map(lambda each: each.sharding, values)
    jitted = jax.jit(step, out_shardings=(None, *places))
    return jitted.lower(*values, images, labels).compile()


if __name__ == "__main__":
    main()
