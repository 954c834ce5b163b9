"""JustInTime: an epoch's order, drawn a batch at a time, as late as FFCV lets one."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition
from typing import Any

import numpy as np
from ffcv.memory_managers import OSCacheManager

from equipoise.mining import PrunedSampler
from equipoise._order_sampler import OrderSampler

__all__ = ["JustInTime", "check_just_in_time"]


class JustInTime:
    """An array of ids that the loop over the batches fills, one batch ahead of FFCV's reading.

    While batch c is trained on, FFCV has begun no batch beyond c + `batches_ahead` + 1. So batch
    c + `batches_ahead` + 2 is drawn when the loop asks for batch c + 1: by the thread that trains,
    so that weights and remembered losses are those of that moment on every run and every rank, and
    FFCV's thread is let through to it then.

    Args:
        draw: ids of batch number k of the epoch.
        hand_out: called before each batch is yielded.
        length: of the epoch.
        batch_size: as FFCV's.
        ahead: how many batches are drawn when the first is yielded.
        filler: the id that stands where none is drawn yet, a valid one.
        first: the batch to begin with.
        drawn: `(n,)` ids of the batches from `first` on that were drawn already.

    Attributes:
        ids: int64, of the positions from batch `first` on.
    """

    error: BaseException | None = None  # drawing happens in the loop, and so do its errors

    def __init__(
        self,
        draw: Callable[[int], np.ndarray],
        hand_out: Callable[[], None],
        *,
        length: int,
        batch_size: int,
        ahead: int,
        filler: int,
        first: int = 0,
        drawn: np.ndarray | None = None,
    ) -> None:
        self.batch_size, self.ahead, self.first = batch_size, ahead, first
        self.ids = np.full(length - first * batch_size, filler, np.int64)
        self._draw, self.hand_out = draw, hand_out
        self._count = 0 if drawn is None else len(drawn)
        self.ids[: self._count] = () if drawn is None else drawn
        self._closed = False
        self._changed = Condition()

    def wait(self, count: int) -> None:
        """Return when the first `count` ids are drawn, or no more will be."""
        if self._count < count:
            with self._changed:
                self._changed.wait_for(lambda: self._count >= count or self._closed)

    def close(self) -> None:
        """Draw no more, and let FFCV's thread through to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def before(self, k: int) -> None:
        """Draw what may be drawn before the iteration's batch k is asked for."""
        while self._count < min((k + self.ahead) * self.batch_size, len(self.ids)):
            batch = self._count // self.batch_size
            last = min((batch + 1) * self.batch_size, len(self.ids))
            self.ids[self._count : last] = self._draw(self.first + batch)
            with self._changed:
                self._count = last
                self._changed.notify_all()

    def waiting(self, k: int) -> np.ndarray:
        """Ids of the batches from the iteration's k on that are drawn."""
        return self.ids[k * self.batch_size : self._count].copy()


def check_just_in_time(loader: Any, sampler: Any) -> None:
    """Raise where batches cannot be drawn just in time without wrong images or unequal ranks."""
    manager = type(loader.memory_manager)
    if manager is not OSCacheManager:
        raise ValueError(
            "Expected os_cache=True for just_in_time=True, but got a loader with "
            f"{manager.__name__}: it plans which pages to read from the whole epoch's order, and "
            "would return wrong images for ids drawn later."
        )
    if isinstance(sampler, PrunedSampler):
        if sampler.num_replicas > 1:
            raise ValueError(
                "Expected num_replicas=1 for just_in_time=True with LossPruning, but got "
                f"{sampler.num_replicas}: each rank remembers only the losses of its own examples "
                "while an epoch runs, so the ranks would draw different orders."
            )
        sampler = sampler.inner
    if type(sampler).indices is not OrderSampler.indices:
        raise ValueError(
            "Expected a sampler that draws by position for just_in_time=True, but got "
            f"{type(sampler).__name__}, which makes its epoch as a whole."
        )
