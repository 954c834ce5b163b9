"""JustInTime: an epoch's order, drawn batch by batch in the loop, as late as FFCV allows."""

from __future__ import annotations

import numpy as np
from ffcv.memory_managers import OSCacheManager

from equipoise.ffcv.orders import SamplerOrder
from equipoise.mining import PrunedSampler

__all__ = ["JustInTime", "check_just_in_time"]


class JustInTime:
    """The ids of an epoch, in an array that the loop over its batches fills ahead of FFCV.

    FFCV puts finished batches into a queue of `batches_ahead` and makes one more, which waits for
    room. So while the loop has not yet asked for batch k, FFCV has begun no batch beyond
    k + `batches_ahead`. Batches up to k + `batches_ahead` + 1 are drawn before the loop asks for
    batch k: neither thread ever waits for the other, and which weights and remembered losses a
    batch is drawn from does not depend on timing.

    Args:
        order: of the loader.
        epoch: FFCV's number.
        first: the batch to begin with.
        drawn: `(n,)` ids in the file of the batches from `first` on that were drawn already.

    Attributes:
        ids: int64, of all positions from batch `first` on; a valid id where none is drawn yet.
    """

    def __init__(self, order: SamplerOrder, epoch: int, first: int, drawn: np.ndarray) -> None:
        check_just_in_time(order)
        order.go_to(epoch, order.sampler)
        self.order, self.first, self.epoch = order, first, order.sampler.epoch
        loader = order.loader
        self.batch_size, self.ahead = loader.batch_size, loader.batches_ahead
        self.length = min(order.length, len(loader) * self.batch_size)  # the rest FFCV drops
        filler = int(loader.indices[0])
        self.ids = np.full(self.length - first * self.batch_size, filler, np.int64)
        self.ids[: len(drawn)] = drawn
        self.count = len(drawn)
        self.draw_before(0)

    def draw_before(self, k: int) -> None:
        """Draw what may be drawn before the iteration's batch k is asked for."""
        while self.count < min((k + self.ahead + 2) * self.batch_size, len(self.ids)):
            ids = self._draw(self.first + self.count // self.batch_size)
            self.ids[self.count : self.count + len(ids)] = ids
            self.count += len(ids)

    def _draw(self, batch: int) -> np.ndarray:
        sampler, ranks = self.order.sampler, self.order.sampler.num_replicas
        if sampler.epoch != self.epoch:
            raise ValueError(
                f"Expected the sampler to stay at epoch {self.epoch} while its batches are drawn "
                f"just in time, but got {sampler.epoch}: call set_epoch, or Balancer.step, "
                "between epochs."
            )
        # The positions of all ranks, so that each counts alike what was drawn
        first = batch * self.batch_size * ranks
        last = min((batch + 1) * self.batch_size, self.length) * ranks
        drawn = self.order.checked(sampler.take(first, last), last - first)
        return self.order.ids_in_file(drawn[sampler.rank :: ranks])

    def hand_out(self) -> None:
        """Say that the next batch is about to be trained on: its draws' probabilities hold now."""
        self.order.sampler.hand_out()

    def drawn_from(self, k: int) -> np.ndarray:
        """Ids of the batches from the iteration's k on that are drawn."""
        return self.ids[k * self.batch_size : self.count].copy()


def check_just_in_time(order: SamplerOrder) -> None:
    """Raise where batches cannot be drawn just in time without wrong images or unequal ranks."""
    manager, sampler = type(order.loader.memory_manager), order.sampler
    if manager is not OSCacheManager:
        raise ValueError(
            "Expected os_cache=True for just_in_time=True, but got a loader with "
            f"{manager.__name__}: it plans which pages to read from the whole epoch's order, and "
            "would return wrong images for ids drawn later."
        )
    if isinstance(sampler, PrunedSampler) and sampler.num_replicas > 1:
        raise ValueError(
            "Expected num_replicas=1 for just_in_time=True with LossPruning, but got "
            f"{sampler.num_replicas}: each rank remembers only the losses of its own examples "
            "while an epoch runs, so the ranks would draw different orders."
        )
