"""Which code and which machine a figure comes from."""

import os
import pathlib
import platform
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[2]


def commit(checkout: str | os.PathLike[str] = ROOT) -> str:
    """The commit of a checkout; "" if it has none.

    It ends in "+" if files other than results of benchmarks have changed. An
    installed package has no commit, even if it is installed somewhere within
    the checkout of another project.

    Args:
        checkout: The path of its folder. Defaults to this one.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    places = [":/", ":(top,exclude)benchmarks/results"]
    try:
        top = pathlib.Path(git("rev-parse", "--show-toplevel"))
        if top.resolve() != pathlib.Path(checkout).resolve():
            return ""
        changes = git("status", "--porcelain", "--", *places)
        return git("rev-parse", "HEAD") + "+" * bool(changes)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return ""


def processor() -> str:
    """The name of the processor, and whether it has AVX-512 and bfloat16."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    found = name[1] if name else platform.machine()
    for flag, label in (("avx512_bf16", "AVX512-BF16"), ("avx512f", "AVX-512")):
        if flags and flag in flags[1]:
            return f"{found}, {label}"
    return found
