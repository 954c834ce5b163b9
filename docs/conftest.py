"""Every snippet of the docs is run: Python here, in one namespace a page, commands in a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from tests.conftest import why_no_ffcv

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder of its own for each page: what one snippet writes the next may read."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("docs"))
    yield Path.cwd()
    os.chdir(before)


def run_commands(example: Example) -> None:
    """`equipoise …` as it stands; installing is left to the set-up of the tests themselves."""
    commands = [line for line in example.parsed.splitlines() if line.startswith("equipoise ")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "COLUMNS": "100"},
        )
        if done.returncode:
            raise AssertionError(f"{command}\n{done.stderr}")


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", run_commands)],
    patterns=["*.md"],
    excludes=["measured/*", *(["ffcv.md"] if why_no_ffcv() else [])],
    fixtures=["scratch"],
).pytest()
