"""Pages in Markdown: their Python blocks, their links and their headings.

A block of Python whose reader gets an error or a warning is followed by a block
of text that shows it, which begins with the name of its class. There, "..."
stands for anything, such as numbers that differ between runs.
"""

import inspect
import itertools
import re
import warnings

import keras
import pytest

from tests.helpers.testing import QUICK

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


def links(page):
    """The links of a page to files or headings of the repository."""
    return re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text())


def broken_links(page):
    """The links of a page that lead nowhere."""
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def anchors(page):
    """The addresses of the headings of a page."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    # Those of the reference are made from docstrings.
    names = re.findall(r"^::: (.*)$", text, re.MULTILINE)
    return names + [
        re.sub(r"[^\w -]", "", each).lower().replace(" ", "-")
        for each in headings
    ]


def train_quickly(monkeypatch):
    """Lets models train on few images, for one epoch, without a graph."""
    fit = keras.Model.fit

    def fit_quickly(self, x, y=None, **options):
        self.run_eagerly = QUICK["run_eagerly"]
        x, y = (x.take(1), None) if y is None else (x[:64], y[:64])
        options |= {"epochs": 1, "steps_per_epoch": None}
        return fit(self, x, y, **options)

    monkeypatch.setattr(keras.Model, "fit", fit_quickly)


not_on_torch = pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="Keras makes no SavedModels of PyTorch models",
)
