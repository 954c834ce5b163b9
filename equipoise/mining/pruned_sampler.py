"""PrunedSampler: a share of another sampler's draws, each kept with a known probability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equipoise._order_sampler import CHUNK, OrderSampler
from equipoise.mining.base import key_of
from equipoise.mining.batch_pruning import BatchPruning, keep_positions

if TYPE_CHECKING:
    from equipoise.mining.loss_pruning import LossPruning

__all__ = ["PrunedSampler"]


class PrunedSampler(OrderSampler):
    """The stream of another sampler without some of its positions, in that one's order.

    Of the M positions of the inner sampler's epoch round(keep · M) are kept, exactly, in every
    epoch (with `fixed_length=False`, all M in epochs that are not mined); which, is drawn without
    replacement, with probabilities by kind that `inclusion_probability` tells. It is decided when
    the epoch's first position is drawn, from the losses remembered by then, and kept until
    `set_epoch` or `set_log_weight`: asking twice gives the same. It takes O(M), once an epoch.
    Rank r of R takes places r, r + R, … of what is kept.

    An epoch drawn by `take` decides batch by batch instead, see there.

    Made by `LossPruning.over(sampler)`.

    Args:
        sampler: the inner one.
        pruning: decides on the probabilities.
        targets: of the examples.
    """

    def __init__(self, sampler: OrderSampler, pruning: LossPruning, targets: Any = None) -> None:
        if not isinstance(sampler, OrderSampler):
            raise TypeError(
                "Expected sampler to be an equipoise.samplers.OrderSampler, but got "
                f"{type(sampler).__name__}."
            )
        self.inner, self.pruning = sampler, pruning
        super().__init__(
            self._length(),
            targets=sampler.targets if targets is None else targets,
            num_examples=sampler.num_examples,
            seed=sampler.seed,
            rank=sampler.rank,
            num_replicas=sampler.num_replicas,
        )
        self.epoch, self.takes_log_weight = sampler.epoch, sampler.takes_log_weight
        self._batches: BatchPruning | None = None
        self._by_batch = False  # how the running epoch is drawn
        self._forget()

    def _length(self) -> int:
        """Positions of the epoch that the pruning is in."""
        if self.pruning.active or self.pruning.fixed_length:
            return max(1, round(self.pruning.keep * self.inner.num_samples))
        return self.inner.num_samples

    def set_log_weight(self, log_weight: Any) -> None:
        """Pass class log-weights on to the inner sampler; see there from when on they act."""
        self.inner.handed_out = self.handed_out
        self.inner.set_log_weight(log_weight)
        if not self.handed_out:
            self._forget()

    @property
    def log_weight(self) -> np.ndarray | None:
        """The inner sampler's."""
        return self.inner.log_weight

    def expected_draws(self) -> np.ndarray:
        """The inner sampler's, less the share that is left out: classes keep their proportions."""
        return self.share * self.inner.expected_draws()

    def logit_shift(self) -> np.ndarray:
        """The inner sampler's: the miner's weights make up for what is left out."""
        return self.inner.logit_shift()

    @property
    def share(self) -> float:
        """How much of the inner sampler's epoch is kept."""
        return self.num_samples / self.inner.num_samples

    def set_epoch(self, epoch: int, position: int | None = None) -> None:
        """Go to an epoch, at a global position; the same epoch keeps its choice.

        See `OrderSampler.set_epoch`.
        """
        if epoch != self.epoch:
            self.inner.set_epoch(epoch)
            self._forget()
            self._by_batch = False
        self.pruning.set_epoch(epoch)
        self.num_samples = self._length()
        super().set_epoch(epoch, position)

    def _forget(self) -> None:
        self._kept: np.ndarray | None = None
        self._kinds: np.ndarray | None = None
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _decide(self) -> np.ndarray:
        """The kept positions of this epoch."""
        self._by_batch = False
        if self._kept is not None:
            return self._kept
        m, length = self.inner.num_samples, self.num_samples
        if self._kinds is None:  # else they were saved
            self._kinds = self.pruning.kinds()
        drawn = np.empty(m, self._kinds.dtype)
        for first in range(0, m, CHUNK):
            positions = np.arange(first, min(first + CHUNK, m))
            drawn[first : first + CHUNK] = self._kinds[self.inner.draw(positions)]
        counts = np.bincount(drawn, minlength=self.pruning.num_kinds)
        self._probability = self.pruning.probabilities(counts, length)
        offset = np.random.default_rng(key_of(self.seed, 21, self.epoch)).random()
        self._kept = keep_positions(drawn, self._probability, length, offset)
        return self._kept

    def inclusion_probability(self, indices: Tensor) -> Tensor:
        """Probability that a draw of each example is kept in this epoch, on the indices' device.

        In an epoch drawn by `take`: in the batch last handed out that holds it.
        """
        if self._by_batch and self._batches is not None:
            return self._batches.probability(indices)
        self._decide()
        if indices.device not in self._on:
            table = torch.from_numpy(self._probability).float()
            self._on[indices.device] = (
                torch.from_numpy(self._kinds).to(indices.device),
                table.to(indices.device),
            )
        kinds, table = self._on[indices.device]
        return table[kinds[indices.long()].long()]

    def take(self, first: int, last: int) -> np.ndarray:
        """Example ids (int64) at kept positions [first, last): a batch, chosen just in time.

        The inner sampler's positions in [first · M / L, last · M / L) are its candidates, L the
        epoch's length; `last - first` of them are kept, by the losses remembered by now (see
        `BatchPruning`). Batches are taken one after another, from 0 on, and `hand_out` is called
        when the next of them is about to be trained on: `inclusion_probability` is its own then.
        """
        if last > first:
            self.handed_out = self.just_in_time = True
        if self._batches is None:
            self._batches = BatchPruning(self.pruning)
        if first == 0:
            self._batches.begin()
            self._by_batch = True
        m, length = self.inner.num_samples, self.num_samples
        begin, end = first * m // length, last * m // length
        ids = self.inner.take(begin, end)
        offset = np.random.default_rng(key_of(self.seed, 22, self.epoch, first)).random()
        return self._batches.keep(ids, last - first, offset)

    def hand_out(self) -> None:
        """Say that the next of the batches taken is about to be trained on."""
        if self._batches is not None:
            self._batches.hand_out()

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        return self.inner.draw(self._decide()[positions])

    def snapshot(self) -> PrunedSampler:
        """The sampler as it is now, with this epoch's choice made; see `OrderSampler.snapshot`."""
        self._decide()
        same: Any = super().snapshot()
        same.inner = self.inner.snapshot()
        return same

    def state_dict(self) -> dict[str, Any]:
        """Epoch, global position and the epoch's choice; the memory is in the miner's state."""
        kinds = None if self._kinds is None else torch.from_numpy(self._kinds.copy())
        return {
            **super().state_dict(),
            "kinds": kinds,
            "by_batch": self._by_batch,
            "batches": None if self._batches is None else self._batches.state_dict(),
            "inner": self.inner.state_dict(),
        }

    def _identity(self) -> dict[str, Any]:
        size = {"num_samples": self.inner.num_samples, "keep": self.pruning.keep}
        return {**super()._identity(), **size}

    def _restore(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.epoch = self.inner.epoch
        self._forget()
        if state["kinds"] is not None:
            self._kinds = state["kinds"].numpy().copy()
        self._by_batch, self._batches = state["by_batch"], None
        if state["batches"] is not None:
            self._batches = BatchPruning(self.pruning)
            self._batches.load_state_dict(state["batches"])
