"""Where the positives of multilabel targets are, for the losses that treat them by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DENSE_SHARE = 1 / 8  # with more positives than this, they are not listed


@dataclass(frozen=True)
class Positives:
    """The positives of ``(B, C)`` targets."""

    index: Tensor
    """Their places in the flattened matrix, row after row."""
    example: Tensor
    label: Tensor
    fraction: Tensor | None
    """Their values, if these may be other than 1."""
    num_rows: int

    def bounds(self, step: int) -> list[int]:
        """Where each chunk of ``step`` rows begins in ``index``, and the end of the last one."""
        if step >= self.num_rows:
            return [0, self.index.numel()]
        starts = torch.arange(0, self.num_rows + step, step)
        begins: list[int] = torch.searchsorted(self.example, starts).tolist()
        return begins


def find_positives(targets: Tensor, dtype: torch.dtype) -> Positives | None:
    """The positives, or ``None`` if looking for them is not worth it or has to wait for a device.

    Args:
        targets: ``(B, C)``, dense or sparse CSR. Stored zeros count as found, with fraction 0.
        dtype: of the fractions.

    Raises:
        TypeError: If targets are sparse but not CSR.
    """
    if targets.layout not in (torch.strided, torch.sparse_csr):
        raise TypeError(f"Expected targets to be dense or sparse CSR, but got {targets.layout}")
    if targets.layout == torch.sparse_csr:
        row_begins, label = targets.crow_indices(), targets.col_indices()
        rows = torch.arange(targets.shape[0], device=label.device)
        example = rows.repeat_interleave(row_begins.diff(), output_size=label.numel())
        index = example * targets.shape[1] + label
        fraction = _unless_ones(as_fraction(targets.values(), dtype))
        return Positives(index, example, label, fraction, targets.shape[0])
    if not may_look(targets):
        return None
    flat = targets.detach().reshape(-1)
    index = _nonzero(flat)
    if index.numel() > DENSE_SHARE * flat.numel():
        return None
    fraction = flat.index_select(0, index).to(dtype) if flat.is_floating_point() else None
    example = index.div(targets.shape[1], rounding_mode="floor")
    label = index - example * targets.shape[1]
    return Positives(index, example, label, _unless_ones(fraction), targets.shape[0])


def _unless_ones(fraction: Tensor | None) -> Tensor | None:
    if fraction is None or (may_look(fraction) and bool((fraction == 1).all())):
        return None
    return fraction


def _nonzero(flat: Tensor) -> Tensor:
    """Places of the non-zero elements, looking at eight at a time first.

    By NumPy, which is about three times as fast here as ``torch.nonzero``.
    """
    bits = flat.bool().numpy()
    whole = bits.size // 8 * 8
    words = np.flatnonzero(bits[:whole].view(np.int64) != 0)
    place = np.flatnonzero(bits[:whole].reshape(-1, 8)[words])
    index = words[place >> 3] * 8 + (place & 7)
    rest = whole + np.flatnonzero(bits[whole:])
    return torch.from_numpy(np.concatenate([index, rest]) if rest.size else index)


def may_look(tensor: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device or breaking a graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def keeps_graph() -> bool:
    """Whether what was kept for backward, which is now running, will be needed again."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def as_fraction(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating values as they are, others as 0 and 1."""
    return (values if values.is_floating_point() else values.bool()).to(dtype)


def positive_sums(targets: Tensor, found: Positives | None, vector: Tensor) -> Tensor:
    """``(B,)``: for each example, the sum of ``vector`` over its positives.

    Args:
        targets: ``(B, C)``, dense or sparse CSR.
        found: their positives, if they were found.
        vector: ``(C,)``.
    """
    if found is None:
        return as_fraction(targets, vector.dtype) @ vector
    terms = vector.index_select(0, found.label)
    if found.fraction is not None:
        terms *= found.fraction
    return vector.new_zeros(targets.shape[0]).index_add_(0, found.example, terms)
