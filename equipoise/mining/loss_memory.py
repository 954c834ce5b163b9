"""LossMemory: one remembered loss for each example of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise._order_sampler import require_int
from equipoise._ranks import several, sum_over_ranks

MOST = torch.finfo(torch.float16).max


class LossMemory:
    """A table of N losses in float16, written as the batches pass; nothing waits for the device.

    Of an index that a batch holds twice, one of the losses is written. NaN and infinite losses are
    not written, nor, on a device, those of indices outside the table (on the CPU they raise).

    With several ranks each writes the losses it sees, and `merge_ranks` brings them together: the
    memories must be the same for the ranks' samplers to be.

    Args:
        num_examples: N.

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

    def __init__(self, num_examples: int) -> None:
        require_int("num_examples", num_examples, 1)
        self.num_examples = int(num_examples)
        # One row more, where what cannot be used is written to
        self._table = torch.full((self.num_examples + 1,), torch.nan, dtype=torch.float16)
        self._merged: Tensor | None = None  # the table when the ranks last had the same

    @torch.no_grad()
    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Remember a batch's losses.

        Args:
            indices: `(B,)` integers in [0, N), as the loader gives them (of FFCV also `(B, 1)`).
            losses: `(B,)`, any floating dtype; unweighted ones tell hard examples best.
        """
        indices = self.check_indices(indices, losses.shape)
        if self._table.device != losses.device:
            self._table = self._table.to(losses.device)
        indices = indices.to(losses.device, non_blocking=True).long()
        fits = (indices >= 0) & (indices < self.num_examples) & torch.isfinite(losses)
        values = losses.float().clamp(-MOST, MOST).half()
        self._table[torch.where(fits, indices, self.num_examples)] = values
        self._table[self.num_examples :] = torch.nan

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
        self._table = merged.half()
        self._merged = self._table.clone()

    def losses(self) -> np.ndarray:
        """`(N,)` float64 on the CPU, NaN where never seen. This waits for the device."""
        return self._table[:-1].float().cpu().numpy().astype(np.float64)

    @property
    def num_seen(self) -> int:
        """Examples with a remembered loss."""
        return int((~torch.isnan(self._table[:-1])).sum())

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._table[:-1].cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the losses another memory of as many examples held."""
        if len(state["losses"]) != self.num_examples:
            raise ValueError(
                f"Expected state of {self.num_examples} examples, but got {len(state['losses'])}."
            )
        self._table[:-1].copy_(state["losses"])
        self._merged = self._table.clone() if several() else None
