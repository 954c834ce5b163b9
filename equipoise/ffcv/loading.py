"""BalancedLoader: FFCV's batches without its leaks and hangs; `attach`: another order for it."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty
from typing import Any

import numpy as np
import torch
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers.process_cache.context import ProcessCacheContext

from equipoise.ffcv.orders import SamplerOrder, check_batches_ahead, sampler_of

__all__ = ["BalancedLoader", "attach"]


class BalancedLoader:
    """FFCV's batches in FFCV's order, from an iterator that always ends cleanly.

    FFCV's own iterator leaves threads and buffers behind when a loop is left early, and waits for
    ever when its thread has died. This one ends FFCV's threads at `break`, at an exception and at
    the end, and raises `RuntimeError` where FFCV's thread is dead.

    Weights that are set during an epoch act from the next epoch on.

    As with FFCV itself, CPU tensors are views of a few buffers that later batches overwrite: copy
    what is to be kept. The indices are copies already.

    Args:
        loader: an `ffcv.loader.Loader`, with any order.
        with_indices: whether each batch has one more element at its end: the `(batch,)` int64
            numbers of its examples, counted as the sampler and its targets count them, among the
            examples the loader reads. Without `indices=` these are the ids in the file; with it,
            `loader.indices[…]` of them are.

    Raises:
        TypeError: `loader` is no FFCV loader.
        ValueError: a loader with `batches_ahead=0`, of which FFCV yields wrong batches.

    Example:
        .. code-block:: python

            for images, labels, ids in BalancedLoader(loader, with_indices=True):
                ...
    """

    def __init__(self, loader: Loader, *, with_indices: bool = False) -> None:
        if not isinstance(loader, Loader):
            raise TypeError(f"Expected loader to be an ffcv.loader.Loader, but got {type(loader)}.")
        check_batches_ahead(loader)
        self.loader, self.with_indices = loader, with_indices
        self._running: tuple[int, int] | None = None  # FFCV's number of the epoch, batches yielded
        self._start = 0  # the batch that the next iteration begins with
        if with_indices:  # of each example in the file its number among those that are read
            ids = np.asarray(loader.indices)
            self._number = np.zeros(int(loader.reader.num_samples), np.int64)
            self._number[ids[::-1]] = np.arange(len(ids))[::-1]

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        size, epoch = self.loader.batch_size, self.loader.next_epoch
        first, self._start = self._start, 0
        if first == len(self):  # nothing is left of it
            self.loader.next_epoch += 1
            return
        if first:
            self._order().part = slice(first * size, len(self) * size)
        batches, k = iter(self.loader), 0
        try:
            while (batch := _next_batch(batches)) is not None:
                if self.with_indices:
                    ids = batches.order[k * size : (k + 1) * size]
                    batch = (*batch, torch.from_numpy(self._number[ids]))
                k += 1
                self._running = epoch, first + k
                yield batch
            self._running = None
        finally:
            _end(batches)

    def resume(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration be `epoch` from `batch` on; the ones after it are whole.

        Exact where the order is the sampler's (`order`, `attach`): the same batches follow as in a
        run that was never stopped. With a `Balancer` the order is that of the sampler's own epoch:
        restore its state first.
        """
        self.load_state_dict({"epoch": epoch, "batch": batch})

    def state_dict(self) -> dict[str, Any]:
        """Where the running epoch is, for `load_state_dict`; between epochs, which comes next.

        Save it together with the state of the `Balancer`, or of the sampler and the miner.
        """
        epoch, batch = self._running or (self.loader.next_epoch, 0)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration yield the batches that would have followed; later ones are whole.

        Load the state of the `Balancer`, or of the sampler and the miner, as well.
        """
        self._order()
        epoch, batch = state["epoch"], state["batch"]
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(
                f"Expected epoch to be at least 0 and batch to be in [0, {len(self)}], but got "
                f"{epoch} and {batch}."
            )
        self.loader.next_epoch, self._start, self._running = epoch, batch, None

    def _order(self) -> SamplerOrder:
        order = self.loader.traversal_order
        if not isinstance(order, SamplerOrder):
            raise ValueError(
                "Expected a loader with an order of equipoise.ffcv to resume, but got "
                f"{type(order).__name__}."
            )
        return order


def attach(loader: Loader | BalancedLoader, sampler: Any) -> Loader | BalancedLoader:
    """`loader`, which from its next epoch on reads the examples the sampler draws.

    The same as building it with `order=order(sampler)`, but without compiling it again. A loader
    that `filter` returns was built anew and needs its own `attach`.

    Args:
        loader: FFCV's, or a `BalancedLoader` around it.
        sampler: see `order`.
    """
    drawn_from = sampler_of(sampler)
    inner = loader.loader if isinstance(loader, BalancedLoader) else loader
    if not isinstance(inner, Loader):
        raise TypeError(f"Expected loader to be an ffcv.loader.Loader, but got {type(loader)}.")
    new = SamplerOrder(inner, drawn_from)
    first = new.sample_order(inner.next_epoch)
    inner.traversal_order, inner.first_traversal_order = new, first
    return loader


# FFCV has no interface for an end at any time, nor for an error where its thread is dead: these two
# functions, and no others, use the parts of its iterator.


def _next_batch(batches: EpochIterator) -> tuple[Any, ...] | None:
    """The next batch, or `None`; raises where the thread has died, for which FFCV would wait."""
    queue = batches.output_queue
    with queue.not_empty:
        while not queue.queue and batches.is_alive():
            queue.not_empty.wait(timeout=0.5)
        dead = not queue.queue
    if dead:
        raise RuntimeError(
            "FFCV's loading thread died; its traceback is above on the standard error output."
        )
    return next(batches, None)


def _end(batches: EpochIterator) -> None:
    """End the threads of an iterator, wherever it is, and let go of its buffers."""
    batches.terminate_event.set()
    batches.iter_ixes = iter(())  # the thread ends with the batch it is making …
    while batches.is_alive():
        try:  # … once there is room for it and for the end mark
            batches.output_queue.get(timeout=0.05)
        except Empty:
            continue
    batches.close()
    batches.closed = True  # otherwise FFCV closes once more when it is collected
    if isinstance(batches.memory_context, ProcessCacheContext):  # its page readers
        for thread in batches.memory_context.executor.threads:
            thread.join()
