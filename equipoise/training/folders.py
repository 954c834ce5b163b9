"""read_folder: images in class folders, or beside a labels.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.targets import Targets
from equipoise.training.arrays import Arrays
from equipoise.training.files import PARTS, Contents
from equipoise.training.label_files import listed

__all__ = ["read_folder"]

# Those of torchvision's ImageFolder
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read_folder(
    folder: Path, size: int, progress: Callable[[int, int], Any] = lambda done, total: None
) -> Contents:
    """Images `(N, size, size, 3)` and their labels; everything is decoded once, into memory.

    Each image is scaled until its shorter side is `size`, and its middle is kept.

    * With a `labels.csv`: file name, then 0 or 1 for each label, which the header names; or one
      column of names, separated by spaces. Where every row has one name, these are classes. A
      column "split" says train, test or val.
    * Otherwise a folder for each class, as torchvision's ImageFolder reads them; or folders
      train, test, val of such folders.

    Raises:
        ValueError: no images, an image that cannot be read (it is named), a wrong labels.csv.
        MemoryError: the images would take more than is free; the message says how much.
    """
    table = folder / "labels.csv"
    paths, targets, names, split = _from_table(table) if table.is_file() else _from_classes(folder)
    wanted, free = len(paths) * size * size * 3, _free_memory()
    if free is not None and wanted > free:
        raise MemoryError(
            f"{len(paths):,} images of {size} by {size} take {wanted / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free: use a smaller --size, --limit, or a .beton."
        )
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError("Reading images needs Pillow: pip install 'equipoise[vision]'") from error
    images = np.empty((len(paths), size, size, 3), np.uint8)
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for image in pool.map(_decode, paths, [size] * len(paths)):
                images[done] = image
                done += 1
                progress(done, len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Contents(Arrays(images), targets, names, split)


def _decode(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size)))
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged image raises all kinds of things
        raise ValueError(f"Expected {path} to be an image, but: {error}.") from error


def _free_memory() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


Found = tuple[list[Path], Targets, list[str], np.ndarray | None]


def _from_classes(folder: Path) -> Found:
    parts = [child for child in _folders(folder) if child.name in PARTS]
    has_parts = any(child.name == "train" for child in parts)
    roots = parts if has_parts else [folder]
    names = sorted({child.name for root in roots for child in _folders(root)})
    place = {name: at for at, name in enumerate(names)}
    paths: list[Path] = []
    labels: list[int] = []
    split: list[int] = []
    for root in roots:
        for child in _folders(root):
            found = sorted(p for p in child.rglob("*") if p.suffix.lower() in ENDINGS)
            paths += found
            labels += [place[child.name]] * len(found)
            split += [PARTS[root.name] if has_parts else 0] * len(found)
    if not paths:
        raise ValueError(
            f"Expected {folder} to hold a labels.csv, or a folder of images "
            f"({', '.join(ENDINGS)}) for each class, but it holds "
            f"{listed(sorted(p.name for p in folder.iterdir()))}."
        )
    return paths, Targets(labels, len(names)), names, np.array(split) if has_parts else None


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _from_table(table: Path) -> Found:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [[c.strip() for c in row] for row in csv.reader(file) if any(row)]
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(
            f"Expected {table} to be UTF-8 text with a line of names, but: {error}."
        ) from error
    for i, row in enumerate(rows):
        if len(row) != len(header) or len(header) < 2:
            raise ValueError(
                f"Expected all rows of {table} to have a file name and labels, {len(header)} cells "
                f"as the first row, but row {i + 2} has {len(row)}."
            )
    if not rows:
        raise ValueError(f"Expected {table} to list images, but it has a line of names alone.")
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    split = None
    if "split" in columns:
        words = columns.pop("split")
        unknown = sorted({*words} - {*PARTS})
        if unknown:
            raise ValueError(
                f"Expected column split of {table} to say train, test or val, but got "
                f"{listed(unknown)}."
            )
        split = np.array([PARTS[word] for word in words])
    files, *rest = columns.items()
    paths = [table.parent / name for name in files[1]]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(f"Expected the images of {table}, but there is no {missing}.")
    if len(rest) == 1:
        return paths, *_of_names(table, rest[0][1]), split
    for name, cells in rest:
        if not {*cells} <= {"0", "1"}:
            wrong = next(cell for cell in cells if cell not in ("0", "1"))
            raise ValueError(
                f"Expected column {name!r} of {table} to be 0 or 1, but got {wrong!r}."
            )
    hot = np.stack([np.array(cells) == "1" for _, cells in rest], axis=1)
    return paths, Targets(hot), [name for name, _ in rest], split


def _of_names(table: Path, cells: list[str]) -> tuple[Targets, list[str]]:
    sets = [cell.split() for cell in cells]
    names = sorted(set().union(*sets))
    if not names:
        raise ValueError(f"Expected {table} to name labels, but its column is empty.")
    place = {name: at for at, name in enumerate(names)}
    ids = [[place[name] for name in dict.fromkeys(row)] for row in sets]
    if all(len(row) == 1 for row in ids):
        return Targets([row[0] for row in ids], len(names)), names
    return Targets.from_label_ids(ids, len(names)), names
