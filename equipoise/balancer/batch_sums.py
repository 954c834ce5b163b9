"""BatchSums: two numbers by which the classes of a batch, and their order, are known again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.targets import Targets

__all__ = ["BatchSums"]

COLUMNS = 24  # labels by which examples of several labels are told from one another


class BatchSums:
    """Σ code and Σ code · weight of a batch, with random codes of classes and weights of places.

    The first sum tells which classes a batch has, the second in which order. They are computed on
    the batch's device, in 64-bit whole numbers that wrap around, so that they are the same
    everywhere; nothing waits for the device. Of several labels, those carried by closest to half
    of the examples are looked at.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self._columns = np.zeros(0, np.int64)
        kinds = targets.num_classes + 2  # one more on each side for ids that are no class
        if targets.multilabel:
            off = np.abs(targets.counts / targets.num_examples - 0.5)
            self._columns = np.argsort(off, kind="stable")[:COLUMNS]
            kinds = len(self._columns)
        self._code = np.random.default_rng(0).integers(1, 2**62, kinds)
        self._weight = np.ones((2, 0), np.int64)
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}
        self._code_of: np.ndarray | None = None  # every example's, for several labels

    def can_tell(self, targets: Tensor) -> bool:
        """Whether a batch can be known again by its targets: not that of a stream, nor pixels."""
        known = self.targets.indexed and not self.targets.elements
        return known and (self.targets.multilabel or targets.ndim == 1)

    def __call__(self, targets: Tensor) -> Tensor:
        """`(2,)` int64, on the device of targets `(B,)` or `(B, C)`; they are counted, too."""
        size = len(targets)
        self._fit(size)
        if targets.device not in self._on:
            tables = self._code, self._weight, self._columns, np.zeros_like(self._code)
            self._on[targets.device] = tuple(
                torch.from_numpy(each).to(targets.device) for each in tables
            )
        code, weight, columns, counts = self._on[targets.device]
        if self.targets.multilabel:
            some = targets.index_select(1, columns)
            carried = (some > 0.5) & (some <= 1)  # neither unknown
            codes = (carried * code).sum(1)
            counts += carried.sum(0)
        else:
            ids = (targets.long() + 1).clamp_(0, len(code) - 1)
            codes = code[ids]
            counts.index_add_(0, ids, weight[0, :1].expand(size))
        return (codes * weight[:, :size]).sum(1)

    def _fit(self, size: int) -> None:
        """Have weights for batches of that size."""
        if size > self._weight.shape[1]:
            weight = np.random.default_rng(1).integers(1, 2**62, 2 * size)
            self._weight = np.stack([np.ones_like(weight), weight])
            for device, (code, _, columns, counts) in self._on.items():
                on = torch.from_numpy(self._weight).to(device)
                self._on[device] = (code, on, columns, counts)

    def codes(self, ids: Any) -> np.ndarray:
        """`(n,)` int64: codes of the examples with those ids."""
        if self.targets.labels is not None:
            return self._code[self.targets.labels[ids].astype(np.int64) + 1]
        if self._code_of is None:
            matrix: Any = self.targets.matrix
            self._code_of = (matrix[:, self._columns] > 0).astype(np.int64) @ self._code
        return self._code_of[ids]

    def planned(self, codes: np.ndarray) -> tuple[int, int]:
        """What a batch of these codes has to give."""
        self._fit(len(codes))
        return int(codes.sum()), int((codes * self._weight[1, : len(codes)]).sum())

    def clear(self) -> None:
        """Forget which classes came."""
        for *_, counts in self._on.values():
            counts.zero_()

    def agree(self, ids: np.ndarray) -> bool:
        """Whether the classes came in the proportions of these examples, as chance allows."""
        came = np.sum([counts.cpu().numpy() for *_, counts in self._on.values()], axis=0)
        if self.targets.labels is not None:
            drawn = np.bincount(self.targets.labels[ids], minlength=self.targets.num_classes)
            drawn = np.pad(drawn, 1)
        else:
            matrix: Any = self.targets.matrix
            drawn = np.asarray(matrix[ids][:, self._columns].sum(0)).reshape(-1)
        apart = np.abs(came / max(came.sum(), 1) - drawn / max(drawn.sum(), 1)).sum()
        chance = np.sqrt(len(came) / max(min(came.sum(), drawn.sum()), 1))
        return bool(apart < 0.02 + chance)
