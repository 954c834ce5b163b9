"""Files of a run: its record, and its network."""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from equipoise.checkpoint import load, save
from equipoise.training.nets import make_net

__all__ = ["check_same", "load_model", "plain", "read_json", "save_parts", "versions", "write_json"]


def save_parts(path: Path, **parts: Any) -> None:
    """`equipoise.checkpoint.save`, with an OSError that names the file where it cannot be written.

    torch's writer says "unexpected pos" where the disk is full.
    """
    try:
        save(path, **parts)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"Expected room to write {path}, but the disk refused: {reason}") from error


def write_json(path: Path, content: Any) -> None:
    """JSON, with `null` for NaN, such that the file of that name is always a whole one."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write((json.dumps(plain(content), indent=1) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        ValueError: something else, or a damaged file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be JSON, but: {error}.") from error
    if not isinstance(found, dict) or found.get("format") != 1:
        raise ValueError(f"Expected {path} to be of a run, format 1, but it is not.")
    return found


def plain(value: Any) -> Any:
    """The same with `None` for NaN and infinite numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_model(run: str | Path) -> nn.Module:
    """The network of a finished run, in eval mode.

    It takes inputs as the data has them, as float tensors: features `(B, F)`, or images
    `(B, C, H, W)` with pixels of uint8 from 0 to 255; and gives logits `(B, classes)`.

    Raises:
        ValueError: no finished run, or a damaged one.
    """
    path = Path(run) / "model.pt"
    if not path.is_file():
        raise ValueError(f"Expected {run} to be a finished run, but it has no model.pt.")
    saved = load(path)
    if {*saved} != {"net", "model"}:
        raise ValueError(f"Expected {path} to be the model of a run, but it holds {[*saved]}.")
    model = make_net(**saved["net"])
    model.load_state_dict(saved["model"])
    return model.eval()


def check_same(record: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    """Raise unless a run was started with these settings; its device may be another."""
    for name, theirs in record["settings"].items():
        if name != "device" and settings.get(name) != theirs:
            raise ValueError(
                f"Expected {name} to be {theirs!r}, as {out} was started with, "
                f"but got {settings.get(name)!r}."
            )


def versions() -> dict[str, str]:
    """Of Python and the packages a result depends on."""
    from importlib.metadata import version

    found = {"python": platform.python_version(), "equipoise": version("equipoise")}
    return found | {"torch": str(torch.__version__), "numpy": np.__version__}
