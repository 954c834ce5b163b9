"""read_data: inputs, targets and splits, from the files people have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from equipoise.targets import Targets
from equipoise.training.arrays import Arrays, as_images
from equipoise.training.files import Contents, read_arff_file, read_npz
from equipoise.training.folders import read_folder
from equipoise.training.label_files import naming, printable
from equipoise.training.splitting import split_ids, targets_of

__all__ = ["Data", "Source", "read_data"]


class Source(Protocol):
    """Where inputs come from: `Arrays`, or a `.beton`."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...
    def sample(self, ids: np.ndarray) -> Any: ...
    def batches(
        self, ids: np.ndarray, batch_size: int, balancer: Any = None, drop_last: bool = False
    ) -> Any: ...


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, and which of its examples train, are held out and test.

    Attributes:
        path: where it was read from.
        inputs: of all examples.
        targets: of all examples.
        names: of the classes or labels.
        train, held, test: sorted example ids.
    """

    path: Path
    inputs: Source
    targets: Targets
    names: list[str]
    train: np.ndarray
    held: np.ndarray
    test: np.ndarray

    @property
    def images(self) -> bool:
        """Whether an example is an image; else it is a row of features."""
        return len(self.inputs.shape) == 3

    def targets_of(self, ids: np.ndarray) -> Targets:
        """The targets of some examples."""
        return targets_of(self.targets, ids)

    def __str__(self) -> str:
        kind = "labels" if self.targets.multilabel else "classes"
        what = "×".join(map(str, self.inputs.shape)) + (" images" if self.images else " features")
        return (
            f"{self.path.name}: {len(self.train):,} training, {len(self.held):,} hold-out and "
            f"{len(self.test):,} test examples, {what}, {self.targets.num_classes:,} {kind}"
        )


def read_data(
    path: str | Path,
    *,
    inputs: str | None = None,
    field: str | None = None,
    labels: str | None = None,
    size: int = 64,
    holdout: float | None = None,
    test: float | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Data:
    """A data set from an `.npz`, an `.arff`, a `.beton`, or a folder of images.

    Args:
        path: of the file or folder; docs/command-line.md says what they hold.
        inputs: name of the inputs: an array of the `.npz`, a field of the `.beton`.
        field: name of the labels there.
        labels: which attributes of an `.arff` are labels; see `arff_labels`.
        size: height and width to which photographs of a folder or a `.beton` are brought.
        holdout: share of the training examples; see `split_ids`.
        test: share of all examples, where the file names none.
        limit: of training and of test examples.
        progress: is told how many images of how many are decoded.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError, TypeError: it is not what its ending says, or too small to be split.
        ImportError: what reads it is not installed; the message says what to install.
        MemoryError: a folder's images would not fit into memory.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    known = (".npz", ".arff", ".beton")
    if not path.exists():
        raise FileNotFoundError(f"Expected data at {path}, but there is nothing.")
    if not path.is_dir() and suffix not in known:
        raise ValueError(
            f"Expected a folder of images or a file that ends in {', '.join(known)}, "
            f"but got {path}."
        )
    with naming(path):
        contents = _read(path, inputs, field, labels, size, progress)
        values = contents.inputs
        targets, known_names = _occurring(contents.targets, contents.names)
        if targets.num_classes < 2 and not targets.multilabel:
            raise ValueError(f"Expected at least two classes, but got {targets!r}.")
        if len(values) != targets.num_examples:
            raise ValueError(
                f"Expected as many inputs as labels, but got {len(values)} and "
                f"{targets.num_examples}."
            )
        parts = split_ids(targets, contents.split, holdout=holdout, test=test, limit=limit)
        return Data(
            path,
            values,
            targets,
            printable(known_names),
            *parts,
        )


def _occurring(targets: Targets, names: list[str] | None) -> tuple[Targets, list[str]]:
    """Names of the classes, and targets without those that no example has (ids from 1 up)."""
    if names is None or len(names) != targets.num_classes:
        names = [str(c) for c in range(targets.num_classes)]
    if targets.multilabel or targets.counts.all():
        return targets, names
    found, ids = np.unique(targets.require_single_label("read_data"), return_inverse=True)
    return Targets(ids), [names[c] for c in found]


def _read(
    path: Path,
    inputs: str | None,
    field: str | None,
    labels: str | None,
    size: int,
    progress: Callable[[int, int], Any],
) -> Contents:
    if path.is_dir():
        return read_folder(path, size, progress)
    if path.stat().st_size == 0:
        raise ValueError(f"Expected {path} to hold data, but it is empty.")
    if path.suffix.lower() == ".arff":
        return read_arff_file(path, labels)
    if path.suffix.lower() == ".npz":
        found = read_npz(path, inputs, field)
        if getattr(found.inputs, "ndim", 2) > 2:
            found.inputs = as_images(found.inputs, "inputs")
        return Contents(Arrays(found.inputs), found.targets, found.names, found.split)
    from equipoise.training.beton import read_beton

    return read_beton(path, inputs, field or "label", size)
