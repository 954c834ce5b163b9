"""The site builds without a warning: no dead link, no docstring that is not what it means to be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import why_no_ffcv

ROOT = Path(__file__).parents[1]


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
