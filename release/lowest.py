"""Prints the lowest versions that pyproject.toml allows, one a line.

They are constraints for pip: `make test-lowest` installs these versions. What
pyproject.toml does not bound, pip chooses.

    python release/lowest.py > constraints.txt
    pip install --constraint constraints.txt ".[test]"
"""

import pathlib
import re
import tomllib

PROJECT = pathlib.Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?\s*(?:>=\s*([\w.]+))?")


def lowest_versions(path=PROJECT):
    """The lower bound of each requirement that has one, by its name.

    Args:
        path: A path, that of the pyproject.toml.

    Raises:
        ValueError: If a requirement has two different lower bounds.
    """
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    lists = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    found = {}
    for requirement in (each for one in lists for each in one):
        name, version = REQUIREMENT.match(requirement).groups()
        if version is None:
            continue
        if found.setdefault(name, version) != version:
            raise ValueError(
                f"Expected one lower bound of {name} in {path.name}. "
                f"Received: {found[name]} and {version}"
            )
    return found


if __name__ == "__main__":
    for name, version in sorted(lowest_versions().items()):
        print(f"{name}=={version}")
