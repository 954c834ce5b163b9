"""Checkpoints: several states in one file, which is written whole or not at all."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from equipoise._files import replacing

__all__ = ["load", "save"]


@runtime_checkable
class Stateful(Protocol):
    """What is saved by its state: a model, an optimiser, a scheduler, a `Balancer`."""

    def state_dict(self) -> dict[str, Any]: ...


def save(path: str | os.PathLike[str], **parts: Any) -> None:
    """Write the parts to `path`, so that at every moment the old file or the new one is there.

    They are written beside it under another name, brought to the disk, and renamed. If the process
    is killed in between, the old file stays as it was, and the next `save` removes what was left
    behind. On a full disk, an `OSError` is raised and the old file stays as well. A symbolic link
    stays a link, and the file has the permissions that `open(path, "wb")` would give it.

    Call it on one rank. What `torch.load(weights_only=True)` would not read is refused.

    Args:
        path: of the file; its folder has to exist.
        parts: states (tensors, numbers, texts, and dicts, lists and tuples of them), or objects
            with a `state_dict`: a model, an optimiser, a scheduler, a `Balancer`.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save(f"{folder}/last.pt", model=torch.nn.Linear(2, 1), epoch=3)
        >>> sorted(load(f"{folder}/last.pt")), load(f"{folder}/last.pt")["epoch"]
        (['epoch', 'model'], 3)
    """
    states = {
        name: part.state_dict() if isinstance(part, Stateful) else part
        for name, part in parts.items()
    }
    with replacing(path) as partial:
        try:
            with partial.open("wb") as file:  # given a name, torch would write that into the file
                torch.save(states, file)
        except RuntimeError as error:  # torch's writer hides the system's error
            raise OSError(f"{path} could not be written, is the disk full? {error}") from error
        try:
            torch.load(partial, map_location="meta", weights_only=True)
        except pickle.UnpicklingError as error:
            raise TypeError(
                "Expected parts to be tensors, numbers, texts, and dicts, lists and tuples of "
                f"them, but got others: {str(error).splitlines()[0]}"
            ) from error


def load(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """The states in a file that `save` wrote, by name.

    Args:
        path: of the file.
        map_location: where tensors go, see `torch.load`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by `save`, or it is damaged; the message says how.
    """
    path = Path(path)
    with path.open("rb"):
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(
                f"Expected {path} to be an undamaged checkpoint, but its part {damaged!r} does "
                "not have the checksum it was saved with."
            )
        states = torch.load(path, map_location=map_location, weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"Expected {path} to be a checkpoint that equipoise.checkpoint.save wrote, but it "
            f"cannot be read: {reason}"
        ) from error
    if not isinstance(states, dict):
        raise ValueError(
            f"Expected {path} to hold states by name, but got a {type(states).__name__}."
        )
    return states
