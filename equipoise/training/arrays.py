"""Arrays: inputs held in memory, and batches of them in a sampler's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Arrays", "as_images", "dense"]


class Arrays:
    """Inputs in memory: images `(N, H, W, C)`, features `(N, F)`, or these as scipy CSR.

    Attributes:
        shape: of one example.
    """

    def __init__(self, values: Any) -> None:
        self.values = values
        self.shape: tuple[int, ...] = tuple(int(n) for n in values.shape[1:])

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def sample(self, ids: np.ndarray) -> Any:
        """The inputs of some examples, dense or sparse as they are."""
        return self.values[ids]

    def batches(
        self, ids: np.ndarray, batch_size: int, balancer: Any = None, drop_last: bool = False
    ) -> Any:
        """Iterable of `(inputs, positions)`: of `ids`, in the balancer's order or in their own.

        Positions number the examples among `ids`; each iteration is an epoch.
        """
        order = np.arange(len(ids)) if balancer is None else balancer.sampler
        return _Batches(self.values, ids, order, batch_size, drop_last)


class _Batches:
    def __init__(
        self, values: Any, ids: np.ndarray, order: Any, batch_size: int, drop_last: bool
    ) -> None:
        self.values, self.ids, self.order = values, ids, order
        self.batch_size, self.drop_last = batch_size, drop_last

    def __len__(self) -> int:
        n = len(self.order)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        positions: Iterable[int] = iter(self.order)
        while len(chosen := np.fromiter(islice(positions, self.batch_size), np.int64)):
            if self.drop_last and len(chosen) < self.batch_size:
                return
            yield torch.from_numpy(dense(self.values[self.ids[chosen]])), torch.from_numpy(chosen)


def dense(values: Any) -> np.ndarray:
    """Sparse rows as an array; an array as it is."""
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def as_images(values: np.ndarray, what: str) -> np.ndarray:
    """`(N, H, W, C)` of uint8 or float32, C 1 or 3, from images with the channels anywhere or none.

    Raises:
        ValueError: arrays of another shape, or with NaN or infinite values.

    Example:
        >>> as_images(np.zeros((2, 1, 8, 8), np.uint8), "x").shape
        (2, 8, 8, 1)
    """
    if values.ndim == 3:
        values = values[..., None]
    elif values.shape[-1] not in (1, 3) and values.shape[1] in (1, 3):
        values = np.moveaxis(values, 1, -1)
    if values.shape[-1] not in (1, 3) or values.shape[1] < 4 or values.shape[2] < 4:
        raise ValueError(
            f"Expected {what} to be images (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W) of "
            f"at least 4 by 4 pixels, but got shape {values.shape}."
        )
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"Expected {what} to be finite, but some values are NaN or infinite.")
    return values
