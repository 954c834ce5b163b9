"""Files that are there whole or not at all, whoever else writes them and whenever it is killed."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":  # there, a file that somebody has open cannot be removed
    import fcntl

__all__ = ["replacing"]

SUFFIX = ".partial"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name of an empty file to write, which takes the place of `path` when the block ends well.

    At every moment the old file or a whole new one is at `path`. The new one is written beside it
    under a name of its own, so that several processes may write at once (the last to finish wins),
    is brought to the disk, and is renamed. An error removes it. What a killed process has left is
    removed by the next one that writes to `path`. A symbolic link stays one: the file it points to
    is replaced. Permissions are those `open(path, "w")` would give: an existing file's own, or for
    a new one what the umask leaves of 0666.

    Raises:
        OSError: the folder does not exist or cannot be written, or `path` is a folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(folder + "/greeting.txt") as partial:
        ...         _ = partial.write_text("hello")
        ...     os.listdir(folder)
        ['greeting.txt']
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"Expected path to be a file, but got the folder {path}.")
    _remove_abandoned(path)
    handle, partial = _create_beside(path)
    try:
        yield partial
        os.fsync(handle)
        if path.exists():
            os.chmod(partial, stat.S_IMODE(path.stat().st_mode))
        if sys.platform == "win32":
            os.close(handle)
            handle = -1
        os.replace(partial, path)
        with suppress(OSError):  # the renaming too is brought to the disk, where the system can
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        if handle >= 0:
            os.close(handle)


def _create_beside(path: Path) -> tuple[int, Path]:
    """A new file beside `path` and its open handle, locked for as long as this process lives."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}{SUFFIX}")
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks: nothing is swept there
                fcntl.flock(handle, fcntl.LOCK_EX)
        if partial.exists():
            return handle, partial
        os.close(handle)  # another process swept it before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove partial files of `path` whose process is dead: the system has let go of their lock."""
    for partial in path.parent.glob("*" + SUFFIX):
        if not partial.name.startswith(f".{path.name}."):
            continue
        with suppress(OSError):  # in use, or just removed by another process
            if sys.platform == "win32":
                partial.unlink()
                continue
            handle = os.open(partial, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
            finally:
                os.close(handle)
