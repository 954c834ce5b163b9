"""The command line: `equipoise audit`, `decide` and `report`."""

from __future__ import annotations

try:
    import typer as _typer  # noqa: F401
except ImportError as error:
    raise ImportError(
        "The command line needs typer and rich: pip install 'equipoise[cli]'"
    ) from error

from equipoise.cli.app import app

__all__ = ["app"]
