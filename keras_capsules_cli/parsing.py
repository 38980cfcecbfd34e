"""What the options of several commands are made of."""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

DEFAULT = "Default: %(default)s"


def add_command(
    commands: Any, name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """Adds a command, and returns its parser.

    Args:
        commands: What `add_subparsers` returns.
        name: String, the name of the command.
        summary: What it does, without a full stop, for the list of commands.
        description: The text below the summary in the help of the command.
    """
    return commands.add_parser(
        name,
        allow_abbrev=False,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_data_dir(parser: Any) -> None:
    """Adds the option for the folder of data sets.

    Args:
        parser: A parser, or a group of one.
    """
    parser.add_argument(
        "--data-dir",
        metavar="PATH",
        type=pathlib.Path,
        help="look for TensorFlow Datasets in this folder; for coil20, its "
        "file or folder. Default: TFDS_DATA_DIR or ~/tensorflow_datasets",
    )


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    Args:
        names: Two or more strings.
    """
    return f"{', '.join(names[:-1])} or {names[-1]}"


def positive(text: str) -> int:
    """A positive integer.

    Args:
        text: The value of an option.

    Raises:
        ArgumentTypeError: If it is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"expected a positive integer, received {text!r}"
        )
    return number


def dictionary(text: str) -> dict[str, Any]:
    """A dictionary in JSON.

    Args:
        text: The value of an option.

    Raises:
        ArgumentTypeError: If it is none.
    """
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


def sizes(text: str) -> int | tuple[int, ...]:
    """One number, or height and width.

    Args:
        text: The value of an option.

    Raises:
        ArgumentTypeError: If it is neither.
    """
    found = [positive(each) for each in text.lower().split("x")]
    if len(found) > 2:
        raise argparse.ArgumentTypeError(
            f"expected one number, or two such as 28x48, received {text!r}"
        )
    return found[0] if len(found) == 1 else tuple(found)
