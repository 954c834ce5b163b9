"""`equipoise`, and `python -m equipoise`: the command line, or what to install for it."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        from equipoise.cli import app
    except ImportError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # loading torch takes seconds
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not in UTF-8
    app(prog_name="equipoise")


if __name__ == "__main__":
    main()
