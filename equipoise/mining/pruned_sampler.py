"""PrunedSampler: a share of another sampler's draws, each kept with a known probability."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from equipoise.mining.base import key_of

__all__ = ["NEW", "PrunedSampler", "keep_positions"]

NEW = 0  # the kind of an example never seen
CHUNK = 16384


def keep_positions(
    kinds: np.ndarray, probability: np.ndarray, length: int, offset: float
) -> np.ndarray:
    """`length` positions, ascending; position t is among them with probability[kinds[t]].

    Systematic sampling: positions are laid out kind by kind, each as long as its probability, and
    those are kept into which one of offset, offset + 1, … falls. So each kind is kept as often as
    its probability says, rounded up or down.

    Args:
        kinds: `(M,)` small integers.
        probability: of each kind; over all positions they sum to `length`.
        length: how many to keep.
        offset: in [0, 1), random and uniform.

    Example:
        >>> keep_positions(np.array([0, 1, 1, 0, 1, 1]), np.array([1.0, 0.5]), 4, 0.3).tolist()
        [0, 2, 3, 5]
    """
    surely = probability[kinds] >= 1 - 1e-9
    rest = np.flatnonzero(~surely)
    rest = rest[np.argsort(kinds[rest], kind="stable")]
    wanted = length - int(np.count_nonzero(surely))
    if not len(rest) or wanted <= 0:
        return np.flatnonzero(surely)
    ends = np.cumsum(probability[kinds[rest]])
    places = np.floor(ends * (wanted / ends[-1]) + offset).astype(np.int64)
    places[-1] = wanted  # floor(wanted + offset) but for rounding errors
    kept = surely.copy()
    kept[rest[np.diff(places, prepend=0) > 0]] = True
    return np.flatnonzero(kept)


class Pruning(Protocol):
    """What decides on probabilities: a `LossPruning`."""

    keep: float
    fixed_length: bool

    @property
    def active(self) -> bool: ...
    def set_epoch(self, epoch: int) -> None: ...
    def kinds(self) -> np.ndarray: ...
    def probabilities(self, drawn_kinds: np.ndarray, length: int) -> np.ndarray: ...


class PrunedSampler(torch.utils.data.Sampler[int]):
    """The stream of another sampler without some of its positions, in that one's order.

    Of the M positions of the inner sampler's epoch round(keep · M) are kept, exactly, in every
    epoch (with `fixed_length=False`, all M in epochs that are not mined); which, is drawn without
    replacement, with probabilities by kind that `inclusion_probability` tells. It is decided when
    the epoch's first position is drawn, from the losses remembered by then, and kept until
    `set_epoch` or `set_log_weight`: asking twice gives the same. It takes O(M), once an epoch.
    Rank r of R takes places r, r + R, … of what is kept.

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
        self.inner, self.pruning = sampler, pruning
        self.rank, self.num_replicas = sampler.rank, sampler.num_replicas
        self.seed, self.epoch = sampler.seed, sampler.epoch
        self._start = self.position = 0
        self._forget()

    def set_log_weight(self, log_weight: Any) -> None:
        """Pass class log-weights on to the inner sampler, and decide anew what is kept."""
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
    def num_samples(self) -> int:
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

        `None` is its start, or a position given for this epoch that no iteration has begun at yet:
        see `OrderSampler.set_epoch`.
        """
        if position is None:
            position = self._start if epoch == self.epoch else 0
        if epoch != self.epoch:
            self.inner.set_epoch(epoch)
            self._forget()
        self.pruning.set_epoch(epoch)
        self.epoch = int(epoch)
        if not 0 <= position <= self.num_samples:
            raise ValueError(
                f"Expected position to be in [0, {self.num_samples}], but got {position}."
            )
        self._start = self.position = int(position)

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
        self._probability = self.pruning.probabilities(drawn, length)
        offset = np.random.default_rng(key_of(self.seed, 21, self.epoch)).random()
        self._kept = keep_positions(drawn, self._probability, length, offset)
        return self._kept

    def inclusion_probability(self, indices: Tensor) -> Tensor:
        """Probability that a draw of each example is kept in this epoch, on the indices' device."""
        self._decide()
        if indices.device not in self._on:
            table = torch.from_numpy(self._probability).float()
            self._on[indices.device] = (
                torch.from_numpy(self._kinds).to(indices.device),
                table.to(indices.device),
            )
        kinds, table = self._on[indices.device]
        return table[kinds[indices.long()].long()]

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        return self.inner.draw(self._decide()[positions])

    def __len__(self) -> int:
        """How many examples this rank draws in the current epoch."""
        return max(0, -(-(self.num_samples - self.rank) // self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        self.position = start
        stride, end = self.num_replicas, self.num_samples
        for first in range(start + self.rank, end, stride * CHUNK):
            last = min(first + stride * CHUNK, end)
            for index in self.draw(np.arange(first, last, stride)).tolist():
                self.position = min(self.position + stride, end)
                yield index

    def indices(self) -> np.ndarray:
        """This rank's whole epoch as one contiguous int64 array."""
        mine = np.arange(self.rank, self.num_samples, self.num_replicas)
        parts = [self.draw(mine[i : i + CHUNK]) for i in range(0, len(mine), CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, global position and the epoch's choice; the memory is in the miner's state."""
        kinds = None if self._kinds is None else torch.from_numpy(self._kinds.copy())
        return {
            "epoch": self.epoch,
            "position": self.position,
            "kinds": kinds,
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
