"""The Python blocks of a page in Markdown, and running them.

A block of Python whose reader gets an error or a warning is followed by a block
of text that shows it, which begins with the name of its class. There, "..."
stands for anything, such as numbers that differ between runs.

This file needs Python alone, because `make release` runs it where only the
package is installed:

    python markdown.py README.md
"""

import inspect
import itertools
import pathlib
import re
import sys
import warnings

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"(\w*(?:Error|Warning)): (.*)", re.DOTALL)


def blocks(text):
    """The fenced Python blocks that are examples, not formulas."""
    text = inspect.cleandoc(text or "")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def blocks_with_errors(text):
    """The Python blocks, each with the error or warning that is shown below.

    Returns:
        Pairs of the code and `None`, or the name of a class and its message.
    """
    found = list(BLOCK.finditer(text))
    pairs = []
    for block, after in itertools.zip_longest(found, found[1:]):
        if block[1] != "python":
            continue
        shown = None
        if (
            after
            and after[1] == "text"
            and not text[block.end() : after.start()].strip()
        ):
            shown = SHOWN.match(after[2])
        pairs.append((block[2], shown and shown.groups()))
    return pairs


def run_page(text, name, namespace=None):
    """Runs the blocks of a page, one after the other, as a reader would.

    Args:
        text: The page.
        name: Its name, for messages.
        namespace: The variables that there are at first.
    """
    variables = {"__name__": "page", **(namespace or {})}
    for code, shown in blocks_with_errors(text):
        program = compile(code, name, "exec")
        if shown is None:
            exec(program, variables)
            continue
        kind, message = shown
        if kind.endswith("Warning"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                exec(program, variables)
            raised = [each.message for each in caught]
        else:
            raised = []
            try:
                exec(program, variables)
            except Exception as error:
                raised = [error]
        found = [f"{type(each).__name__}: {one_line(each)}" for each in raised]
        expected = re.escape(f"{kind}: {one_line(message)}")
        expected = expected.replace(re.escape("..."), ".*")
        assert any(re.fullmatch(expected, each) for each in found), (
            f"{name}: {code}"
        )


def one_line(text):
    return " ".join(str(text).split())


if __name__ == "__main__":
    _, path = sys.argv
    run_page(pathlib.Path(path).read_text(encoding="utf-8"), path)
