"""Explores capsule networks in the browser: draw a digit, and bend its pose.

    python examples/explorer.py
    python examples/explorer.py --model outputs/digits/capsnet.keras

Then open http://127.0.0.1:7860. The page has three tabs:

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

Needs Gradio: pip install ".[explorer]"
"""

import argparse
import importlib.util
import sys


def main(argv=None):
    """Serves the page until it is interrupted."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        sys.exit('The explorer needs Gradio: pip install ".[explorer]"')
    print("Loading the networks ...", flush=True)
    # Only now, so that `--help` is there at once.
    from exploring import networks

    try:
        singles, pair = networks.find(arguments.model, arguments.two_digits)
    except ValueError as error:
        parser.error(str(error))
    from exploring import page

    host, port = arguments.host, arguments.port
    print(f"http://{host}:{port}", flush=True)
    try:
        page.launch(page.make(singles, pair), host, port)
    except OSError:
        parser.error(f"{host}:{port} is taken: choose another --port")


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        metavar="PATH",
        action="append",
        default=[],
        help="a network of your own for grey pictures, a file that "
        "`model.save` wrote; may be given several times. Load only files that "
        "you trust",
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
    add(
        "--port",
        type=int,
        default=7860,
        help="default: %(default)s",
    )
    return parser


if __name__ == "__main__":
    main()
