"""PrunedSampler: a share of another sampler's draws, each kept with a known probability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equipoise._order_sampler import CHUNK, OrderSampler
from equipoise.mining.base import key_of

if TYPE_CHECKING:
    from equipoise.mining.loss_pruning import LossPruning

__all__ = ["PrunedSampler", "keep_positions"]


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


class PrunedSampler(OrderSampler):
    """The stream of another sampler without some of its positions, in that one's order.

    Of the M positions of the inner sampler's epoch round(keep · M) are kept, exactly, in every
    epoch (with `fixed_length=False`, all M in epochs that are not mined); which, is drawn without
    replacement, with probabilities by kind that `inclusion_probability` tells. It is decided when
    the epoch's first position is drawn, from the losses remembered by then, and kept until
    `set_epoch` or `set_log_weight`: asking twice gives the same. It takes O(M), once an epoch.
    Rank r of R takes places r, r + R, … of what is kept.

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
        self.pruning.set_epoch(epoch)
        self.num_samples = self._length()
        super().set_epoch(epoch, position)

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
