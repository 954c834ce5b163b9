"""ClassRates: streaming recall and precision of each class, on the logits' own device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equipoise._ranks import sum_over_ranks
from equipoise.rates.smoothing import smoothed_recalls

__all__ = ["ClassRates"]


class ClassRates:
    """Counts of hits, examples and predictions of each class, fed batch by batch.

    `update` stays on the logits' device and never waits for it. Examples whose logits hold a NaN,
    or whose target is no class id, are left out of every rate and counted in `num_nan` and
    `num_invalid`.

    Args:
        num_classes: C.

    Example:
        >>> rates = ClassRates(2)
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
        >>> rates.update(logits, torch.tensor([0, 1, 1]))
        >>> rates.recalls().tolist()
        [1.0, 0.5]
    """

    ROWS = ("hits", "support", "predicted")

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts = torch.zeros(3, num_classes, dtype=torch.int64)
        self._ignored = torch.zeros(2, dtype=torch.int64)

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: logits `(B, C)` of any floating dtype, targets `(B,)` class ids."""
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"Expected logits to have shape (B, {self.num_classes}), "
                f"but got {tuple(logits.shape)}."
            )
        if targets.shape != logits.shape[:1] or targets.dtype.is_floating_point:
            raise ValueError(
                f"Expected targets to be {len(logits)} class ids, "
                f"but got {targets.dtype} of shape {tuple(targets.shape)}."
            )
        targets = targets.to(logits.device).long()
        nan = torch.isnan(logits).any(1)
        invalid = (targets < 0) | (targets >= self.num_classes)
        used = ~(nan | invalid)
        targets = targets.clamp(0, self.num_classes - 1)
        predicted = logits.argmax(1)
        counts = torch.zeros(3, self.num_classes, dtype=torch.int64, device=logits.device)
        counts[0].scatter_add_(0, targets, (used & (predicted == targets)).long())
        counts[1].scatter_add_(0, targets, used.long())
        counts[2].scatter_add_(0, predicted, used.long())
        if self._counts.device != logits.device:
            self._counts = self._counts.to(logits.device)
            self._ignored = self._ignored.to(logits.device)
        self._counts += counts
        self._ignored += torch.stack([nan.sum(), (invalid & ~nan).sum()])

    def recalls(self, prior: float | None = 0.0) -> Tensor:
        """`(C,)` float64 recalls (true-positive rates) on the CPU.

        Raw, unless `prior` says otherwise: see `smoothed_recalls`; `None` estimates it.
        """
        hits, support, _ = self._counts.cpu()
        return smoothed_recalls(hits, support, prior)

    def precisions(self) -> Tensor:
        """`(C,)` float64 hits over predictions on the CPU, 0 for a class never predicted."""
        hits, _, predicted = self._counts.cpu().double()
        return hits / predicted.clamp_min(1)

    @property
    def support(self) -> Tensor:
        """`(C,)` int64 examples of each class seen since the last reset."""
        return self._counts[1].cpu()

    @property
    def num_nan(self) -> int:
        """Examples left out because a logit was NaN."""
        return int(self._ignored[0])

    @property
    def num_invalid(self) -> int:
        """Examples left out because their target was no class id."""
        return int(self._ignored[1])

    def sum_over_ranks(self) -> None:
        """Add up the counts of all ranks of torch.distributed. Every rank has to call it."""
        self._counts = sum_over_ranks(self._counts)
        self._ignored = sum_over_ranks(self._ignored)

    def reset(self) -> None:
        """Forget everything counted."""
        self._counts.zero_()
        self._ignored.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts.cpu().clone(), "ignored": self._ignored.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["counts"].shape != self._counts.shape:
            raise ValueError(
                f"Expected state of {self.num_classes} classes, but got {state['counts'].shape[1]}."
            )
        self._counts, self._ignored = state["counts"].clone(), state["ignored"].clone()
