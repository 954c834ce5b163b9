"""Sphinx: `make docs` builds the site into build/docs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

project = "equipoise"
author = "The equipoise authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "equipoise"
html_copy_source = False
default_role = "literal"  # `x` in a docstring is code

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The measurements lie beside the benchmarks; these copies' links lead to pages of this site.
HERE = Path(__file__).parent
MEASURED = HERE / "measured"


def _copy_measurements() -> None:
    benchmarks = HERE.parent / "benchmarks"
    shutil.rmtree(MEASURED, ignore_errors=True)
    shutil.copytree(benchmarks / "results", MEASURED / "results")
    shutil.copy(benchmarks / "README.md", MEASURED / "benchmarks.md")
    for page in (MEASURED / "results").glob("*.md"):  # raw tables are linked to, but in no menu
        page.write_text("---\norphan: true\n---\n" + page.read_text(encoding="utf-8"))


def _relink(app: Any, name: str, source: list[str]) -> None:
    """Links to the measurements lead to the copies."""
    text = source[0].replace("](../benchmarks/results/", "](measured/results/")
    text = text.replace("](../benchmarks/README.md", "](measured/benchmarks.md")
    if name.startswith("measured/"):
        text = text.replace("](../README.md", "](../benchmarks.md")
    source[0] = text


def setup(app: Any) -> None:
    _copy_measurements()
    app.connect("source-read", _relink)
