"""Everything is declared in pyproject.toml; this file serves older tools."""

from setuptools import setup

setup()
