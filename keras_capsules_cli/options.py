"""The options of the command, and its help."""

import argparse

from keras_capsules_cli import training
from keras_capsules_cli.parsing import DEFAULT
from keras_capsules_cli.parsing import add_command
from keras_capsules_cli.parsing import add_data_dir
from keras_capsules_cli.parsing import listed

PROGRAM = "keras-capsules"
# As in the package, which takes seconds to import; a test compares them.
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
0; 2 for wrong use; 1 for a fault; or 130 if it was interrupted.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    for add in (
        training.add,
        _evaluate,
        _predict,
        _export,
        _explore,
        _datasets,
    ):
        add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser, *others):
        import importlib.metadata

        print(f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
        parser.exit()


def _evaluate(commands):
    parser = add_command(
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
    add_data_dir(parser)


def _predict(commands):
    parser = add_command(
        commands,
        "predict",
        "name what is in images",
        """\
    keras-capsules predict outputs/train/photos new.png other.jpg
    keras-capsules predict EfficientCapsNet-mnist digit.png --json

Prints the class of each image and the score of every class. Capsule networks
give each class a score of its own, from 0 to 1, whose sum need not be 1. Scores
are no probabilities: they have to be calibrated first.

Images are PNG, JPEG, GIF or BMP files. They are prepared exactly as the images
of a folder are in training: turned into shades of grey, or into colours, as the
network takes them; resized bilinearly, with antialiasing, to its size; values
from 0 to 1. Networks of MNIST's digits expect white ink on black.""",
    )
    add = parser.add_argument
    add("source", metavar="RUN", help=_SOURCE)
    add("images", metavar="IMAGE", nargs="+", help="the path of an image")
    add("--json", action="store_true", help="print a list, for programs")


def _export(commands):
    parser = add_command(
        commands,
        "export",
        "write a trained network for a runtime",
        """\
    keras-capsules export outputs/train/photos photos_model --preprocess \\
        --class-names
    keras-capsules export EfficientCapsNet-mnist digits.onnx --format onnx

    format        DEST ends in   needs
    saved_model                  nothing more; a folder, for TensorFlow
    onnx          .onnx          the extra "formats"
    litert        .tflite        nothing more
    openvino      .xml           the extra "formats"

Install the extra with pip install "keras-capsules[formats]", or in a clone with
pip install ".[formats]".

Without --preprocess, images are numbers from 0 to 1 of the network's size.""",
    )
    add = parser.add_argument
    add("source", metavar="RUN", help=_SOURCE)
    add("path", metavar="DEST", help="the folder or file to make")
    add(
        "--format",
        choices=FORMATS,
        default="saved_model",
        help=f"write this format. {DEFAULT}",
    )
    add("--overwrite", action="store_true", help="replace what is at DEST")
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
    add(
        "--quantization",
        choices=("float16", "int8"),
        help="make a LiteRT file smaller, with numbers of 16 or 8 bits. "
        "Default: 32 bits",
    )


def _explore(commands):
    parser = add_command(
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
    Compare      Two networks side by side on the same drawing.

Networks are those whose weights the package has, and your own. A drawing is
prepared as MNIST's digits were: 20 pixels high or wide, centred by its mass in
28 by 28. All of it stays on this machine: no host is asked for anything.

Needs Gradio: pip install "keras-capsules[explorer]", or in a clone with
pip install ".[explorer]".""",
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
        help="your own for two digits: weights of "
        "EfficientCapsNet.multi_mnist(), the paper's network, as "
        "`save_weights` writes them, or a .keras file for pictures of 36 by 36",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="the address to serve at. Default: %(default)s, for this machine "
        "alone; 0.0.0.0 lets all machines of the network in",
    )
    add(
        "--port",
        type=int,
        default=7860,
        metavar="N",
        help=f"the port to serve at. {DEFAULT}",
    )


def _datasets(commands):
    parser = add_command(
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
    add(
        "name",
        nargs="?",
        metavar="NAME",
        choices=training.TASKS,
        help=listed(training.TASKS),
    )
    add_data_dir(parser)
