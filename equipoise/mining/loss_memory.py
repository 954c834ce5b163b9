"""LossMemory: one remembered loss for each example of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise._ranks import several, sum_over_ranks

__all__ = ["LossMemory", "class_means"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def class_means(losses: np.ndarray, labels: np.ndarray | None, num_classes: int) -> np.ndarray:
    """`(C,)` mean loss of each class over the examples seen (NaN of none); one class for all.

    Example:
        >>> class_means(np.array([1.0, 3.0, np.nan, 5.0]), np.array([0, 0, 1, 1]), 2).tolist()
        [2.0, 5.0]
    """
    seen = np.flatnonzero(np.isfinite(losses))
    groups = np.zeros(len(seen), np.int64) if labels is None else labels[seen]
    counts = np.bincount(groups, minlength=num_classes)
    sums = np.bincount(groups, losses[seen], minlength=num_classes)
    return np.divide(sums, counts, out=np.full(num_classes, np.nan), where=counts > 0)


class LossMemory:
    """A table of N losses, written from the batches as they pass; nothing waits for the device.

    Of an index that a batch holds twice, one of the losses is written. NaN and infinite losses are
    not written but counted; so are indices outside the table on a device (on the CPU they raise).

    With several ranks each writes the losses it sees, and `merge_ranks` brings them together: the
    memories must be the same for the ranks' samplers to be.

    Args:
        num_examples: N.
        dtype: `torch.float16`, `torch.bfloat16` (2 bytes an example) or `torch.float32`.

    Attributes:
        num_examples: N.

    Example:
        >>> memory = LossMemory(4)
        >>> memory.update(torch.tensor([2, 0]), torch.tensor([0.5, 2.0]))
        >>> memory.losses().tolist()
        [2.0, nan, 0.5, nan]
        >>> memory.num_seen
        2
    """

    def __init__(self, num_examples: int, *, dtype: torch.dtype = torch.float16) -> None:
        if not isinstance(num_examples, int | np.integer) or num_examples < 1:
            raise ValueError(
                f"Expected num_examples to be a positive int, but got {num_examples!r}."
            )
        if dtype not in DTYPES:
            raise ValueError(f"Expected dtype to be one of {DTYPES}, but got {dtype}.")
        self.num_examples = int(num_examples)
        # One row more, where what cannot be used is written to
        self._table = torch.full((self.num_examples + 1,), torch.nan, dtype=dtype)
        self._ignored = torch.zeros(2, dtype=torch.int64)  # not finite, outside
        self._merged: Tensor | None = None  # the table when the ranks last had the same

    @torch.no_grad()
    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Remember a batch's losses.

        Args:
            indices: `(B,)` integers in [0, N), as the loader gives them (of FFCV also `(B, 1)`).
            losses: `(B,)`, any floating dtype; unweighted ones tell hard examples best.
        """
        indices = self.check_indices(indices, losses.shape)
        table = self._on(losses.device)
        indices = indices.to(losses.device, non_blocking=True).long()
        inside = (indices >= 0) & (indices < self.num_examples)
        finite = torch.isfinite(losses)
        rows = torch.where(inside & finite, indices, self.num_examples)
        limit = torch.finfo(table.dtype).max
        table[rows] = losses.float().clamp(-limit, limit).to(table.dtype)
        table[self.num_examples :] = torch.nan
        self._ignored += torch.stack([(~finite).sum(), (~inside).sum()])

    def check_indices(self, indices: Any, shape: Any = None) -> Tensor:
        """`indices` as `(B,)`; raises unless they are integers of `shape`, and in the table.

        Values are looked at only on the CPU, as elsewhere that would wait for the device.
        """
        if not isinstance(indices, Tensor) or indices.is_floating_point():
            got = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise TypeError(
                f"Expected indices to be an integer tensor of example ids, but got {got}. The "
                "loader has to give each example's index: see equipoise.mining."
            )
        if indices.ndim == 2 and indices.shape[1] == 1:
            indices = indices[:, 0]
        if shape is not None and indices.shape != shape:
            raise ValueError(
                f"Expected indices and losses of one shape (B,), but got {tuple(indices.shape)} "
                f"and {tuple(shape)}."
            )
        if indices.device.type == "cpu" and indices.numel():
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= self.num_examples:
                raise ValueError(
                    f"Expected indices to be in [0, {self.num_examples}), but got "
                    f"{low if low < 0 else high}. They number the examples of the training set."
                )
        return indices

    def _on(self, device: torch.device) -> Tensor:
        if self._table.device != device:
            self._table, self._ignored = self._table.to(device), self._ignored.to(device)
        return self._table

    @torch.no_grad()
    def merge_ranks(self) -> None:
        """Give all ranks of torch.distributed what any has written since the last time.

        Where several have, the mean. Every rank has to call it; it costs one sum over 8 N bytes.
        """
        if not several():
            return
        now = self._table.float()
        before = torch.full_like(now, torch.nan) if self._merged is None else self._merged.float()
        before = before.to(now.device)
        written = (now != before) & ~(now.isnan() & before.isnan())
        sums = sum_over_ranks(torch.stack([torch.where(written, now, 0), written.float()]))
        merged = torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1), before)
        self._table = merged.to(self._table.dtype)
        self._merged = self._table.clone()

    def losses(self) -> np.ndarray:
        """`(N,)` float64 on the CPU, NaN where never seen. This waits for the device."""
        return self._table[:-1].float().cpu().numpy().astype(np.float64)

    @property
    def num_seen(self) -> int:
        """Examples with a remembered loss."""
        return int((~torch.isnan(self._table[:-1])).sum())

    @property
    def num_nonfinite(self) -> int:
        """NaN and infinite losses, which were not remembered."""
        return int(self._ignored[0])

    @property
    def num_outside(self) -> int:
        """Indices outside the table, given on a device."""
        return int(self._ignored[1])

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._table[:-1].cpu().clone(), "ignored": self._ignored.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the losses another memory of as many examples held, in this one's dtype."""
        if len(state["losses"]) != self.num_examples:
            raise ValueError(
                f"Expected state of {self.num_examples} examples, but got {len(state['losses'])}."
            )
        self._table[:-1].copy_(state["losses"])
        self._ignored = state["ignored"].to(self._table.device, copy=True)
        self._merged = self._table.clone() if several() else None
