"""Makes the README of a package; all else is declared in pyproject.toml.

The README's links to files are relative, as they have to be where the
repository is browsed. A package index has only the README, so there they begin
with the address of the repository, if `[project.urls]` has one.
"""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def readme(root=ROOT):
    """The README as it is on a package index.

    Args:
        root: The folder of `README.md` and `pyproject.toml`.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    text = (root / "README.md").read_text(encoding="utf-8")
    address = project.get("urls", {}).get("Repository")
    return text if address is None else with_absolute_links(text, address)


def with_absolute_links(text, address):
    """A text in Markdown whose links to files lead into a repository.

    Args:
        text: The text.
        address: The address of the repository.
    """
    address = address.rstrip("/")

    def absolute(match):
        mark, words, path = match.groups()
        kind = "raw" if mark else "blob"
        return f"{mark}[{words}]({address}/{kind}/HEAD/{path})"

    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(absolute, part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    from setuptools import setup

    setup(
        long_description=readme(),
        long_description_content_type="text/markdown",
    )
