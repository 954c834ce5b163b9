"""The command line. `equipoise audit FILE`: how imbalanced a file's labels are."""

from __future__ import annotations

try:
    import typer as _typer  # noqa: F401
except ImportError as error:
    raise ImportError(
        "The command line needs typer and rich: pip install 'equipoise[cli]'"
    ) from error

from equipoise.cli.app import app
from equipoise.training.label_files import read_labels

__all__ = ["app", "read_labels"]
