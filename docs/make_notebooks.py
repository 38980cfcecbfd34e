"""Makes notebooks of guides, so that there is one source of both.

    make notebooks                        # or: python docs/make_notebooks.py

A notebook has the sentences and the code of its guide, or its own, and the
outputs of a run. It is run in an empty folder, so nothing that it writes is
left. A notebook whose code has not changed keeps its outputs, unless `--run` is
given.
"""

import argparse
import json
import pathlib
import re
import tempfile

DOCS = pathlib.Path(__file__).resolve().parent
FOLDER = DOCS.parent / "examples" / "notebooks"
GUIDES = ["own_arrays", "image_folder", "several_objects", "own_routing"]
# Notebooks that are no guides: each is its own source.
WRITTEN = ["inspection"]
# The package is on no index and has no address yet (`[project.urls]`), so a
# hosted notebook installs a wheel that was uploaded there.
INSTALL = (
    "# In a hosted notebook, upload the wheel that `make release` builds. Put\n"
    '# its name in the place of WHEEL, and remove the "# " of the next line.\n'
    '# %pip install -q "WHEEL[datasets,plots]"'
)
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What an error or a warning of the code before looks like.
SHOWN = re.compile(r"\w*(Error|Warning): ")
# The notebook has pictures of its own, and needs no link to itself.
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n(\n\*.*?\*$\n)?", re.M | re.S)
ITSELF = re.compile(r"^This page is also \[a notebook\]\([^)]*\)\.\n\n", re.M)
LINK = re.compile(r"(\[[^\]]*\]\()(?!\w+:|#)([^)\s]+\))")
ANSI = re.compile(r"\x1b\[[\d;]*m")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="by default, all")
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER)
    parser.add_argument("--run", action="store_true", help="run all of them")
    arguments = parser.parse_args()
    for name in arguments.names or GUIDES + WRITTEN:
        path = arguments.output / f"{name}.ipynb"
        notebook = written(name) if name in WRITTEN else made(name)
        if arguments.run or not takes_outputs(notebook, path):
            notebook = executed(notebook)
        text = json.dumps(
            notebook, indent=1, ensure_ascii=False, sort_keys=True
        )
        path.write_text(f"{text}\n", encoding="utf-8")


def written(name):
    """A notebook that is its own source, without outputs."""
    path = FOLDER / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell["execution_count"], cell["outputs"] = None, []
    return notebook


def made(name):
    """The notebook of a guide, without outputs.

    Args:
        name: The guide's file, without its ending.
    """
    text = (DOCS / "guides" / f"{name}.md").read_text(encoding="utf-8")
    text = PICTURE.sub("", ITSELF.sub("", text))
    cells, end, is_code = [code(INSTALL)], 0, False
    for block in FENCED.finditer(text):
        kind, content = block.groups()
        between = text[end : block.start()].strip()
        shown = kind == "text" and SHOWN.match(content)
        if kind != "python" and not shown:
            continue  # it stays a part of the text
        if between:
            cells.append(words(between))
            is_code = False
        end = block.end()
        if kind == "python":
            cells.append(code(content.rstrip("\n")))
            is_code = True
        elif is_code and shown[1] == "Error":
            cells[-1]["metadata"]["tags"] = ["raises-exception"]
    if text[end:].strip():
        cells.append(words(text[end:].strip()))
    title = next(each for each in cells if each["cell_type"] == "markdown")
    cells.remove(title)
    cells.insert(0, title)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def code(source):
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


def words(text):
    """A cell of text, whose links begin at the folder of the notebooks."""
    source = LINK.sub(r"\1../../docs/guides/\2", text)
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def takes_outputs(notebook, path):
    """Gives a notebook the outputs of a file that has the same code.

    Args:
        notebook: What `made` returns.
        path: The file.

    Returns:
        Whether there is such a file.
    """
    if not path.exists():
        return False
    pair = [
        [cell for cell in each["cells"] if cell["cell_type"] == "code"]
        for each in (notebook, json.loads(path.read_text(encoding="utf-8")))
    ]
    sources = [[cell["source"] for cell in cells] for cells in pair]
    if sources[0] != sources[1]:
        return False
    for cell, before in zip(*pair, strict=True):
        cell["outputs"] = before["outputs"]
        cell["execution_count"] = before["execution_count"]
    return True


def executed(notebook):
    """The notebook with the outputs of a run.

    Args:
        notebook: What `made` returns.
    """
    import nbclient
    import nbformat

    run = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(
            run, resources=resources, timeout=1800
        ).execute()
    # Paths of files that were written are those in the folder.
    run = nbformat.reads(nbformat.writes(run).replace(f"{folder}/", ""), 4)
    run.metadata = notebook["metadata"]  # without the version of Python
    for cell in run.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = tidied(cell.outputs)
    nbformat.validate(run)
    return run


def tidied(outputs):
    """Outputs without progress bars, paths of a machine, and histories.

    Args:
        outputs: Those of a cell.
    """
    kept = []
    for output in joined(outputs):
        if output.output_type == "error":
            output.traceback = [f"{output.ename}: {output.evalue}"]
        elif output.output_type == "stream":
            lines = ANSI.sub("", output.text).split("\n")
            if output.name == "stderr":
                lines = warnings_in(lines)
            else:
                lines = [re.split(r"[\r\x08]", each)[-1] for each in lines]
                lines = [
                    without_bar(each)
                    for each in lines
                    if each.strip()
                    and not each.startswith(("INFO:", "WARNING:"))
                ]
            output.text = "".join(f"{line.rstrip()}\n" for line in lines)
            if not lines:
                continue
        elif "<keras." in output.get("data", {}).get("text/plain", ""):
            continue
        kept.append(output)
    return kept


def joined(outputs):
    """Outputs, with what was printed piece by piece in one piece."""
    found = {}
    for output in outputs:
        name = output.get("name", len(found))
        if name in found:
            found[name].text += output.text
        else:
            found[name] = output
    return list(found.values())


def without_bar(line):
    """The figures of a progress bar, without the bar and the times."""
    return re.sub(r"^(\d+/\d+) ━+ .*?/(?:step|epoch)", r"\1", line)


def warnings_in(lines):
    """The warnings in what was printed as an error, without paths."""
    found = (re.search(r"\w+Warning: .*", line) for line in lines)
    return [each[0] for each in found if each]


if __name__ == "__main__":
    main()
