"""How a command fails: one line on stderr, and an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["one_line"]

WRONG = (OSError, ValueError, TypeError, ImportError, MemoryError, RuntimeError)


@contextmanager
def one_line(command: str, interrupted: str | None = None) -> Iterator[None]:
    """Errors become one line and exit code 1; Ctrl-C becomes `interrupted` and 130."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: typer.echo(
                f"equipoise {command}: note: {' '.join(str(message).split())}", err=True
            )
            yield
    except (BrokenPipeError, typer.Exit, typer.Abort, typer.BadParameter):
        raise  # `| head`: typer ends quietly
    except KeyboardInterrupt as error:
        typer.echo(f"\nequipoise {command}: interrupted{interrupted or '.'}", err=True)
        raise typer.Exit(130) from error
    except WRONG as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"equipoise {command}: {reason}", err=True)
        raise typer.Exit(1) from error
