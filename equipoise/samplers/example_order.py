"""ExampleWeightedSampler: every example as often as its weight says, evenly, with random access."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.samplers.base import OrderSampler
from equipoise.samplers.order import key_of, permute

__all__ = ["ExampleOrder", "ExampleWeightedSampler"]


class ExampleOrder:
    """Example ids at any position of any epoch; example i comes r_i times, rounded up or down.

    Systematic sampling: the expected repeats r_i, which sum to M, are laid end to end in a keyed
    arrangement of the examples; example i is drawn once for each of the points u, 1 + u, …,
    M − 1 + u that falls into its stretch, hence ⌊r_i⌋ or ⌈r_i⌉ times, r_i on average. The offset u
    follows the golden-ratio sequence over epochs from a keyed start, so that an example's draws
    over several epochs are spread evenly too. Position t of the epoch takes the point that a keyed
    bijection of {0 … M−1} sends it to.

    The arrangement and its cumulative sums are kept, O(N); going to an epoch is O(1), and a
    position costs a binary search.

    Args:
        weight: `(N,)` non-negative, not all 0: r_i = M · weight_i / sum.
        num_samples: M, positions an epoch.
        seed: with the epoch, all the randomness there is.
    """

    def __init__(self, weight: np.ndarray, num_samples: int, seed: int) -> None:
        self.num_samples, self.seed = num_samples, seed
        n = len(weight)
        self._arrangement = permute(np.arange(n), n, key_of(seed, 11)).astype(np.int64)
        self.set_weight(weight)
        self.set_epoch(0)

    def set_weight(self, weight: np.ndarray) -> None:
        """Draw in proportion to these weights from now on."""
        ends = np.cumsum(weight[self._arrangement], dtype=np.float64)
        ends *= self.num_samples / ends[-1]
        # Whole sums stay whole, so that whole expected repeats are met in every epoch.
        whole = np.rint(ends)
        near = np.abs(ends - whole) < 1e-13 * self.num_samples + 1e-12
        ends[near] = whole[near]
        last = np.flatnonzero(weight[self._arrangement])[-1]
        ends[last:] = self.num_samples
        self._ends = ends
        self.repeats = weight * (self.num_samples / weight.sum(dtype=np.float64))

    def set_epoch(self, epoch: int) -> None:
        self._offset = (key_of(self.seed, 12) / 2**64 + epoch * (5**0.5 - 1) / 2) % 1.0
        self._slot_key = key_of(self.seed, 13, epoch)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at `positions` of the current epoch, each in [0, num_samples)."""
        points = permute(positions, self.num_samples, self._slot_key) + self._offset
        return self._arrangement.take(np.searchsorted(self._ends, points, side="right"))


class ExampleWeightedSampler(OrderSampler):
    """A stream in which example i comes `num_samples` · weight_i / Σ weight times an epoch.

    Every epoch each example is drawn that many times rounded down or up, and on average exactly
    that often: what `torch.utils.data.WeightedRandomSampler` does with independent draws, without
    their noise, without its limit of 2^24 examples, and with ranks and resumption. Where weights
    are equal and `num_samples` is N every example comes once.

    Source: systematic sampling, Madow (1949), "On the theory of systematic sampling, II".

    Args:
        weight: `(N,)` finite and not negative, not all 0; 0 is never drawn.
        num_samples: draws an epoch over all ranks; N by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sampler = ExampleWeightedSampler([1, 2, 0, 1], seed=3)
        >>> sorted(sampler)
        [0, 1, 1, 3]
    """

    def __init__(
        self,
        weight: Any,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        values = example_weight(weight)
        super().__init__(
            len(values) if num_samples is None else num_samples,
            seed=seed,
            rank=rank,
            num_replicas=num_replicas,
        )
        self._order = ExampleOrder(values, self.num_samples, self.seed)

    @property
    def repeats(self) -> np.ndarray:
        """`(N,)` float64: how often each example is drawn in an epoch, on average."""
        return self._order.repeats

    @property
    def effective_size(self) -> float:
        """Kish's effective sample size (Σ r)² / Σ r² over N: 1 where all come equally often."""
        r = self.repeats
        return float(r.sum() ** 2 / (r @ r) / len(r))

    def draw(self, positions: np.ndarray) -> np.ndarray:
        return self._order(positions)

    def _go_to_epoch(self, epoch: int) -> None:
        self._order.set_epoch(epoch)


def example_weight(weight: Any) -> np.ndarray:
    """`weight` as float64, checked.

    Example:
        >>> example_weight([1, 0]).tolist()
        [1.0, 0.0]
    """
    values = np.asarray(weight, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"Expected weight to be (N,), one an example, but got {values.shape}.")
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(bad):
        raise ValueError(
            f"Expected weight to be finite and not negative, but got {values[bad[0]]} at "
            f"position {bad[0]} ({len(bad)} such)."
        )
    if not values.any():
        raise ValueError("Expected weight to be positive for some example, but all are 0.")
    return values
