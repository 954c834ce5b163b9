"""Grouping: classes split by groups into cells, which is what λ is then of."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.rates import ClassRates, smoothed_recalls
from equipoise.targets import Targets

__all__ = ["Grouping", "group_figures", "require_no_groups"]


class Grouping:
    """Cell c · G + g holds the examples of class c in group g; of groups alone, cell g.

    Attributes:
        cells: `Targets` of the cells, with names such as "bird × forest".
        shape: (C, G), or (G,) of groups alone.

    Example:
        >>> grouping = Grouping(Targets(["bird", "cat", "cat"]), ["sea", "sea", "land"])
        >>> grouping.cells.names, grouping.cells.counts.tolist()
        (['bird × land', 'bird × sea', 'cat × land', 'cat × sea'], [0, 1, 1, 1])
    """

    def __init__(self, targets: Targets | None, groups: Any) -> None:
        self.groups = Targets.of(groups)
        ids = self.groups.require_single_label("groups")
        self.shape: tuple[int, ...] = (self.groups.num_classes,)
        if targets is None:
            self.cells = self.groups
            return
        labels = targets.require_single_label("Balancer with groups")
        if len(ids) != len(labels):
            raise ValueError(
                f"Expected groups to be (N,), one for each of the {len(labels)} examples, but got "
                f"{len(ids)}."
            )
        self.shape = targets.num_classes, self.num_groups
        rows = _names(targets, "class"), _names(self.groups, "group")
        names = [f"{c} × {g}" for c in rows[0] for g in rows[1]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cell without examples is nothing unusual
            self.cells = Targets(labels.astype(np.int64) * self.num_groups + ids, names=names)

    @property
    def num_groups(self) -> int:
        return self.shape[-1]

    @property
    def num_classes(self) -> int | None:
        """C; `None` of groups alone, where any number of classes may be told apart."""
        return self.shape[0] if len(self.shape) == 2 else None

    def cells_of(self, groups: Any, targets: Tensor, *predicted: Tensor) -> list[Tensor]:
        """Cells `(B,)` of the targets, and of each of the predictions, on the targets' device.

        A target or group that is out of range has cell −1. Of groups alone the cell is the group,
        and a wrong prediction has cell −1.
        """
        ids = self._ids(groups, targets)
        known = (ids >= 0) & (ids < self.num_groups)
        if self.num_classes is None:
            ids = ids.where(known, -1)
            return [ids, *(ids.where(guess == targets, -1) for guess in predicted)]
        known &= (targets >= 0) & (targets < self.num_classes)
        first = self.num_groups * torch.stack([targets.long(), *predicted])
        return list((first + ids).where(known, -1))

    def _ids(self, groups: Any, targets: Tensor) -> Tensor:
        if groups is None:
            raise ValueError(
                "Expected groups of the examples, since the Balancer was made with groups=, but "
                "got none. Pass groups=, such as observe(logits, targets, groups)."
            )
        groups = self.groups.as_tensor(groups, "groups")
        if groups.shape != targets.shape[:1] or groups.dtype.is_floating_point:
            raise ValueError(
                f"Expected groups to be {len(targets)} group ids or names, one for each example, "
                f"but got {groups.dtype} of shape {tuple(groups.shape)}."
            )
        return groups.to(targets.device).long()

    def recalls(self, rates: ClassRates) -> Tensor:
        """Recalls of the cells, drawn towards their class's by what sampling noise explains."""
        support = rates.support.view(-1, self.num_groups)
        hits = (rates.recalls().view_as(support) * support).round()
        found = torch.stack([smoothed_recalls(*row) for row in zip(hits, support, strict=True)])
        seen = support.any(1)
        return torch.where(seen[:, None], found, found[seen].mean()).view(-1)

    def class_shift(self, log_weight: np.ndarray) -> np.ndarray:
        """`(C,)`: what drawing cells by λ adds to the classes' logits; 0 of groups alone."""
        if self.num_classes is None:
            return np.zeros(1)
        counts = self.cells.counts.reshape(self.shape)
        drawn, before = (counts * np.exp(log_weight.reshape(self.shape))).sum(1), counts.sum(1)
        shift = np.log(np.where(before > 0, drawn, 1) / np.maximum(before, 1))
        return np.where(before > 0, shift - shift[before > 0].mean(), 0.0)


def group_figures(recalls: Any, support: Any) -> dict[str, float]:
    """How unequal groups are, from the recalls `(C, G)` of the cells and their examples.

    The gap of equal opportunity is the largest difference between two groups' recalls of one class
    (Hardt, Price and Srebro 2016, "Equality of opportunity in supervised learning").

    Example:
        >>> group_figures([[0.9, 0.5], [0.8, 0.7]], [[90, 10], [10, 90]])
        {'equal_opportunity_gap': 0.4, 'worst_group_accuracy': 0.68}
    """
    r, n = np.asarray(recalls, np.float64), np.asarray(support, np.float64)
    highest, lowest = np.where(n > 0, r, -np.inf).max(1), np.where(n > 0, r, np.inf).min(1)
    hits = np.where(n > 0, r * n, 0).sum(0)
    return {
        "equal_opportunity_gap": float((highest - lowest).max()),
        "worst_group_accuracy": float((hits / np.maximum(n.sum(0), 1))[n.sum(0) > 0].min()),
    }


def require_no_groups(groups: Any) -> None:
    """Raise if groups come to a balancer that was made without."""
    if groups is not None:
        raise ValueError(
            "Expected groups only of a Balancer made with groups=, but got some for one made "
            "without."
        )


def _names(targets: Targets, kind: str) -> list[str]:
    return targets.names or [f"{kind} {c}" for c in range(targets.num_classes)]
