"""Prepared: batches as the network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.targets import Targets
from equipoise.training.nets import augment

__all__ = ["Prepared", "as_input", "as_tensor"]


class Prepared:
    """Batches augmented and on the device, with targets and positions.

    Args:
        batches: `(inputs, positions)`, see `Arrays.batches`.
        targets: that the positions are of.
        device: to move everything to.
        flip: whether half of the images are mirrored.
        key: of the augmentation.
    """

    def __init__(self, batches: Any, targets: Targets, device: str, flip: bool, key: int) -> None:
        self.batches, self.targets, self.device, self.flip = batches, targets, device, flip
        self.generator = torch.Generator().manual_seed(key)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for x, positions in self.batches:
            targets = as_tensor(self.targets, positions.numpy()).to(self.device)
            if x.ndim == 4:
                x = augment(x, self.generator, self.flip)
            yield as_input(x, self.device), targets, positions.to(self.device)


def as_tensor(targets: Targets, rows: Any = slice(None)) -> Tensor:
    """Class ids, or multi-hot rows, as a tensor."""
    if targets.matrix is not None:
        return torch.from_numpy(targets.matrix[rows].toarray())
    return torch.from_numpy(targets.require_single_label("as_tensor")[rows].astype(np.int64))


def as_input(x: Tensor, device: str) -> Tensor:
    """Features, or images `(B, H, W, C)` with the channels first, as float on the device."""
    x = x.to(device)
    return x.permute(0, 3, 1, 2).float() if x.ndim == 4 else x.float()
