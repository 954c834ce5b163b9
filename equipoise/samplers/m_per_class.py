"""MPerClassSampler: batches of a few classes with m examples each."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from typing_extensions import Unpack

from equipoise._order_sampler import OrderSampler, Settings
from equipoise.samplers.permutation import key_of, keys_of, permute_each
from equipoise.targets import Targets

__all__ = ["MPerClassSampler"]


class MPerClassSampler(OrderSampler):
    """A stream cut into batches of `batch_size`, each of batch_size / m classes × m examples.

    The classes come round-robin in a random order, so that a batch never holds a class twice and
    all classes come equally often; the order of the classes is drawn afresh each time the end of
    a round meets the end of a batch. Within a class, members come without replacement, pass after
    pass, each epoch beginning where the one before ended. The arrangement metric learning uses
    (FaceNet, Schroff et al. 2015), with coverage.

    `batch_size` is the global batch of all ranks, and each rank takes batch_size / R of it. Where R
    ranks divide the classes of a batch evenly, each rank has m examples of each of its classes: the
    batch holds the same examples for any R, and its arrangement depends on R. Otherwise, and in a
    last batch that is not full, classes are spread over the ranks example by example.

    Args:
        targets: `(N,)` class ids, or anything single-label that `Targets` takes.
        m: examples of each class in a batch.
        batch_size: a multiple of m, of at most C · m.
        num_samples: draws in an epoch; by default N, cut to whole batches (at least one).
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
        >>> sampler = MPerClassSampler(labels, m=2, batch_size=4)
        >>> drawn = list(sampler)
        >>> [len({labels[i] for i in drawn[k : k + 4]}) for k in (0, 4, 8)], len(set(drawn))
        ([2, 2, 2], 12)
    """

    def __init__(
        self,
        targets: Any,
        m: int,
        batch_size: int,
        *,
        num_samples: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        targets = Targets.of(targets)
        targets.require_single_label("MPerClassSampler")
        targets.require_every_class("MPerClassSampler")
        classes = targets.num_classes
        if m < 1 or batch_size < m or batch_size % m or batch_size > classes * m:
            raise ValueError(
                f"Expected batch_size to be a multiple of m={m} up to m × {classes} classes "
                f"= {m * classes}, but got {batch_size}."
            )
        if num_samples is None:
            num_samples = max(targets.num_examples // batch_size, 1) * batch_size
        super().__init__(num_samples, targets=targets, **settings)
        self.m, self.batch_size = m, batch_size
        in_batch = batch_size // m
        # rounds until the end of a round is the end of a batch
        self._rounds = in_batch // gcd(classes, in_batch)
        self._resumed = -1, 1  # a batch that was begun by another number of ranks, and that number

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        targets = self._known_targets()
        # the stream goes on over epochs: position t of epoch e is t + e · num_samples in all
        position = self._arranged(np.asarray(positions, np.int64)) + self.epoch * self.num_samples
        block, place = np.divmod(position, self.m)
        turn, slot = np.divmod(block, targets.num_classes)
        order_keys = keys_of(key_of(self.seed, 5), turn // self._rounds)
        drawn = permute_each(slot, np.full(len(slot), targets.num_classes), order_keys)
        drawn = drawn.astype(np.int64)
        sizes = targets.counts[drawn]
        passes, rank = np.divmod(turn * self.m + place, sizes)
        member_keys = keys_of(keys_of(key_of(self.seed, 6), drawn), passes)
        within = permute_each(rank, sizes, member_keys).astype(np.int64)
        return targets.members[targets.starts[drawn] + within].astype(np.int64)

    def _arranged(self, positions: np.ndarray) -> np.ndarray:
        """Where positions are in the single-rank stream: rank r has part r of R of a batch."""
        batch, place = np.divmod(positions, self.batch_size)
        ranks = np.where(batch == self._resumed[0], self._resumed[1], self.num_replicas)
        full = (batch + 1) * self.batch_size <= self.num_samples
        ranks = np.where(full & (self.batch_size // self.m % ranks == 0), ranks, 1)
        step, rank = np.divmod(place, ranks)
        return batch * self.batch_size + rank * (self.batch_size // ranks) + step

    def expected_draws(self) -> np.ndarray:
        """`(C,)` float64: as many of each class, on average over epochs."""
        classes = self._known_targets().num_classes
        return np.full(classes, self.num_samples / classes)

    def _go_to_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self._resumed = -1, 1

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "num_replicas": self.num_replicas}

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self._resumed = state["position"] // self.batch_size, state["num_replicas"]

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "m": self.m, "batch_size": self.batch_size}
