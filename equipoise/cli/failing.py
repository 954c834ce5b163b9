"""How a command fails: one line on stderr, and an exit code."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

__all__ = ["check_output", "one_line"]

WRONG = (OSError, ValueError, TypeError, ImportError, MemoryError, RuntimeError)


@contextmanager
def one_line(command: str) -> Iterator[None]:
    """Errors become one line and exit code 1; Ctrl-C becomes one and 130."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: typer.echo(
                f"equipoise {command}: note: {' '.join(str(message).split())}", err=True
            )
            yield
    except (BrokenPipeError, typer.Exit, typer.Abort, typer.BadParameter):
        raise  # `| head`: typer ends quietly
    except KeyboardInterrupt as error:
        typer.echo(f"\nequipoise {command}: interrupted.", err=True)
        raise typer.Exit(130) from error
    except WRONG as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"equipoise {command}: {reason}", err=True)
        raise typer.Exit(1) from error


def check_output(*paths: Path | None) -> None:
    """Raise an OSError where a file could not be written, before anything takes its time."""
    for path in filter(None, paths):
        if path.is_dir() or not path.parent.is_dir():
            wrong = "a folder" if path.is_dir() else "in a folder that does not exist"
            raise OSError(f"Expected a path to write to, but {path} is {wrong}.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(f"Expected a path to write to, but {path} cannot be written.")
