"""Options of commands that are integers."""

import argparse


def at_least(minimum):
    """The type of an option: an integer that is not less than this."""

    def parsed(text):
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"Expected an integer of at least {minimum}. Received: {text!r}"
            )
        return value

    return parsed
