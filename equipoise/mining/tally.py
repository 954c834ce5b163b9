"""Tally: how much was kept and dropped, counted on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise._order_sampler import require_int
from equipoise._ranks import sum_over_ranks

__all__ = ["Tally"]


class Tally:
    """Counts of what a miner looked at, kept and could not use; nothing waits for the device.

    Args:
        num_classes: C, for counts of each class; `None` for totals only.

    Example:
        >>> tally = Tally(num_classes=2)
        >>> losses, targets = torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([0, 1, 1])
        >>> tally.add(losses, torch.tensor([False, True, False]), targets)
        >>> row = tally.summary()
        >>> row["share_kept"], row["num_nonfinite"], row["mean_loss_dropped"], row["kept_by_class"]
        (0.3333..., 1, 1.0, [0, 1])
    """

    def __init__(self, num_classes: int | None = None) -> None:
        if num_classes is not None:
            require_int("num_classes", num_classes, 1)
        self.num_classes = num_classes
        self._counts = torch.zeros(3, dtype=torch.int64)  # seen, kept, not finite
        self._sums = torch.zeros(2, dtype=torch.float64)  # of the losses kept, and dropped
        self._by_class = torch.zeros(2, num_classes or 0, dtype=torch.int64)  # seen, kept

    @torch.no_grad()
    def add(self, losses: Tensor, chosen: Tensor, targets: Tensor | None = None) -> None:
        """Count a batch: `losses` and the mask `chosen`, `(B,)` or `(B, C)`; `(B,)` class ids."""
        if self._counts.device != losses.device:
            self._change(lambda part: part.to(losses.device))
        finite = torch.isfinite(losses)
        self._counts[0] += losses.numel()
        self._counts[1:] += torch.stack([chosen.sum(), (~finite).sum()])
        values = torch.where(finite, losses, 0).double()
        kept = torch.where(chosen, values, 0).sum()
        self._sums += torch.stack([kept, values.sum() - kept])
        if self.num_classes is None:
            return
        if losses.ndim == 2:
            self._by_class[0] += len(losses)
            self._by_class[1] += chosen.sum(0)
        elif targets is not None:
            targets = targets.to(losses.device).long()
            for row, values in zip(self._by_class, (torch.ones_like(chosen), chosen), strict=True):
                row.scatter_add_(0, targets, values.long())

    def _change(self, how: Callable[[Tensor], Tensor]) -> None:
        self._counts, self._sums = how(self._counts), how(self._sums)
        self._by_class = how(self._by_class)

    @property
    def num_nonfinite(self) -> int:
        """How many losses were NaN or infinite, and hence never chosen."""
        return int(self._counts[2])

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a history; this waits for the device."""
        seen, kept, nonfinite = self._counts.tolist()
        kept_sum, dropped_sum = self._sums.tolist()
        dropped = seen - kept - nonfinite
        row: dict[str, Any] = {
            "num_seen": seen,
            "num_kept": kept,
            "num_nonfinite": nonfinite,
            "share_kept": kept / seen if seen else None,
            "mean_loss_kept": kept_sum / kept if kept else None,
            "mean_loss_dropped": dropped_sum / dropped if dropped else None,
        }
        if self.num_classes is not None:
            row["seen_by_class"], row["kept_by_class"] = self._by_class.tolist()
        return row

    def sum_over_ranks(self) -> None:
        """Add up the counts of all ranks of torch.distributed. Every rank has to call it."""
        self._change(sum_over_ranks)

    def reset(self) -> None:
        """Forget everything counted."""
        self._change(torch.zeros_like)

    def state_dict(self) -> dict[str, Any]:
        parts = {"counts": self._counts, "sums": self._sums, "by_class": self._by_class}
        return {name: part.cpu().clone() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["by_class"].shape != self._by_class.shape:
            raise ValueError(
                f"Expected state of num_classes={self.num_classes}, but got that of "
                f"{state['by_class'].shape[1] or None}."
            )
        self._counts, self._sums = state["counts"].clone(), state["sums"].clone()
        self._by_class = state["by_class"].clone()
