"""Scores of a model, read from a file: of each example a number for each class, and its targets."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.audit.arrays import LABELS, listed, opened
from equipoise.audit.tables import Table, arrow, is_number, labels_of, numbers, text

__all__ = ["Scores", "read_scores"]

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".arrow")
TARGETS = ("targets", "target", *LABELS)
TOLERANCE = 0.01  # by which probabilities in half precision miss a sum of 1
ROUNDING = 0.005  # what each probability is off by at most where two digits were written


@dataclass(frozen=True)
class Scores:
    """Logits `(N, C)`, targets `(N,)` or `(N, C)` or `None`, and the classes' names.

    Where the file held probabilities p, the logits are log p of class ids, log p/(1 − p) of labels.
    """

    where: Path
    logits: Tensor
    targets: Any
    names: list[str]

    @property
    def several(self) -> bool:
        """Whether an example has several labels."""
        return self.targets.ndim == 2


def read_scores(path: Path, like: Scores | None = None) -> Scores:
    """The scores of a file; `like` are those of the hold-out, whose classes they must have.

    * `.npz`: `logits` or `probabilities` `(N, C)`; `targets`, class ids `(N,)` or `(N, C)` rows of
      0 and 1; names of the classes as `class_names`, if there are any.
    * Tables: a column of numbers for each class, and `target`: names of those columns, or their
      positions from 0; lists of them where an example has several labels. An unnamed first column
      and columns without any number are left out. Numbers that all lie in [0, 1] are taken as
      probabilities.

    Targets may be missing from what is `like` others.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of scores, but there is none at {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a file of scores, but {path} is empty.")
    suffix = path.suffix.lower()
    if suffix not in (".npz", *TABLES):
        raise ValueError(f"Expected {path} to end in .npz, {' or '.join(TABLES)}.")
    if suffix == ".npz":
        scores, kind, targets, names = _of_arrays(path)
    else:
        table = text(path) if suffix in TABLES[:3] else arrow(path, [path])
        scores, kind, targets, names = _of_table(table, like)
    known = targets if like is None else like.targets
    if known is None:
        raise ValueError(
            f"Expected {path} to hold the hold-out's targets: an array `targets` in an .npz, a "
            "column `target` in a table."
        )
    if not scores.size:
        raise ValueError(f"Expected {path} to hold at least one row of scores, but got none.")
    rows = np.flatnonzero(~np.isfinite(scores).all(1))
    if len(rows):
        raise ValueError(
            f"Expected {kind} of {path} to be finite, but {len(rows):,} rows are not (the first is "
            f"row {rows[0] + 1})."
        )
    if like is not None and (scores.shape[1] != len(like.names) or names not in (None, like.names)):
        had = listed(names) if names else f"{scores.shape[1]} of them"
        raise ValueError(
            f"Expected {path} to have the classes of {like.where} ({listed(like.names)}), but got "
            f"{had}."
        )
    wanted = tuple(scores.shape) if known.ndim == 2 else scores.shape[:1]
    if targets is not None and tuple(targets.shape) != wanted:
        raise ValueError(
            f"Expected targets of {path} to have shape {wanted}, for scores {scores.shape}, but "
            f"got {tuple(targets.shape)}."
        )
    logits = torch.from_numpy(scores)
    if kind == "probabilities":
        logits = _logits(path, logits.double(), known.ndim == 2)
    return Scores(path, logits, targets, names or [str(c) for c in range(scores.shape[1])])


Found = tuple[np.ndarray, str, Tensor | None, list[str] | None]


def _of_arrays(path: Path) -> Found:
    wanted = ("logits", "probabilities", "class_names", *LABELS)
    with opened(path) as (there, load):
        held = {name: load(name) for name in there if name in wanted}
    kinds = [kind for kind in ("logits", "probabilities") if kind in held]
    if len(kinds) != 1:
        raise ValueError(
            f"Expected {path} to hold either `logits` or `probabilities`, and `targets`, but it "
            f"holds {listed(there)}."
        )
    scores = held[kinds[0]]
    if scores.ndim != 2 or scores.dtype.kind not in "fiu":
        raise ValueError(
            f"Expected {kinds[0]} of {path} to be numbers (N, C), a row for each example, but got "
            f"{scores.dtype} {scores.shape}."
        )
    names = held["class_names"].astype(str).tolist() if "class_names" in held else None
    targets = next((held[name] for name in TARGETS if name in held), None)
    if targets is None:
        return scores.astype(np.float32), kinds[0], None, names
    if targets.ndim == 2 and targets.shape[1] == 1 != scores.shape[1]:
        targets = targets[:, 0]
    high = 2 if targets.ndim == 2 else scores.shape[1]
    if targets.dtype.kind == "U" and names and not {*targets.ravel()} - {*names}:
        targets = np.array([names.index(name) for name in targets.ravel()])
    number = targets.dtype.kind in "biuf"
    wrong = targets[(targets % 1 != 0) | (targets < 0) | (targets >= high)] if number else targets
    if wrong.size or not number:
        raise ValueError(
            f"Expected targets of {path} to be "
            + ("0 and 1" if targets.ndim == 2 else f"class ids from 0 to {high - 1}")
            + f", but got {wrong[0] if number else targets.dtype}."
        )
    return scores.astype(np.float32), kinds[0], torch.from_numpy(targets.astype(np.int64)), names


def _of_table(table: Table, like: Scores | None) -> Found:
    where = table.where
    column = next((n for label in TARGETS for n in table.columns if n.lower() == label), None)
    index = ("", "__index_level_0__")  # what pandas calls it in text and in Parquet
    names = [n for n in table.columns if n not in (column, *index)]
    if like is not None and {*like.names} <= {*names}:
        names = [n for n in names if n in like.names]
    parts: list[np.ndarray] = []
    for part in table.parts(names):
        if not parts:
            words = [n for n in names if not any(map(is_number, part[n].iloc[:100]))]
            names = [n for n in names if n not in words]
            _tell("without numbers", words)
        parts.append(numbers(where, part[names]))
    scores = np.concatenate(parts) if parts else np.zeros((0, len(names)), np.float32)
    if like is None and scores.size:
        others = _whole(scores)
        _tell("like ids (whole numbers, where the scores are not)", [names[i] for i in others])
        names = [n for i, n in enumerate(names) if i not in others]
        scores = np.delete(scores, others, axis=1)
    if not scores.size:
        raise ValueError(
            f"Expected {where} to hold a column of numbers for each class and a column `target`, "
            f"but it holds {listed(table.columns)}."
        )
    kind = "probabilities" if scores.min() >= 0 and scores.max() <= 1 else "logits"
    return scores, kind, None if column is None else _targets(table, column, names), names


def _tell(which: str, columns: list[str]) -> None:
    if columns:
        warnings.warn(f"Columns {which} are left out: {listed(columns)}.", stacklevel=3)


def _whole(scores: np.ndarray) -> list[int]:
    """Columns of ids, folds and the like: whole numbers, and more than 0 and 1, beside scores."""
    whole = (scores == np.floor(scores)).all(0)
    if whole.all():
        return []
    more = (scores < 0).any(0) | (scores > 1).any(0)
    return np.flatnonzero(whole & more & (scores != scores[0]).any(0)).tolist()


def _targets(table: Table, column: str, names: list[str]) -> Tensor:
    """Class ids `(N,)` or rows of 0 and 1, from names of the columns or their positions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without examples; the decision names them
        found, labels = labels_of(table, column, None)
    seen = np.flatnonzero(found.counts)
    cells = [str(c) if labels is None else labels[c] for c in seen]
    positions = {name: c for c, name in enumerate(names)}
    if len(names) == 1 and {*cells} <= {"0", "1"} and found.labels is not None:  # of one label
        return torch.from_numpy(np.array(cells, np.int64)[found.labels])[:, None]
    if not {*cells} & {*names}:
        positions = {str(c): c for c in range(len(names))}
    wrong = [cell for cell in cells if cell not in positions]
    if wrong:
        raise ValueError(
            f"Expected column {column!r} of {table.where} to hold names of the other columns "
            f"({listed(names)}) or their positions from 0, but got {wrong[0]!r}."
        )
    place = np.zeros(found.num_classes, np.int64)
    place[seen] = [positions[cell] for cell in cells]
    if found.matrix is None:
        return torch.from_numpy(place[found.labels])
    hot = torch.zeros(found.num_examples, len(names), dtype=torch.uint8)
    entries = found.matrix.tocoo()
    hot[entries.row, place[entries.col]] = 1
    return hot


def _logits(path: Path, p: Tensor, several: bool) -> Tensor:
    if p.min() < 0 or p.max() > 1:
        raise ValueError(
            f"Expected probabilities of {path} to lie in [0, 1], but got {float(p.min()):g} to "
            f"{float(p.max()):g}: if they are logits, call them `logits`."
        )
    if several:
        return torch.logit(p, eps=1e-9).float()
    most = max(TOLERANCE, min(ROUNDING * p.shape[1], 0.1)) + 1e-6
    off = ((p.sum(1) - 1).abs() > most).nonzero()[:, 0]
    if len(off):
        raise ValueError(
            f"Expected probabilities of {path} to add up to 1 in each row, but those of row "
            f"{int(off[0]) + 1} add up to {float(p[off[0]].sum()):.3f} ({len(off):,} rows do not). "
            "Scores that are no probabilities belong into an .npz as `logits`."
        )
    return p.clamp_min(1e-12).log().float()
