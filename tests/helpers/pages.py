"""Pages in Markdown: their Python blocks, their links and their headings.

What needs Python alone is in `markdown.py`.
"""

import re

import keras
import pytest

from tests.helpers.markdown import blocks as blocks
from tests.helpers.markdown import blocks_with_errors as blocks_with_errors
from tests.helpers.markdown import run_page as run_page
from tests.helpers.testing import QUICK


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
