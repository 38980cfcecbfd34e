"""The options of `train`, and its help."""

from typing import Any

from keras_capsules_cli.parsing import DEFAULT
from keras_capsules_cli.parsing import add_command
from keras_capsules_cli.parsing import add_data_dir
from keras_capsules_cli.parsing import dictionary
from keras_capsules_cli.parsing import listed
from keras_capsules_cli.parsing import positive
from keras_capsules_cli.parsing import sizes

# As in the package, which takes seconds to import; a test compares them.
NETWORKS = (
    "capsnet",
    "efficient_capsnet",
    "deep_caps",
    "inverted_attention_capsnet",
    "matrix_capsnet",
    "conv_net",
    "squeeze_excitation_net",
)
TASKS = (
    "digits",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "smallnorb",
    "coil20",
    "multi_mnist",
    "affine_mnist",
)
# What to choose them for; the others are named after these.
_ADVICE = {
    "efficient_capsnet": "for few parameters",
    "capsnet": "to begin with",
    "conv_net": "to compare, without capsules",
}


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `add_subparsers` returns.
    """
    parser = add_command(
        commands,
        "train",
        "train a network, and write down how well it does",
        """\
    keras-capsules train efficient_capsnet digits
    keras-capsules train capsnet photos --image-size 32 --batch-size 16 \\
        --epochs 30 --flip
    keras-capsules train efficient_capsnet mnist --epochs 40 --shift 2 \\
        --rotation 10 --options '{"decoder_units": null}' --test

Killed at any moment and started again with the same command, it goes on from
the last epoch, to the same result. The best epoch is chosen on a tenth of the
training images, which are not trained on; `--no-validation` trains on all of
them and keeps the last epoch. Choose settings without `--test`: it measures the
test error once, at the end.

The folder outputs/train/NAME holds the run: record.json (settings, errors, the
curve, class names, versions), the network of the chosen epoch as model.keras
and its weights as model.weights.h5, the state to go on from, and with
`--tensorboard` its logs.""",
    )
    advice = [f"{name} {text}" for name, text in _ADVICE.items()]
    others = [name for name in NETWORKS if name not in _ADVICE]
    parser.add_argument(
        "network",
        metavar="NETWORK",
        choices=NETWORKS,
        help=f"{listed(advice)}. The others are {', '.join(others)}",
    )
    parser.add_argument(
        "task",
        metavar="TASK",
        help=f"a data set: {listed(TASKS)}; or the path of a folder of images, "
        "with one subfolder for each class. A folder with the name of a data "
        "set is written as ./mnist",
    )
    for group in (_of_folders, _of_training, _of_changes, _of_output):
        group(parser)


def _of_folders(parser):
    add = parser.add_argument_group("a folder of images").add_argument
    add(
        "--image-size",
        type=sizes,
        metavar="PIXELS",
        help="resize all images to this size: one number, or height and "
        "width, such as 28x48. Default: 32",
    )
    add(
        "--color-mode",
        choices=("rgb", "grayscale"),
        help="read images in colours, or in shades of grey. Default: rgb",
    )


def _of_training(parser):
    add = parser.add_argument_group("training").add_argument
    add(
        "--options",
        type=dictionary,
        default={},
        metavar="JSON",
        help="set further arguments of the network, such as "
        "'{\"filters\": 64}'. Default: none",
    )
    add(
        "--epochs",
        type=positive,
        default=10,
        metavar="N",
        help=f"train for N epochs. {DEFAULT}",
    )
    add(
        "--passes",
        type=positive,
        default=1,
        metavar="N",
        help=f"count N passes over the images as one epoch. {DEFAULT}",
    )
    add(
        "--per-class",
        type=positive,
        metavar="N",
        help="train on N images of each class, which the seed chooses. "
        "Default: all",
    )
    add(
        "--batch-size",
        type=positive,
        default=64,
        metavar="N",
        help=f"train on N images in each step. {DEFAULT}",
    )
    add(
        "--learning-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="set the largest learning rate, which falls to zero along a "
        f"cosine. {DEFAULT}",
    )
    add(
        "--warmup",
        type=float,
        default=0.0,
        metavar="EPOCHS",
        help="let the learning rate rise from zero during the first EPOCHS. "
        "Default: off",
    )
    add(
        "--weight-decay",
        type=float,
        default=0.0,
        metavar="RATE",
        help="pull the weights of layers to zero at this rate, as AdamW does. "
        "Default: off",
    )
    add(
        "--average",
        type=float,
        default=0.0,
        metavar="MOMENTUM",
        help="average the weights over steps with this momentum, such as "
        "0.999. Default: off",
    )
    add(
        "--patience",
        type=positive,
        metavar="N",
        help="stop after N epochs without a better one. Default: never",
    )
    add(
        "--no-validation",
        action="store_true",
        help="train on all images, and keep the last epoch",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="draw weights, the order of images and their changes from this "
        f"seed. {DEFAULT}",
    )
    add(
        "--dtype",
        default="float32",
        metavar="POLICY",
        help="compute in a dtype policy of Keras. mixed_bfloat16 is faster on "
        "GPUs and TPUs and on processors with AVX512-BF16 or AMX; on others it "
        f"is many times slower. {DEFAULT}",
    )


def _of_changes(parser):
    group = parser.add_argument_group(
        "random changes of training images",
        "All are off by default. They are drawn anew for each image in each "
        "epoch.",
    )
    for name, unit, text in (
        (
            "shift",
            "PIXELS",
            "move images up or down, and left or right, by at most this many "
            "pixels",
        ),
        (
            "rotation",
            "DEGREES",
            "turn images to the left or right, by at most this many degrees",
        ),
        (
            "scale",
            "PART",
            "stretch or shrink height and width, each by at most this part: "
            "0.1 is by factors from 0.9 to 1.1",
        ),
        (
            "shear",
            "PART",
            "slant images, their top against their bottom by at most this "
            "part of the height",
        ),
        (
            "brightness",
            "PART",
            "make images brighter or darker, by at most this part: 0.1 is by "
            "factors from 0.9 to 1.1",
        ),
        (
            "noise",
            "DEVIATION",
            "add normal noise of this standard deviation; pixels are from 0 "
            "to 1",
        ),
    ):
        group.add_argument(
            f"--{name}", type=float, default=0.0, metavar=unit, help=text
        )
    group.add_argument(
        "--erase",
        type=int,
        default=0,
        metavar="PIXELS",
        help="paint a grey square with sides of this many pixels at a random "
        "place",
    )
    group.add_argument(
        "--flip",
        action="store_true",
        help="mirror half of the images, left and right",
    )


def _of_output(parser):
    group = parser.add_argument_group("output")
    add = group.add_argument
    add(
        "--test",
        action="store_true",
        help="measure the test error once, at the end",
    )
    add(
        "--name",
        help="give the run this name. Default: NETWORK-TASK, such as "
        "capsnet-mnist",
    )
    add(
        "--output",
        metavar="FOLDER",
        default="outputs/train",
        help=f"make the folder of the run in this one. {DEFAULT}",
    )
    add(
        "--tensorboard",
        action="store_true",
        help="write logs for TensorBoard into the folder of the run",
    )
    add_data_dir(group)
