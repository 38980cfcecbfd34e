"""Brings docstrings into a form that mkdocstrings knows, see mkdocs.yml.

Docstrings of Keras, and of this package, have sections that are not among
those of the Google style.
"""

import re
import textwrap

import griffe

# Sections of prose. That of the results often has a colon, before which the
# Google style expects a type.
PROSE = re.compile(
    r"^(Input shape|Output shape|Returns|Yields):\n((?:    .*\n|\n)+)", re.M
)
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.M)


class Sections(griffe.Extension):
    """Adapts each docstring before it is parsed."""

    def on_object(self, *, obj, **kwargs):
        del kwargs
        if obj.docstring:
            obj.docstring.value = adapted(obj.docstring.value)
        if obj.is_function:
            for each in obj.parameters:
                if each.kind is griffe.ParameterKind.var_keyword:
                    each.default = None  # not "{}"


def adapted(text):
    """A docstring with sections of the Google style and Markdown."""
    text = PROSE.sub(_prose, f"{text}\n")
    text = re.sub(r"(?m)^Call arguments:$", "Other Args: Call arguments:", text)
    text = re.sub(r"(?m)^Example:$", "**Example:**", text)
    return DOCTEST.sub(r"```pycon\n\g<0>\n```", text)


def _prose(match):
    name, lines = match.groups()
    return f"**{name}:**\n\n{textwrap.dedent(lines).strip()}\n\n"
