"""LateOrder: an epoch's order, drawn by a thread of its own just ahead of FFCV's reading."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, Protocol

import numpy as np
from ffcv.memory_managers import OSCacheManager
from ffcv.memory_managers.base import MemoryContext

from equipoise._order_sampler import OrderSampler

__all__ = ["LateOrder", "Paced", "paced", "snapshot"]

STEP = 16384  # positions drawn at a time
# Shorter epochs are drawn at once, in a few milliseconds: a second thread would cost more, in
# waiting for Python's lock, than it gains.
LATE_FROM = 1 << 18


class LateOrder:
    """An array of ids that a thread fills from the front; `wait` says when a part is there.

    So the first batch comes after the same time however long the epoch is, and drawing runs beside
    decoding. Ids not drawn yet are a valid one: whatever happens, FFCV reads within its file.

    Args:
        draw: ids at positions `[first, last)`.
        length: of the epoch.
        filler: the id that stands where none is drawn yet.

    Attributes:
        ids: `(length,)` int64.
        error: what `draw` raised; set before anyone is let through to what it left undrawn.
    """

    def __init__(self, draw: Callable[[int, int], np.ndarray], length: int, filler: int) -> None:
        self.ids = np.full(length, filler, np.int64)
        self.error: BaseException | None = None
        self._draw, self._drawn, self._closed = draw, 0, False
        self._changed = Condition()
        Thread(target=self._run, name="equipoise order", daemon=True).start()

    def wait(self, count: int) -> None:
        """Return when the first `count` ids are drawn, or drawing has ended."""
        if self._drawn < count:
            with self._changed:
                self._changed.wait_for(lambda: self._drawn >= count)

    def close(self) -> None:
        """Draw no more."""
        self._closed = True

    def _run(self) -> None:
        length = len(self.ids)
        try:
            for first in range(0, length, STEP):
                last = min(first + STEP, length)
                if self._closed:
                    break
                self.ids[first:last] = self._draw(first, last)
                self._let_through(last)
        except BaseException as error:
            self.error = error
        finally:
            self._let_through(length)

    def _let_through(self, count: int) -> None:
        with self._changed:
            self._drawn = count
            self._changed.notify_all()


class Paced(Protocol):
    """What FFCV's thread waits for: a `LateOrder`, or a `JustInTime`."""

    ids: np.ndarray
    error: BaseException | None

    def wait(self, count: int) -> None: ...
    def close(self) -> None: ...


class _PacedContext(MemoryContext):
    """FFCV's memory context, which starts a batch when its ids are drawn."""

    def __init__(self, inner: MemoryContext, late: Paced, batch_size: int) -> None:
        self.inner, self.late, self.batch_size = inner, late, batch_size

    @property
    def state(self) -> Any:
        return self.inner.state

    def __enter__(self) -> Any:
        return self.inner.__enter__()

    def start_batch(self, batch: int) -> None:
        self.late.wait(min((batch + 1) * self.batch_size, len(self.late.ids)))
        self.inner.start_batch(batch)

    def __exit__(self, *error: Any) -> Any:
        self.late.close()
        return self.inner.__exit__(*error)


def paced(loader: Any, late: Paced) -> Any:
    """`iter(loader)` whose thread, at each batch, waits for its part of `late`.

    For `os_cache=True`: with the other cache FFCV plans an epoch's pages from its whole order.
    """
    manager = loader.memory_manager
    schedule = manager.schedule_epoch
    manager.schedule_epoch = lambda batches: _PacedContext(
        schedule(batches), late, loader.batch_size
    )
    try:
        return iter(loader)
    finally:
        del manager.schedule_epoch  # what the class has shows again


def snapshot(sampler: OrderSampler, loader: Any) -> OrderSampler | None:
    """The sampler as it is now, for a thread to draw from; `None` if it must draw at once.
    """
    if (
        sampler.num_samples < LATE_FROM
        or type(sampler).indices is not OrderSampler.indices
        or type(loader.memory_manager) is not OSCacheManager
    ):
        return None
    return sampler.snapshot()
