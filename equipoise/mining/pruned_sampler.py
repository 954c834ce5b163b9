"""PrunedSampler: a share of another sampler's draws, each kept with a known probability."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.mining.base import key_of
from equipoise.mining.batch_pruning import BatchPruning, Pruning, keep_positions
from equipoise.order_sampler import CHUNK, OrderSampler

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
        sampler: the inner one, see `LossPruning.over`.
        pruning: decides on the probabilities.
    """

    def __init__(self, sampler: Any, pruning: Pruning) -> None:
        for name in ("draw", "num_samples", "seed", "set_epoch", "state_dict"):
            if not hasattr(sampler, name):
                raise TypeError(
                    "Expected sampler to be an OrderSampler of equipoise.samplers, with "
                    f"`{name}`, but got {type(sampler).__name__}."
                )
        # Not the base's __init__: the length is a property, and the epoch the inner sampler's.
        self.inner, self.pruning = sampler, pruning
        self.rank, self.num_replicas = sampler.rank, sampler.num_replicas
        self.seed, self.epoch = sampler.seed, sampler.epoch
        self._begin_at(0)
        self._batches: BatchPruning | None = None
        self._by_batch = False  # how the running epoch is drawn
        self._forget()

    def set_log_weight(self, log_weight: Any) -> None:
        """Pass class log-weights on to the inner sampler, and decide anew what is kept."""
        if hasattr(self.inner, "set_log_weight"):  # plain shuffling has none
            self.inner.set_log_weight(log_weight)
        self._forget()

    @property
    def targets(self) -> Any:
        """The inner sampler's targets."""
        return self.inner.targets

    @property
    def log_weight(self) -> np.ndarray:
        """The inner sampler's class log-weights."""
        return np.asarray(self.inner.log_weight)

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Positions of the current epoch, over all ranks."""
        if self.pruning.active or self.pruning.fixed_length:
            return max(1, round(self.pruning.keep * self.inner.num_samples))
        return int(self.inner.num_samples)

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
        self.pruning.set_epoch(epoch)  # the epoch's length depends on it
        super().set_epoch(epoch, position)

    def set_ranks(self, rank: int, num_replicas: int) -> None:
        """Take the places of this rank of so many, from the next iteration on."""
        self.inner.set_ranks(rank, num_replicas)
        self.rank, self.num_replicas = self.inner.rank, self.inner.num_replicas

    def _forget(self) -> None:
        self._kept: np.ndarray | None = None
        self._kinds: np.ndarray | None = None
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _decide(self) -> np.ndarray:
        """The kept positions of this epoch."""
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
        if self._batches is None:
            self._batches = BatchPruning(self.pruning)
        if first == 0:
            self._batches.begin()
            self._by_batch = True
        m, length = self.inner.num_samples, self.num_samples
        begin, end = first * m // length, last * m // length
        take = getattr(self.inner, "take", None)
        ids = take(begin, end) if take else self.inner.draw(np.arange(begin, end))
        offset = np.random.default_rng(key_of(self.seed, 22, self.epoch, first)).random()
        return self._batches.keep(ids, last - first, offset)

    def hand_out(self) -> None:
        """Say that the next of the batches taken is about to be trained on."""
        if self._batches is not None:
            self._batches.hand_out()

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        return self.inner.draw(self._decide()[positions])

    def _chunks(self) -> Iterator[Iterator[int]]:
        self._by_batch = False
        yield from super()._chunks()

    def indices(self) -> np.ndarray:
        """This rank's whole epoch as one contiguous int64 array."""
        self._by_batch = False
        return super().indices()

    def state_dict(self) -> dict[str, Any]:
        """Epoch, global position and the epoch's choice; the memory is in the miner's state."""
        kinds = None if self._kinds is None else torch.from_numpy(self._kinds.copy())
        return {
            "epoch": self.epoch,
            "position": self.position,
            "kinds": kinds,
            "by_batch": self._by_batch,
            "batches": None if self._batches is None else self._batches.state_dict(),
            "inner": self.inner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also with another number of ranks."""
        self.inner.load_state_dict(state["inner"])
        self.inner.set_epoch(state["epoch"])
        self._forget()
        self.epoch = state["epoch"]
        self.set_epoch(state["epoch"], state["position"])
        if state["kinds"] is not None:
            self._kinds = state["kinds"].numpy().copy()
        self._by_batch, self._batches = state.get("by_batch", False), None
        if state.get("batches") is not None:
            self._batches = BatchPruning(self.pruning)
            self._batches.load_state_dict(state["batches"])
