"""Checks the distributions in `dist/`: `make release` runs it.

1. The wheel has the package, its weights and its licence, and nothing else.
2. The source distribution has all that its tests read, and they run there.
3. The wheel is installed into a new environment, and the blocks of the README
   run there, outside of the checkout.

    python release/check.py PYTHON

PYTHON has the packages that tests need.
"""

import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RUN_PAGE = ROOT / "tests" / "helpers" / "markdown.py"
# What is imported beside the checkout is not of the checkout.
WHERE = "import keras_capsules; print(keras_capsules.__file__)"
# Tests that read the whole tree, without those that run examples.
GENERAL_TESTS = ["tests/test_package.py", "tests/test_size.py"]
GENERAL_TESTS += ["-k", "not blocks_run and not examples_run"]
MOST_BYTES = {"wheel": 11_000_000, "source distribution": 19_000_000}
EXTRAS = "datasets,plots"  # what the README uses
NEEDED = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "docs",
    "examples",
    "keras_capsules",
    "mkdocs.yml",
    "pyproject.toml",
    "release",
    "tests",
}


def the_only(pattern):
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"Expected one dist/{pattern}. Received: {found}")
    return found[0]


def check(what, wrong):
    if wrong:
        raise SystemExit(f"{what}: {sorted(wrong)}")


def check_size(kind, path):
    size = path.stat().st_size
    if size > MOST_BYTES[kind]:
        raise SystemExit(
            f"Expected a {kind} of at most {MOST_BYTES[kind]:,} bytes. "
            f"Received: {size:,}"
        )


def sources():
    """The files of the packages that a wheel has, as names in it."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in ROOT.glob("keras_capsules*/")
        if (package / "__init__.py").exists()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }


def check_wheel(path):
    check_size("wheel", path)
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
    information = {name for name in names if ".dist-info/" in name}
    check("The wheel lacks", sources() - names)
    check("The wheel has also", names - information - sources())
    licences = [name for name in information if name.endswith("/LICENSE")]
    check("The wheel lacks", set() if licences else {"LICENSE"})


def check_source_distribution(path, folder, python):
    check_size("source distribution", path)
    with tarfile.open(path) as file:
        file.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    check("The sdist lacks", NEEDED - {each.name for each in tree.iterdir()})
    junk = {
        str(each.relative_to(tree))
        for each in tree.rglob("*")
        if each.name in ("__pycache__", "outputs") or each.suffix == ".pyc"
    }
    check("The sdist has also", junk)
    run(python, "-m", "pytest", "--collect-only", "--quiet", cwd=tree)
    run(python, "-m", "pytest", "--quiet", *GENERAL_TESTS, cwd=tree)


def check_readme(wheel, folder):
    """Runs the README where nothing but the wheel is installed."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[{EXTRAS}]")
    place = folder / "elsewhere"
    place.mkdir()
    # -I: neither the folder of a script nor PYTHONPATH is searched.
    where = run(python, "-I", "-c", WHERE, cwd=place)
    if not where.stdout.startswith(str(environment)):
        raise SystemExit(f"Not the installed package: {where.stdout}")
    run(python, "-I", RUN_PAGE, README, cwd=place)


def run(*command, **options):
    """Runs a command; if it fails, its output is the last that is printed."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    finished = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        **options,
    )
    if finished.returncode:
        print(finished.stdout, flush=True)
    finished.check_returncode()
    return finished


def main(python):
    wheel, archive = the_only("*.whl"), the_only("*.tar.gz")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "sdist").mkdir()
        check_wheel(wheel)
        check_source_distribution(archive, folder / "sdist", python)
        check_readme(wheel, folder)
    print(
        f"dist/{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) and "
        f"dist/{archive.name} ({archive.stat().st_size / 1e6:.1f} MB) are "
        "checked, the README runs with the wheel alone, and nothing was "
        "uploaded."
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute())
