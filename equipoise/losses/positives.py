"""Where the positives of multilabel targets are, for the engine, which treats them apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

DENSE_SHARE = 1 / 8  # with more positives than this, they are not listed


@dataclass(frozen=True)
class Positives:
    """The positives of `(B, C)` targets."""

    index: Tensor
    """Their places in the flattened matrix, row after row."""
    shape: torch.Size

    @cached_property
    def example(self) -> Tensor:
        """The row of each."""
        return self.index.div(self.shape[1], rounding_mode="floor")

    @cached_property
    def label(self) -> Tensor:
        """The column of each."""
        return self.index - self.example * self.shape[1]

    def bounds(self, step: int) -> list[int]:
        """Where each chunk of `step` rows begins in `index`, and the end of the last one."""
        num_rows, num_classes = self.shape
        starts = torch.arange(0, num_rows + step, step) * num_classes
        begins: list[int] = torch.searchsorted(self.index, starts).tolist()
        return begins

    def sums(self, vector: Tensor) -> Tensor:
        """`(B,)`: for each example, the sum of a `(C,)` vector over its positives."""
        each = vector.index_select(0, self.label)
        return vector.new_zeros(self.shape[0]).index_add_(0, self.example, each)


def find_positives(targets: Tensor) -> Positives | None:
    """The positives, or `None` if there are too many to be worth a list, or labels are soft.

    Args:
        targets: `(B, C)` on the CPU, dense or sparse CSR.
    """
    if targets.layout == torch.sparse_csr:
        columns = targets.col_indices()
        begins = torch.arange(targets.shape[0]) * targets.shape[1]
        index = begins.repeat_interleave(targets.crow_indices().diff(), output_size=columns.numel())
        index = index.add_(columns)
        values = targets.values()
    else:
        flat = targets.detach().reshape(-1)
        index = _nonzero(flat)
        if index.numel() > DENSE_SHARE * flat.numel():
            return None
        values = flat.index_select(0, index)
    return Positives(index, targets.shape) if bool((values == 1).all()) else None


def _nonzero(flat: Tensor) -> Tensor:
    """Places of the non-zero elements, looking at eight at a time first.

    By NumPy, which is about three times as fast here as `torch.nonzero`.
    """
    bits = flat.bool().numpy()
    whole = bits.size // 8 * 8
    eights = bits[:whole].view(np.int64)
    some = np.flatnonzero(eights != 0)
    within = np.flatnonzero(eights[some].view(np.bool_))
    index = (some * 8)[within >> 3]
    index += within & 7
    rest = whole + np.flatnonzero(bits[whole:])
    return torch.from_numpy(np.concatenate([index, rest]) if rest.size else index)
