"""The command `keras-capsules`: a door to functions of `keras_capsules`.

It is a package of its own, because importing anything of `keras_capsules`
imports Keras and its backend, which takes seconds: `--help` and mistakes in
options are answered at once.
"""

import sys
from collections.abc import Sequence

from keras_capsules_cli import commands
from keras_capsules_cli import options

_OURS = ("keras_capsules", "keras_capsules_cli")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: The arguments. Defaults to `None`, those of the process.

    Returns:
        The exit code: 0; 2 for wrong use, which is printed as a sentence, or as
        the help if there are no arguments; 130 if it was interrupted.

    Raises:
        Exception: Whatever is unexpected, so that Python prints the traceback
            and exits with 1.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = options.make_parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    try:
        getattr(commands, arguments.command)(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_of_users(error):
            raise
        text = " ".join(str(error).split())
        print(f"keras-capsules {arguments.command}: {text}", file=sys.stderr)
        return 2
    return 0


def _is_of_users(error):
    """Whether this package raised an error to tell its users something."""
    if isinstance(error, ImportError):
        is_told = error.name is None  # Python names what it cannot import
    else:
        # Its sentences say what was received.
        is_told = isinstance(error, OSError) or (
            isinstance(error, ValueError) and "Received: " in str(error)
        )
    step = error.__traceback__
    while step.tb_next:
        step = step.tb_next
    module = step.tb_frame.f_globals.get("__name__", "")
    return is_told and module.split(".")[0] in _OURS
