"""Rates: what all of them do alike with what they have counted."""

from __future__ import annotations

from typing import Any

import torch

from equipoise._ranks import sum_over_ranks

__all__ = ["Rates"]


class Rates:
    """Tensors of counts that batches add to, which ranks add up and states hold.

    Attributes:
        counted: names of the attributes that are such tensors.
        num_nan: elements (for labels, examples) left out because a logit was NaN.
        num_invalid: those left out because a target was none that it may be.
    """

    counted: tuple[str, ...] = ("_counts", "_ignored")

    def __init__(self) -> None:
        self._ignored = torch.zeros(2, dtype=torch.int64)

    @property
    def num_nan(self) -> int:
        return int(self._ignored[0])

    @property
    def num_invalid(self) -> int:
        return int(self._ignored[1])

    def sum_over_ranks(self) -> None:
        """Add up the counts of all ranks of torch.distributed. Every rank has to call it."""
        for name in self.counted:
            setattr(self, name, sum_over_ranks(getattr(self, name)))

    def reset(self) -> None:
        """Forget everything counted."""
        for name in self.counted:
            getattr(self, name).zero_()

    def state_dict(self) -> dict[str, Any]:
        return {name[1:]: getattr(self, name).cpu().clone() for name in self.counted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self.counted:
            mine, theirs = getattr(self, name), state[name[1:]]
            if mine.shape != theirs.shape:
                raise ValueError(
                    f"Expected state of {type(self).__name__} of as many classes, with "
                    f"{name[1:]} {tuple(mine.shape)}, but got {tuple(theirs.shape)}."
                )
            setattr(self, name, theirs.clone())

    def _move(self, device: torch.device) -> None:
        if self._ignored.device != device:
            for name in self.counted:
                setattr(self, name, getattr(self, name).to(device))
