"""audit: counts, IRLbl, MeanIR, CVIR, SCUMBLE and label sets of a data set's labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.audit import views
from equipoise.audit.advising import advice
from equipoise.targets import Targets
from equipoise.targets.label_sets import label_set_ids

if TYPE_CHECKING:
    from rich.table import Table
    from scipy.sparse import csr_matrix

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit` found. C classes, N examples; a class that has no example counts as IRLbl 0.

    Attributes:
        targets: what was audited.
        class_names: C names; the class ids where none were given.
        counts: `(C,)` int64, n_c, the examples of each class.
        prevalence: `(C,)` float64, n_c over the examples whose label is known.
        imbalance_ratio: largest count over smallest count, of the classes that have examples.
        irlbl: `(C,)` float64, IRLbl_c = max_k n_k / n_c.
        mean_ir: mean of `irlbl` over all C.
        cvir: standard deviation (ddof 1) of `irlbl` over `mean_ir`; 0 for one class.
        scumble_per_example: `(N,)` float64, 1 − geometric / arithmetic mean of IRLbl over the
            example's labels; 0 where it has none.
        scumble_per_label: `(C,)` float64, mean of `scumble_per_example` over the label's examples.
        scumble: mean of `scumble_per_example`: near 0 where rare labels come alone, large where
            they come together with frequent ones.
        cardinality: labels an example, mean.
        density: cardinality / C.
        cardinality_counts: examples with 0, 1, 2, … labels.
        num_label_sets: distinct sets of labels.
        num_single_label_sets: label sets that one example alone has.
        label_sets: the most frequent sets, as `(class ids, examples)`, most frequent first.
        advice: what to know and what to do, in sentences.
    """

    targets: Targets
    class_names: list[str]
    counts: np.ndarray
    prevalence: np.ndarray
    imbalance_ratio: float
    irlbl: np.ndarray
    mean_ir: float
    cvir: float
    scumble_per_example: np.ndarray
    scumble_per_label: np.ndarray
    scumble: float
    cardinality: float
    density: float
    cardinality_counts: np.ndarray
    num_label_sets: int
    num_single_label_sets: int
    label_sets: list[tuple[tuple[int, ...], int]]

    @cached_property
    def cooccurrence(self) -> csr_matrix:
        """`(C, C)` CSR int32: examples that carry both labels; counts on the diagonal.

        Computed when first asked for: N · cardinality² additions.
        """
        from scipy.sparse import csr_matrix, diags

        if self.targets.matrix is None:
            return csr_matrix(diags(self.counts, dtype=np.int32))
        matrix = self.targets.matrix.astype(np.int32)
        return csr_matrix(matrix.T @ matrix)

    @cached_property
    def advice(self) -> list[str]:
        return advice(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, lists and strings; without what is kept per example."""
        return {
            "num_examples": self.targets.num_examples,
            "num_classes": self.targets.num_classes,
            "multilabel": self.targets.multilabel,
            "imbalance_ratio": self.imbalance_ratio,
            "mean_ir": self.mean_ir,
            "cvir": self.cvir,
            "scumble": self.scumble,
            "cardinality": self.cardinality,
            "density": self.density,
            "num_label_sets": self.num_label_sets,
            "num_single_label_sets": self.num_single_label_sets,
            "cardinality_counts": self.cardinality_counts.tolist(),
            "label_sets": [{"classes": list(ids), "examples": n} for ids, n in self.label_sets],
            "classes": [
                {
                    "name": name,
                    "count": int(self.counts[c]),
                    "prevalence": float(self.prevalence[c]),
                    "irlbl": float(self.irlbl[c]),
                    "scumble": float(self.scumble_per_label[c]),
                }
                for c, name in enumerate(self.class_names)
            ],
            "advice": self.advice,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def __repr__(self) -> str:
        return (
            f"Audit({self.targets!r}, imbalance_ratio={self.imbalance_ratio:.4g}, "
            f"mean_ir={self.mean_ir:.4g}, scumble={self.scumble:.4g})"
        )

    def show(self, most: int = 20) -> None:
        """Print measures, table (of `most` rows) and advice in the terminal, through rich."""
        views.show(self, most)

    def table(self, most: int = 20) -> Table:
        """A rich table, a row a class, the most frequent first.

        Of more than `most` classes, half of the rows are the most frequent, half the rarest.
        """
        return views.table(self, most)

    def plot(self, path: str | Path) -> None:
        """A picture (PNG, SVG, PDF by the path's ending): counts, and labels an example."""
        views.plot(self, path)


def audit(targets: Any, class_names: Sequence[str] | None = None, *, most: int = 10) -> Audit:
    """The imbalance of a data set's labels: counts, IRLbl, MeanIR, CVIR, SCUMBLE, label sets.

    The formulas stand in `Audit`. They are those of Charte et al., "Addressing imbalance in
    multilabel classification" (Neurocomputing 163, 2015), and "Concurrence among imbalanced labels"
    (HAIS 2014).

    As in the R package mldr, a label without positives has IRLbl 0 and is counted in MeanIR and
    CVIR, and an example without labels has SCUMBLE 0 and is counted in its mean. (Mulan leaves
    both out.)

    Args:
        targets: `(N,)` class ids, `(N, C)` multi-hot, or anything else that `Targets` takes.
        class_names: C names for tables and advice.
        most: how many label sets to list.

    Raises:
        ValueError: labels that `Targets` does not take, or names of another number than C.

    Example:
        >>> found = audit([[1, 0], [1, 1], [1, 0], [0, 0]])
        >>> found.irlbl.tolist(), found.mean_ir, found.cardinality
        ([1.0, 3.0], 2.0, 1.0)
        >>> found.label_sets
        [((0,), 2), ((0, 1), 1), ((), 1)]
        >>> round(float(found.scumble_per_example[1]), 4)  # 1 − √(1·3) / 2
        0.134
    """
    targets = Targets.of(targets)
    counts = targets.counts
    names = [str(c) for c in range(len(counts))] if class_names is None else list(class_names)
    if len(names) != len(counts):
        raise ValueError(f"Expected class_names to be {len(counts)} names, but got {len(names)}.")
    present = counts[counts > 0]
    if not len(present):
        raise ValueError("Expected targets to have at least one positive label, but got none.")
    irlbl = np.where(counts > 0, counts.max() / np.maximum(counts, 1), 0.0)
    lengths, scumble, per_label = _scumble(targets, irlbl)
    mean_ir = float(irlbl.mean())
    _, first, sizes = label_set_ids(targets)
    frequent = np.lexsort((first, -sizes))[:most]
    return Audit(
        targets=targets,
        class_names=names,
        counts=counts,
        prevalence=counts / np.maximum(targets.num_examples - targets.unknown_counts, 1),
        imbalance_ratio=float(present.max() / present.min()),
        irlbl=irlbl,
        mean_ir=mean_ir,
        cvir=float(irlbl.std(ddof=1) / mean_ir) if len(irlbl) > 1 else 0.0,
        scumble_per_example=scumble,
        scumble_per_label=per_label,
        scumble=float(scumble.mean()),
        cardinality=float(lengths.mean()),
        density=float(lengths.mean() / len(counts)),
        cardinality_counts=np.bincount(lengths),
        num_label_sets=len(sizes),
        num_single_label_sets=int((sizes == 1).sum()),
        label_sets=[(_labels_of(targets, first[s]), int(sizes[s])) for s in frequent],
    )


def _labels_of(targets: Targets, example: int) -> tuple[int, ...]:
    if targets.matrix is None:
        return (int(targets.require_single_label("audit")[example]),)
    return tuple(sorted(targets.matrix[[example]].indices.tolist()))


def _scumble(targets: Targets, irlbl: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of each example, its SCUMBLE, and the mean SCUMBLE of each label's examples."""
    if targets.matrix is None:
        n = targets.num_examples
        return np.ones(n, np.int64), np.zeros(n), np.zeros(targets.num_classes)
    matrix = targets.matrix.astype(np.float64)
    lengths = np.diff(matrix.indptr).astype(np.int64)
    some = np.maximum(lengths, 1)
    log_irlbl = np.log(np.where(irlbl > 0, irlbl, 1.0))
    arithmetic = np.where(lengths > 0, matrix @ irlbl / some, 1.0)
    scumble = np.where(lengths > 0, 1 - np.exp(matrix @ log_irlbl / some) / arithmetic, 0.0)
    return lengths, scumble, matrix.T @ scumble / np.maximum(targets.counts, 1)
