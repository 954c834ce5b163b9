"""What every miner shares, and the three kinds of miners, told apart by their type."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from equipoise._order_sampler import OrderSampler, require_int
from equipoise.mining.tally import Tally


class Settings(TypedDict, total=False):
    """What every `Miner` takes beside its own arguments."""

    warm_up: int
    final: int
    num_epochs: int | None
    num_classes: int | None
    seed: int


class Miner:
    """What all miners share; each is a `BatchMiner`, a `LoaderMiner` or a `SamplerMiner`.

    A miner leaves the first `warm_up` and the last `final` epochs alone.

    Args:
        warm_up: epochs at the start in which all examples are used.
        final: epochs at the end in which all examples are used; needs `num_epochs`.
        num_epochs: of the whole training.
        num_classes: C, for counts of each class in `tally`.
        seed: of the private randomness.

    Attributes:
        epoch: as last given to `set_epoch`; 0 at first.
        tally: what was kept since the last `tally.reset()`.
        multilabel: whether losses and targets are `(B, C)`.
    """

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
            require_int(name, value, 0)
        if final and num_epochs is None:
            raise ValueError(
                f"Expected num_epochs to be given with final={final}: without it the last epochs "
                "are not known."
            )
        if num_epochs is not None:
            require_int("num_epochs", num_epochs, warm_up + final)
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
        require_int("epoch", epoch, 0)
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

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "calls": self._calls, "tally": self.tally.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict` of a miner made with the same arguments."""
        self.tally.load_state_dict(state["tally"])
        self.epoch, self._calls = state["epoch"], state["calls"]


class BatchMiner(Miner):
    """A miner that chooses among the losses of a batch."""

    def __call__(
        self, losses: Tensor, targets: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """The batch's reduced loss.

        Args:
            losses: `(B,)`, or `(B, C)` for labels, as `Loss.unreduced` gives them.
            targets: `(B,)` class ids, or `(B, C)` of 0 and 1.
            indices: `(B,)` ids of the examples, for miners that ask for them.
        """
        raise NotImplementedError


class LoaderMiner(Miner):
    """A miner that chooses among a loader's examples, before the backward pass."""

    def __call__(
        self, loader: Iterable[Any], model: Callable[..., Any], loss: Callable[..., Tensor]
    ) -> Iterator[tuple[Tensor, ...]]:
        """Batches of the chosen examples of one pass over `loader`.

        Args:
            loader: gives tuples of tensors: inputs, targets, and whatever else there is for each
                example.
            model: from inputs to logits.
            loss: a function of logits and targets that gives the losses of the examples, such as
                `Loss.unreduced`.
        """
        raise NotImplementedError


class SamplerMiner(BatchMiner):
    """A miner that chooses among a sampler's draws, before loading; it learns of their losses.

    The network is trained on `over(sampler)`, and the miner is called with every batch, as a
    `BatchMiner` is, with the examples' `indices`.
    """

    def over(self, sampler: OrderSampler, targets: Any = None) -> OrderSampler:
        """A sampler of the chosen draws of `sampler`.

        Args:
            sampler: whose draws.
            targets: of its examples; by default `sampler.targets`.
        """
        raise NotImplementedError


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


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value`, if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {choices}, but got {value!r}.")
    return value


def check_losses(losses: Tensor, ndim: int) -> None:
    """Raise unless `losses` has one value an example (or an example and label)."""
    shape = "(B,)" if ndim == 1 else "(B, C)"
    if losses.ndim != ndim:
        raise ValueError(
            f"Expected losses to be unreduced, of shape {shape}, but got {tuple(losses.shape)}. "
            'Use Loss.unreduced, or reduction="none".'
        )
    if losses.numel() == 0:
        raise ValueError(f"Expected losses of at least one example, but got {tuple(losses.shape)}.")


def sum_of_chosen(losses: Tensor, chosen: Tensor) -> Tensor:
    """Σ of the chosen losses, in float32 or float64."""
    return torch.where(chosen, losses, 0).sum(
        dtype=torch.promote_types(losses.dtype, torch.float32)
    )
