"""BalancedLoader: FFCV's batches, without its leaks and hangs."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty
from typing import Any

import numpy as np
import torch
from ffcv.loader import Loader

from equipoise.ffcv.late import paced
from equipoise.ffcv.orders import SamplerOrder

__all__ = ["BalancedLoader"]


class BalancedLoader:
    """FFCV's batches in FFCV's order, from an iterator that always ends cleanly.

    FFCV's own iterator leaves threads and buffers behind when a loop is left early, and waits for
    ever when its thread died. This one ends FFCV's threads at `break`, at an exception and at the
    end, and raises `RuntimeError` where FFCV's thread is dead.

    With `os_cache=True` the order of a long epoch (2^18 examples or more) is drawn beside the
    reading, so that the first batch does not wait for all of it. Which order it is, is settled when
    the iteration starts: weights changed during an epoch are for the next one.

    As with FFCV itself, CPU tensors are views of a few buffers that later batches overwrite: copy
    what is to be kept. The indices are copies already.

    Args:
        loader: an `ffcv.loader.Loader`, with any order.
        with_indices: whether each batch has one element more, last: the `(batch,)` int64 numbers
            of its examples, counted as the sampler and its targets count them: among the examples
            the loader reads. Without `indices=` these are the ids in the file; with it,
            `loader.indices[…]` of them are.

    Example:
        .. code-block:: python

            for images, labels, ids in BalancedLoader(loader, with_indices=True):
                ...
    """

    def __init__(self, loader: Loader, *, with_indices: bool = False) -> None:
        if not isinstance(loader, Loader):
            raise TypeError(f"Expected loader to be an ffcv.loader.Loader, but got {type(loader)}.")
        self.loader = loader
        self.with_indices = with_indices
        ids = np.asarray(loader.indices)
        self._sorter: np.ndarray | None = None
        if not np.array_equal(ids, np.arange(len(ids), dtype=ids.dtype)):
            self._sorter = np.argsort(ids, kind="stable")
            self._sorted = ids[self._sorter].astype(np.int64)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        order, size = self.loader.traversal_order, self.loader.batch_size
        late = order.begin(self.loader.next_epoch) if isinstance(order, SamplerOrder) else None
        batches = iter(self.loader) if late is None else paced(self.loader, late)
        try:
            start = 0
            while (batch := _next(batches)) is not None:
                if late is not None and late.error is not None:
                    raise late.error
                if self.with_indices:
                    batch = (*batch, self._numbers(batches.order[start : start + size]))
                start += size
                yield batch
        finally:
            _end(batches)

    def resume(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration be `epoch` from `batch` on; the ones after it are whole.

        Exact where the order is the sampler's (`order`, `attach`): the same batches follow as in a
        run that was never stopped. With `follow_epoch=False`, or a `Balancer`, the order is that of
        the sampler's own epoch: restore its state first.
        """
        if not isinstance(self.loader.traversal_order, SamplerOrder):
            raise ValueError(
                "Expected a loader with an order of equipoise.ffcv to resume, but got "
                f"{type(self.loader.traversal_order).__name__}."
            )
        if epoch < 0 or not 0 <= batch < len(self):
            raise ValueError(
                f"Expected epoch to be at least 0 and batch to be in [0, {len(self)}), "
                f"but got {epoch} and {batch}."
            )
        self.loader.next_epoch = epoch
        self.loader.traversal_order.skip = batch * self.loader.batch_size

    def _numbers(self, ids: np.ndarray) -> torch.Tensor:
        ids = np.array(ids, np.int64)  # a copy: FFCV's buffer is its own
        if self._sorter is not None:
            ids = self._sorter[np.searchsorted(self._sorted, ids)]
        return torch.from_numpy(ids)


def _next(batches: Any) -> tuple[Any, ...] | None:
    """FFCV's next batch, `None` at the end; raises where the thread that makes them is dead."""
    queue = batches.output_queue
    if not queue.queue:
        with queue.not_empty:
            while not queue.queue and batches.is_alive():
                queue.not_empty.wait(timeout=0.5)
        if not queue.queue:
            raise RuntimeError(
                "FFCV's loading thread died; its traceback is above on the standard error output."
            )
    return next(batches, None)


def _end(batches: Any) -> None:
    """End the threads of an FFCV iterator, wherever it is, and let go of its buffers."""
    batches.terminate_event.set()
    batches.iter_ixes = iter(())  # the thread ends with the batch it is making …
    while batches.is_alive():
        try:  # … once there is room for it and for the end mark
            batches.output_queue.get(timeout=0.05)
        except Empty:
            continue
    batches.close()
    batches.closed = True  # else FFCV closes once more when it is collected
    executor = getattr(batches.memory_context, "executor", None)
    for thread in executor.threads if executor else ():  # os_cache=False: the page readers
        thread.join()
