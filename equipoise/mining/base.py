"""What every miner shares: when it acts, its share kept, its private randomness, its tally."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from equipoise.mining.tally import Tally

__all__ = ["Miner", "check_share"]


class Miner:
    """A miner that leaves the first and the last epochs alone.

    Args:
        warm_up: epochs at the start in which all examples are used.
        final: epochs at the end in which all examples are used; needs `num_epochs`.
        num_epochs: of the whole training.
        num_classes: C, for counts of each class in `tally`.
        seed: of the private randomness.

    Attributes:
        epoch: as last given to `set_epoch`; 0 at first.
        tally: what was kept since the last `tally.reset()`.
        acts_on: "losses", "loader" or "sampler"; see `equipoise.mining`.
        multilabel: whether losses and targets are `(B, C)`.
    """

    acts_on = "losses"
    multilabel = False

    def __init__(
        self,
        *,
        warm_up: int = 0,
        final: int = 0,
        num_epochs: int | None = None,
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("warm_up", warm_up), ("final", final), ("seed", seed)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise ValueError(f"Expected {name} to be an int from 0 up, but got {value!r}.")
        if final and num_epochs is None:
            raise ValueError(
                f"Expected num_epochs to be given with final={final}: without it the last epochs "
                "are not known."
            )
        if num_epochs is not None and num_epochs < warm_up + final:
            raise ValueError(
                f"Expected num_epochs to be at least warm_up + final = {warm_up + final}, "
                f"but got {num_epochs}."
            )
        self.warm_up, self.final, self.num_epochs = int(warm_up), int(final), num_epochs
        self.seed, self.epoch = int(seed), 0
        self.tally = Tally(num_classes)
        self._calls = 0  # keys the randomness of a call

    @property
    def active(self) -> bool:
        """Whether this epoch is mined; otherwise all examples are used."""
        last = self.num_epochs is not None and self.epoch >= self.num_epochs - self.final
        return self.epoch >= self.warm_up and not (self.final and last)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch runs, counted from 0: at its start, as for a sampler."""
        if not isinstance(epoch, int | np.integer) or epoch < 0:
            raise ValueError(f"Expected epoch to be an int from 0 up, but got {epoch!r}.")
        self.epoch = int(epoch)

    def cost(self) -> float:
        """What the epoch so far cost, of training on all that was drawn: an estimate from passes.

        A forward pass counts 1 and a backward pass 2. Choosing within a batch saves nothing: 1.
        """
        return 1.0

    def sum_over_ranks(self) -> None:
        """Bring together what the ranks of torch.distributed have seen. Every rank calls it."""
        self.tally.sum_over_ranks()

    def _next_offset(self) -> float:
        """The next number of a golden-ratio sequence in [0, 1): evenly spread, never random."""
        start = key_of(self.seed) / 2**63
        self._calls += 1
        return (start + self._calls * (5**0.5 - 1) / 2) % 1.0

    def _generator(self, device: torch.device | str) -> torch.Generator:
        """A generator for this call alone, so that the state to save is a count of calls."""
        return torch.Generator(device).manual_seed(key_of(self.seed, self._calls))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "calls": self._calls, "tally": self.tally.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict` of a miner made with the same arguments."""
        self.tally.load_state_dict(state["tally"])
        self.epoch, self._calls = state["epoch"], state["calls"]


def key_of(*parts: int) -> int:
    """A 63-bit key hashed from whole numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_share(name: str, value: Any, *, zero: bool = False) -> float:
    """`value` as a float in (0, 1], or [0, 1) with `zero`."""
    fits = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not fits or not ((0 <= value < 1) if zero else (0 < value <= 1)):
        span = "[0, 1)" if zero else "(0, 1]"
        raise ValueError(f"Expected {name} to be a share in {span}, but got {value!r}.")
    return float(value)
