"""Every snippet of the docs runs, and the site builds without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from tests.conftest import why_no_ffcv

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def run_commands(example: Example) -> None:
    """`equipoise …` as it stands, but for lines with a FILE or a DATA to fill in.

    Installing is left to the set-up of the tests themselves.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in example.parsed.splitlines():
        if not line.startswith("equipoise ") or re.search(r" [A-Z_]+\b", line):
            continue
        environment = {**os.environ, "PATH": path, "COLUMNS": "100"}
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(page, tmp_path, monkeypatch):
    """The snippets of a page share their names, and a folder that is empty at first."""
    if page == "ffcv.md" and why_no_ffcv():
        pytest.skip(str(why_no_ffcv()))
    monkeypatch.chdir(tmp_path)
    parsers = [PythonCodeBlockParser(), CodeBlockParser("sh", run_commands)]
    document = Sybil(parsers, path=str(ROOT / "docs"), patterns=[page]).parse(ROOT / "docs" / page)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    fences = re.findall(r"^```(?:python|sh)$", (ROOT / "docs" / page).read_text(), re.M)
    assert len(examples) >= len(fences)


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "--keep-going", "-b", "html"]
    if not why_no_ffcv():  # without it, its reference page cannot be made
        command.append("-W")
    done = subprocess.run(
        [*command, "docs", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "quickstart.html" in home
    reference = (tmp_path / "api" / "balancer.html").read_text(encoding="utf-8")
    assert "fit_decision" in reference
    assert (tmp_path / "measured" / "benchmarks.html").exists()
