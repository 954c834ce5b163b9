"""Sphinx: `make docs` builds the site into build/docs."""

from __future__ import annotations

import os
import re
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
exclude_patterns = ["conftest.py", "Thumbs.db"]
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


def _on_site(text: str, folder: str) -> str:
    """Links to benchmarks/README.md and benchmarks/results/*.md, relative to a page in `folder`."""
    text = re.sub(r"\]\((?:\.\./)?(?:benchmarks/)?results/(\w+\.md)", rf"]({folder}\1", text)
    return re.sub(r"\]\(\.\./benchmarks/README\.md", rf"]({folder}benchmarks.md", text)


def _copy_measurements() -> None:
    MEASURED.mkdir(exist_ok=True)
    benchmarks = HERE.parent / "benchmarks"
    for source in [benchmarks / "README.md", *sorted((benchmarks / "results").glob("*.md"))]:
        name = "benchmarks.md" if source.name == "README.md" else source.name
        text = _on_site(source.read_text(encoding="utf-8"), "")
        page = MEASURED / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
    (MEASURED / "results").mkdir(exist_ok=True)
    for other in (benchmarks / "results").iterdir():
        if other.suffix in (".png", ".svg", ".json"):
            shutil.copy(other, MEASURED / "results" / other.name)


def _relink(app: Any, name: str, source: list[str]) -> None:
    if not name.startswith("measured/"):
        source[0] = _on_site(source[0], "measured/")


def setup(app: Any) -> None:
    _copy_measurements()
    app.connect("source-read", _relink)
