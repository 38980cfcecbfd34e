"""Trains the networks of `docs/evidence.md`, each with several seeds.

    python benchmarks/trainings.py --coil20 ../coil20.npz    # all of them
    python benchmarks/trainings.py mnist-conv_net --seeds 0

Settings stand here since before the test images were looked at for them, but
for some that the page names; it says which were chosen, and how. A run that has
a record in `benchmarks/results/runs` is not repeated. A run that was stopped
goes on from its last epoch. Files that git does not know have to be outside the
checkout.
"""

import argparse
import json
import pathlib
import re
import shlex
import subprocess
import sys

import harness
from harness import provenance

# The arguments of `keras-capsules train`, by the name of the runs.
_CHANGES = "--shift 2 --rotation 10 --scale 0.1"
_MNIST = (
    "mnist --no-validation --epochs 16 --learning-rate 0.003 --warmup 1 "
    f"--average 0.999 {_CHANGES}"
)
_COIL20 = (
    "coil20 --no-validation --epochs 200 --batch-size 16 --warmup 10 "
    "--average 0.99 --shift 2 --scale 0.1"
)
# An epoch is 10,000 images, however few differ. There is no average of weights,
# because it would still hold some of the first ones.
_FEW = (
    "mnist --no-validation --epochs 10 --learning-rate 0.003 --warmup 1 "
    f"{_CHANGES} --per-class {{}} --passes {{}}"
)
# The images of MultiMNIST are new ones in each epoch, and those of affine MNIST
# are at new places; there are no further changes.
_PAIRS = (
    "multi_mnist --no-validation --epochs 30 --learning-rate 0.003 --warmup 1 "
    "--average 0.999"
)
_PLACES = (
    "affine_mnist --no-validation --epochs 16 --learning-rate 0.003 --warmup 1 "
    "--average 0.999"
)
_FASHION = (
    "fashion_mnist --no-validation --epochs 36 --learning-rate 0.003 "
    "--warmup 1 --weight-decay 0.01 --average 0.999 --flip --shift 2"
)
_CIFAR10 = (
    "cifar10 --no-validation --epochs 45 --learning-rate 0.003 --warmup 2 "
    "--weight-decay 0.02 --average 0.999 --flip --shift 4"
)
# Deeper than the paper's network, and with maps that shrink earlier, which is
# less to compute. There are about as many parameters, and more for MultiMNIST.
_DEEPER = {
    "fashion_mnist": {
        "kernel_sizes": 3,
        "padding": "same",
        "filters": [32, 32, 64, 64],
        "conv_strides": [1, 2, 1, 1, 2],
        "decoder_units": [512, 512],
    },
    "multi_mnist": {
        "kernel_sizes": [5, 3, 3, 3, 3, 3],
        "padding": "same",
        "filters": [32, 64, 64, 128, 128],
        "conv_strides": [1, 2, 1, 2, 1, 1],
        "num_primary_capsules": 32,
        "decoder_units": [512, 512],
    },
    "cifar10": {
        "kernel_sizes": 3,
        "padding": "same",
        "filters": [32, 64, 64, 96, 96],
        "conv_strides": [1, 2, 1, 1, 2, 1],
        "decoder_units": None,
    },
}
# Thousands of parameters, and options with which networks have about as many.
_SIZES = {
    "efficient_capsnet": {
        5: {
            "filters": [8, 8, 8],
            "num_primary_capsules": 4,
            "primary_dim": 4,
            "capsule_dim": 4,
        },
        11: {
            "filters": [8, 12, 12],
            "num_primary_capsules": 8,
            "primary_dim": 4,
            "capsule_dim": 8,
        },
        25: {
            "filters": [12, 16, 16],
            "num_primary_capsules": 8,
            "capsule_dim": 8,
        },
        62: {
            "filters": [16, 32, 32],
            "num_primary_capsules": 12,
            "capsule_dim": 12,
        },
    },
    # With 5,000 and 25,000 parameters, no dropout was better than the default.
    "conv_net": {
        5: {"filters": [8, 8, 8], "units": [24], "dropout": 0.0},
        11: {"filters": [8, 16, 20], "units": [20], "dropout": 0.0},
        25: {"filters": [12, 24, 30], "units": [30], "dropout": 0.0},
        62: {"filters": [20, 40, 40], "units": [60], "dropout": 0.0},
    },
}
TRAININGS = {
    "mnist-efficient_capsnet": f"efficient_capsnet {_MNIST}",
    "mnist-conv_net": f"conv_net {_MNIST}",
    "mnist-squeeze_excitation_net": f"squeeze_excitation_net {_MNIST}",
    # It takes long, so there are fewer epochs, and convolutions compute in 16
    # bits, which needs a processor with AVX512-BF16 or AMX. It learns at the
    # rate and from the batches of its paper.
    "mnist-capsnet": "capsnet mnist --no-validation --epochs 12 "
    "--batch-size 128 --dtype mixed_bfloat16 "
    f"--learning-rate 0.001 --warmup 1 --average 0.999 {_CHANGES}",
    "coil20-efficient_capsnet": f"efficient_capsnet {_COIL20}",
    "coil20-conv_net": f"conv_net {_COIL20}"
    """ --options '{"normalization": "batch"}'""",
    "coil20-squeeze_excitation_net": f"squeeze_excitation_net {_COIL20}",
    "fashion_mnist-efficient_capsnet": f"efficient_capsnet {_FASHION} "
    f"--options '{json.dumps(_DEEPER['fashion_mnist'])}'",
    # No dropout was better than the default after 8 epochs.
    "fashion_mnist-conv_net": f"conv_net {_FASHION}"
    """ --options '{"normalization": "batch", "dropout": 0.0}'""",
    # Of three sizes, the best after 2 epochs.
    "multi_mnist-efficient_capsnet-deep": f"efficient_capsnet {_PAIRS} "
    f"--options '{json.dumps(_DEEPER['multi_mnist'])}'",
    # As many parameters and epochs.
    "multi_mnist-conv_net-deep": f"conv_net {_PAIRS} --options "
    """'{"normalization": "batch", "filters": [32, 64, 128, 192], """
    """"units": [185]}'""",
    "affine_mnist-efficient_capsnet": f"efficient_capsnet {_PLACES}",
    "affine_mnist-conv_net": f"conv_net {_PLACES} --options "
    """'{"normalization": "batch", "units": [64]}'""",
    "cifar10-efficient_capsnet": f"efficient_capsnet {_CIFAR10} "
    f"--options '{json.dumps(_DEEPER['cifar10'])}'",
    "cifar10-squeeze_excitation_net": f"squeeze_excitation_net {_CIFAR10} "
    """--options '{"filters": [24, 48, 84]}'""",
    **{
        f"mnist-{network}-{size}k": f"{network} {_MNIST} "
        f"--options '{json.dumps(options)}'"
        for network, sizes in _SIZES.items()
        for size, options in sizes.items()
    },
    **{
        f"mnist-{network}-few{number}": f"{network} "
        + _FEW.format(number, 1000 // number)
        for number in (1000, 100, 10, 1)
        for network in (
            "efficient_capsnet",
            "conv_net",
            "squeeze_excitation_net",
        )
    },
    "mnist-capsnet-few1000": "capsnet "
    + _FEW.format(1000, 1).replace("0.003", "0.001"),
}
SEEDS = {
    "mnist": range(3),
    "fashion_mnist": range(3),
    "multi_mnist": range(3),
    "affine_mnist": range(3),
    "cifar10": range(3),
    "coil20": range(5),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", choices=[[], *TRAININGS], metavar="name")
    add("--seeds", nargs="+", type=int, help="by default, 0 to 2 or 4")
    add("--data-dir", help="where TensorFlow Datasets looks")
    add("--coil20", help="the file of COIL-20")
    add("--output", type=pathlib.Path, default=pathlib.Path("outputs/runs"))
    add("--records", type=pathlib.Path, default=harness.RESULTS / "runs")
    arguments = parser.parse_args()
    names = arguments.names or list(TRAININGS)
    if any("coil20" in name for name in names) and not arguments.coil20:
        parser.error("COIL-20 is not downloaded: give the path with --coil20")
    arguments.records.mkdir(parents=True, exist_ok=True)
    for name in names:
        for seed in arguments.seeds or SEEDS[name.split("-")[0]]:
            train(f"{name}-seed{seed}", TRAININGS[name], seed, arguments)


def train(name, options, seed, arguments):
    """Makes one record, if it is not there."""
    record = arguments.records / f"{name}.json"
    options = [*shlex.split(options), "--seed", str(seed), "--test"]
    options += ["--name", name]
    if record.exists():
        check(record, options)
        return
    commit = provenance.commit()
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(
            "A record of code that is not committed could not be kept. "
            f"Expected a checkout without changes. Received: commit={commit!r}"
        )
    print(f"\n{name}: {shlex.join(options)}", flush=True)
    command = [sys.executable, harness.ROOT / "examples" / "train.py"]
    command += [*options, "--output", arguments.output]
    folder = arguments.coil20 if "coil20" in options else arguments.data_dir
    if folder:
        command += ["--data-dir", folder]
    subprocess.run(command, check=True)
    text = (arguments.output / name / "record.json").read_text()
    harness.write_text(record, text)


def check(path, options):
    """Refuses a record of other settings."""
    expected = shlex.join(options)
    found = arguments_of(json.loads(path.read_text())["command"])
    if found != expected:
        raise ValueError(
            "A record is of other settings: remove it, or give these another "
            f"name. Expected {expected!r}. Received: {path.name} with {found!r}"
        )


def arguments_of(command):
    """The arguments of a command that trained: the script is as good."""
    for program in ("python examples/train.py ", "keras-capsules train "):
        command = command.removeprefix(program)
    return command


if __name__ == "__main__":
    main()
