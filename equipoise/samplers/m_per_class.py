"""MPerClassSampler: batches of a few classes with m examples each."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from equipoise.order_sampler import OrderSampler
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

    With several ranks, `batch_size` is the global batch.

    Args:
        targets: `(N,)` class ids, or anything single-label that `Targets` takes.
        m: examples of each class in a batch.
        batch_size: a multiple of m, of at most C · m.
        num_samples: draws an epoch; by default N, cut to whole batches (at least one).
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
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self.targets = Targets.of(targets)
        self.targets.require_single_label("MPerClassSampler")
        self.targets.require_every_class("MPerClassSampler")
        classes = self.targets.num_classes
        if m < 1 or batch_size < m or batch_size % m or batch_size > classes * m:
            raise ValueError(
                f"Expected batch_size to be a multiple of m={m} up to m × {classes} classes "
                f"= {m * classes}, but got {batch_size}."
            )
        if num_samples is None:
            num_samples = max(self.targets.num_examples // batch_size, 1) * batch_size
        super().__init__(num_samples, seed=seed, rank=rank, num_replicas=num_replicas)
        self.m, self.batch_size = m, batch_size
        in_batch = batch_size // m
        # rounds until the end of a round is the end of a batch
        self._rounds = in_batch // gcd(classes, in_batch)

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        classes = self.targets.num_classes
        # the stream goes on over epochs: position t of epoch e is t + e · num_samples in all
        position = np.asarray(positions, np.int64) + self.epoch * self.num_samples
        block, place = np.divmod(position, self.m)
        turn, slot = np.divmod(block, classes)
        order_keys = keys_of(key_of(self.seed, 5), turn // self._rounds)
        drawn = permute_each(slot, np.full(len(slot), classes), order_keys).astype(np.int64)
        sizes = self.targets.counts[drawn]
        passes, rank = np.divmod(turn * self.m + place, sizes)
        member_keys = keys_of(keys_of(key_of(self.seed, 6), drawn), passes)
        within = permute_each(rank, sizes, member_keys).astype(np.int64)
        return self.targets.members[self.targets.starts[drawn] + within].astype(np.int64)

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "m": self.m, "batch_size": self.batch_size}
