"""The options of the command, and its help."""

import argparse
import json
import pathlib

PROGRAM = "keras-capsules"
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
FORMATS = ("saved_model", "onnx", "litert", "openvino")

_SOURCE = (
    "the folder of a run, such as outputs/train/conv_net-digits, or the name "
    "of weights that the package has, such as EfficientCapsNet-mnist"
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,  # the record leaves paths out by their options
        description="Trains capsule networks, tests them, and uses them.",
        epilog="""\
From a folder of images, one subfolder for each class, to an exported network:

    keras-capsules train efficient_capsnet photos --image-size 32 \\
        --batch-size 16 --epochs 20 --name photos
    keras-capsules evaluate outputs/train/photos --plot confusion.png
    keras-capsules predict outputs/train/photos new.png
    keras-capsules export outputs/train/photos photos_model

`keras-capsules COMMAND --help` shows the options of a command. The exit code is
0, or 2 for wrong use, or 1 for a fault.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    for add in (_train, _evaluate, _predict, _export, _explore, _datasets):
        add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser, *others):
        import importlib.metadata

        print(f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
        parser.exit()


def _add_command(commands, name, summary, description):
    return commands.add_parser(
        name,
        allow_abbrev=False,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _train(commands):
    parser = _add_command(
        commands,
        "train",
        "train a network, and write down how well it does",
        """\
    keras-capsules train efficient_capsnet digits
    keras-capsules train capsnet photos --image-size 32 --epochs 30 --flip
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
    add = parser.add_argument
    add("network", metavar="NETWORK", choices=NETWORKS, help=_list(NETWORKS))
    add(
        "task",
        metavar="TASK",
        help=f"{_list(TASKS)}; or the path of a folder of images, with one "
        "subfolder for each class. (./mnist is a folder)",
    )
    for group in (_of_folders, _of_training, _of_changes, _of_output):
        group(parser)


def _of_folders(parser):
    add = parser.add_argument_group("a folder of images").add_argument
    add(
        "--image-size",
        type=_sizes,
        default=32,
        metavar="PIXELS",
        help="the size to which all images are resized: one number, or height "
        "and width, such as 28x48. Default: 32",
    )
    add(
        "--color-mode",
        choices=("rgb", "grayscale"),
        default="rgb",
        help=_DEFAULT,
    )


def _of_training(parser):
    add = parser.add_argument_group("training").add_argument
    add(
        "--options",
        type=_dictionary,
        default={},
        metavar="JSON",
        help="further arguments of the network, such as '{\"filters\": 64}'",
    )
    add("--epochs", type=_positive, default=10, help=_DEFAULT)
    add(
        "--passes",
        type=_positive,
        default=1,
        help=f"over the images, in an epoch. {_DEFAULT}",
    )
    add("--per-class", type=_positive, help="images of each class to train on")
    add("--batch-size", type=_positive, default=64, help=_DEFAULT)
    add("--learning-rate", type=float, default=1e-3, help=_DEFAULT)
    add("--warmup", type=float, default=0.0, help="epochs of a rising rate")
    add("--weight-decay", type=float, default=0.0, help=_DEFAULT)
    add("--average", type=float, default=0.0, help="of weights, such as 0.999")
    add("--patience", type=_positive, help="epochs without a better one")
    add("--no-validation", action="store_true", help="train on all images")
    add("--seed", type=int, default=0, help=_DEFAULT)
    add("--dtype", default="float32", help=f"a policy of Keras. {_DEFAULT}")


def _of_changes(parser):
    group = parser.add_argument_group("random changes of training images")
    for name, text in (
        ("shift", "pixels, up and down, left and right, at most"),
        ("rotation", "degrees, in both directions, at most"),
        ("scale", "0.1 is from 0.9 to 1.1, for height and width"),
        ("shear", "part of the height"),
    ):
        group.add_argument(f"--{name}", type=float, default=0.0, help=text)
    add = group.add_argument
    add("--flip", action="store_true", help="left and right")
    add(
        "--erase", type=int, default=0, help="pixels of a side of a grey square"
    )
    add("--brightness", type=float, default=0.0, help="0.1 is from 0.9 to 1.1")
    add("--noise", type=float, default=0.0, help="standard deviation")


def _of_output(parser):
    add = parser.add_argument_group("output").add_argument
    add("--test", action="store_true", help="measure the test error at the end")
    add("--name", help="of the run. By default, of network and task")
    add("--output", default="outputs/train", help=_DEFAULT)
    add("--tensorboard", action="store_true", help="write logs for TensorBoard")
    _add_data_dir(add)


def _evaluate(commands):
    parser = _add_command(
        commands,
        "evaluate",
        "measure the error of a trained network",
        """\
    keras-capsules evaluate outputs/train/efficient_capsnet-digits
    keras-capsules evaluate outputs/train/photos --plot confusion.png
    keras-capsules evaluate outputs/train/photos --data more_photos

Prints the error, and a table of which classes were taken for which. The images
are the test images of the data set. Of a folder of images, they are those that
were not trained on; `--data` names another folder with the same subfolders.""",
    )
    add = parser.add_argument
    add("source", metavar="RUN", help=_SOURCE)
    add("--data", metavar="FOLDER", help="a folder of images to test on")
    add("--plot", metavar="FILE", help="draw the table, as .png, .svg or .pdf")
    _add_data_dir(add)


def _predict(commands):
    parser = _add_command(
        commands,
        "predict",
        "name what is in images",
        """\
    keras-capsules predict outputs/train/photos new.png other.jpg
    keras-capsules predict EfficientCapsNet-mnist digit.png --json

Prints the class of each image and the probability of every class. Capsule
networks give each class a probability of its own, so that their sum need not be
1. Images are PNG, JPEG, GIF or BMP files. They are prepared exactly as the
images of a folder are in training: turned into shades of grey, or into colours,
as the network takes them; resized bilinearly, with antialiasing, to its size;
values from 0 to 1. Networks of MNIST's digits expect white ink on black.""",
    )
    add = parser.add_argument
    add("source", metavar="RUN", help=_SOURCE)
    add("images", metavar="IMAGE", nargs="+", help="the path of an image")
    add("--json", action="store_true", help="print a list, for programs")


def _export(commands):
    parser = _add_command(
        commands,
        "export",
        "write a trained network for a runtime",
        """\
    keras-capsules export outputs/train/photos photos_model --preprocess \\
        --class-names
    keras-capsules export EfficientCapsNet-mnist digits.onnx --format onnx

    format        DEST ends in   needs
    saved_model                  nothing more; a folder, for TensorFlow
    onnx          .onnx          pip install "keras-capsules[formats]"
    litert        .tflite        nothing more
    openvino      .xml           pip install "keras-capsules[formats]"

Without --preprocess, images are numbers from 0 to 1 of the network's size.""",
    )
    add = parser.add_argument
    add("source", metavar="RUN", help=_SOURCE)
    add("path", metavar="DEST", help="the folder or file to make")
    add("--format", choices=FORMATS, default="saved_model", help=_DEFAULT)
    add("--overwrite", action="store_true", help="replace an older one")
    add(
        "--preprocess",
        action="store_true",
        help="the SavedModel takes pixels from 0 to 255, of any image size",
    )
    add(
        "--class-names",
        action="store_true",
        help="the SavedModel names the class, beside the scores",
    )
    add("--quantization", choices=("float16", "int8"), help="of LiteRT's file")


def _explore(commands):
    parser = _add_command(
        commands,
        "explore",
        "explore networks in the browser",
        """\
    keras-capsules explore
    keras-capsules explore --model outputs/train/capsnet-mnist

Draw a digit, and bend its pose. Open http://127.0.0.1:7860. The page has three
tabs:

    One digit    Draw, take a sample or upload a picture. See the capsules of
                 all classes while you draw, the digit decoded from the winning
                 one, and where in the picture its support comes from. Sixteen
                 sliders add to the numbers of its pose, which is decoded anew.
    Two digits   One on top of the other, each decoded from its own capsule.
                 Needs the weights "multi_mnist", or --two-digits.
    Compare      Two networks side by side on the same drawing.

Networks are those whose weights the package has, and your own. A drawing is
prepared as MNIST's digits were: 20 pixels high or wide, centred by its mass in
28 by 28. All of it stays on this machine: no host is asked for anything.

Needs Gradio: pip install "keras-capsules[explorer]\"""",
    )
    add = parser.add_argument
    add(
        "--model",
        metavar="PATH",
        action="append",
        default=[],
        help="a network of your own for grey pictures: the folder of a run, or "
        "a file that `model.save` wrote; may be given several times. Load only "
        "files that you trust",
    )
    add(
        "--two-digits",
        metavar="PATH",
        help="weights of EfficientCapsNet.multi_mnist(), as `save_weights` "
        "writes them, or a .keras file for pictures of 36 by 36",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="the address to serve at. Default: %(default)s, for this machine "
        "alone; 0.0.0.0 lets all machines of the network in",
    )
    add("--port", type=int, default=7860, help=_DEFAULT)


def _datasets(commands):
    parser = _add_command(
        commands,
        "datasets",
        "list the data sets, or download one",
        """\
    keras-capsules datasets
    keras-capsules datasets mnist

Without a name, lists the data sets: their images, licences and downloads. With
a name, downloads and prepares one, if it is not there.""",
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", choices=TASKS, help=_list(TASKS))
    _add_data_dir(add)


_DEFAULT = "Default: %(default)s"


def _add_data_dir(add):
    add(
        "--data-dir",
        metavar="PATH",
        type=pathlib.Path,
        help="where TensorFlow Datasets looks, by default TFDS_DATA_DIR or "
        "~/tensorflow_datasets; for coil20, its file or folder",
    )


def _list(names):
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _positive(text):
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"expected a positive integer, received {text!r}"
        )
    return number


def _dictionary(text):
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(
            "expected a dictionary in JSON, such as '{\"filters\": 64}', "
            f"received {text!r}"
        )
    return found


def _sizes(text):
    """One number, or height and width."""
    sizes = [_positive(each) for each in text.lower().split("x")]
    if len(sizes) > 2:
        raise argparse.ArgumentTypeError(
            f"expected one number, or two such as 28x48, received {text!r}"
        )
    return sizes[0] if len(sizes) == 1 else tuple(sizes)
