"""ExampleWeightedSampler: every example as often as its weight says, evenly, with random access."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import Unpack

from equipoise._order_sampler import CHUNK, OrderSampler, Settings, draws_by_class
from equipoise.samplers.permutation import find, key_of, offset_of, permute

__all__ = ["ExampleOrder", "ExampleWeightedSampler"]


class ExampleOrder:
    """Example ids at any position of any epoch; example i comes r_i times, rounded up or down.

    Systematic sampling: the expected repeats r_i, which sum to M, are laid end to end in a keyed
    arrangement of the examples; example i is drawn once for each of the points u, 1 + u, …,
    M − 1 + u that falls into its stretch, hence ⌊r_i⌋ or ⌈r_i⌉ times, r_i on average. The offset u
    follows the golden-ratio sequence over epochs from a keyed start, so that an example's draws
    over several epochs are spread evenly too. Position t of the epoch takes the point that a keyed
    bijection of {0 … M−1} sends it to.

    The arrangement and its cumulative sums are kept, O(N), and nothing of them ever changes; a
    position of any epoch costs a few look-ups.

    Args:
        weight: `(N,)` non-negative, not all 0: r_i = M · weight_i / sum.
        num_samples: M, positions in an epoch.
        seed: with the epoch, all the randomness there is.
        arrangement: of an order with the same N and seed, to take over.
    """

    def __init__(
        self,
        weight: np.ndarray,
        num_samples: int,
        seed: int,
        arrangement: np.ndarray | None = None,
    ) -> None:
        self.num_samples, self.seed = num_samples, seed
        if arrangement is None:
            parts = np.array_split(np.arange(len(weight)), -(-len(weight) // CHUNK))
            arranged = [permute(part, len(weight), key_of(seed, 11)) for part in parts]
            arrangement = np.concatenate(arranged).astype(np.int64)
        self.arrangement = arrangement
        repeats = weight * (num_samples / weight.sum(dtype=np.float64))
        # Whole repeats, and so their sums, are made whole: then they are met in every epoch.
        whole = np.rint(repeats)
        self.repeats = np.where(np.abs(repeats - whole) <= 1e-9 * whole, whole, repeats)
        ends = np.cumsum(self.repeats[self.arrangement])
        if ends[-1] != num_samples:
            ends *= num_samples / ends[-1]
        last = np.flatnonzero(weight[self.arrangement])[-1]
        ends[last:] = num_samples
        self._ends = ends
        # Where the search begins for each cell of points: a power of two wide, so exact
        self._per_cell = 2.0 ** np.ceil(np.log2(len(weight) / num_samples))
        edges = np.arange(int(num_samples * self._per_cell) + 1) / self._per_cell
        self._first = np.searchsorted(ends, edges, side="right").astype(np.int32)

    def __call__(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        """Example ids (int64) at `positions` of an epoch, each in [0, num_samples)."""
        points = permute(positions, self.num_samples, key_of(self.seed, 13, epoch))
        points = points + offset_of(key_of(self.seed, 12), epoch)
        near = self._first.take((points * self._per_cell).astype(np.int64)).astype(np.int64)
        return self.arrangement.take(find(self._ends, points, near))


class ExampleWeightedSampler(OrderSampler):
    """A stream in which example i comes `num_samples` · weight_i / Σ weight times an epoch.

    Every epoch each example is drawn that many times rounded down or up, and on average exactly
    that often: what `torch.utils.data.WeightedRandomSampler` does with independent draws, without
    their noise, without its limit of 2^24 examples, and with ranks and resumption. Where weights
    are equal and `num_samples` is N every example comes once.

    Source: systematic sampling, Madow (1949), "On the theory of systematic sampling, II".

    Args:
        weight: `(N,)` finite and not negative, not all 0; 0 is never drawn.
        targets: of the examples, for `expected_draws` and `logit_shift` alone.
        num_samples: draws in an epoch, over all ranks; N by default.
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
        targets: Any = None,
        num_samples: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        values = example_weight(weight)
        size = len(values)
        super().__init__(
            size if num_samples is None else num_samples,
            targets=targets,
            num_examples=size,
            **settings,
        )
        if self.num_examples != size:
            raise ValueError(
                f"Expected targets of {size} examples, as weight, but got those of "
                f"{self.num_examples}."
            )
        self._order = ExampleOrder(values, self.num_samples, self.seed)

    @property
    def repeats(self) -> np.ndarray:
        """`(N,)` float64: how often each example is drawn in an epoch, on average."""
        return self._order.repeats

    @property
    def effective_size(self) -> float:
        """Kish's effective sample size (Σ r)² / Σ r² over N: 1 where all come equally often."""
        return effective_size(self.repeats)

    def draw(self, positions: np.ndarray) -> np.ndarray:
        return self._order(positions, self.epoch)

    def expected_draws(self) -> np.ndarray:
        return draws_by_class(self._known_targets(), self.repeats)


def effective_size(weight: np.ndarray) -> float:
    """Kish's effective sample size over N: (Σ w)² / (N Σ w²)."""
    return float(weight.sum() ** 2 / (weight @ weight) / len(weight))


def example_weight(weight: Any) -> np.ndarray:
    """`weight` as float64, checked."""
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
