"""BalancedLoader: FFCV's batches, without its leaks and hangs."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty
from typing import Any

import numpy as np
import torch
from ffcv.loader import Loader

from equipoise.ffcv.just_in_time import JustInTime, check_just_in_time
from equipoise.ffcv.late import Paced, paced
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

    With `just_in_time=True` each batch is drawn as late as FFCV lets one, between two batches of
    the loop: what is done while batch c is trained on, to the sampler's weights
    (`sampler.set_log_weight`) or to a memory of losses (`LossPruning`), acts from batch
    c + `batches_ahead` + 2 on, exactly. What weights changed in mid-epoch do to its quotas, says
    the sampler's `take`; samplers without one draw what is left under the new weights.

    As with FFCV itself, CPU tensors are views of a few buffers that later batches overwrite: copy
    what is to be kept. The indices are copies already.

    Args:
        loader: an `ffcv.loader.Loader`, with any order.
        with_indices: whether each batch has one element more, last: the `(batch,)` int64 numbers
            of its examples, counted as the sampler and its targets count them: among the examples
            the loader reads. Without `indices=` these are the ids in the file; with it,
            `loader.indices[…]` of them are.
        just_in_time: whether batches are drawn one by one. It needs `os_cache=True` and an order
            of `equipoise.ffcv`, and with `LossPruning` a single rank.

    Raises:
        TypeError: no FFCV loader.
        ValueError: a loader or a sampler that batches cannot be drawn just in time for; the
            sampler set to another epoch while one is drawn.

    Example:
        .. code-block:: python

            for images, labels, ids in BalancedLoader(loader, with_indices=True):
                ...
    """

    def __init__(
        self, loader: Loader, *, with_indices: bool = False, just_in_time: bool = False
    ) -> None:
        if not isinstance(loader, Loader):
            raise TypeError(f"Expected loader to be an ffcv.loader.Loader, but got {type(loader)}.")
        self.loader = loader
        self.with_indices, self.just_in_time = with_indices, just_in_time
        if just_in_time:
            check_just_in_time(loader, self._order().sampler)
        # FFCV's number of the running epoch, its batches yielded, and of them in this iteration
        self._running: tuple[int, int, int, JustInTime | None] | None = None
        self._loaded: dict[str, Any] | None = None  # for the next iteration
        ids = np.asarray(loader.indices)
        self._sorter: np.ndarray | None = None
        if not np.array_equal(ids, np.arange(len(ids), dtype=ids.dtype)):
            self._sorter = np.argsort(ids, kind="stable")
            self._sorted = ids[self._sorter].astype(np.int64)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        size, epoch = self.loader.batch_size, self.loader.next_epoch
        state, self._loaded = self._loaded, None
        if state is not None and state["batch"] == len(self):  # nothing is left of it
            self.loader.next_epoch += 1
            return
        first = getattr(self.loader.traversal_order, "skip", 0) // size
        first = first if state is None else state["batch"]
        late = self._begin(epoch, state)
        live = late if isinstance(late, JustInTime) else None
        batches = iter(self.loader) if late is None else paced(self.loader, late)
        k = 0
        try:
            while True:
                if live is not None:
                    live.before(k)
                batch = _next(batches)
                if late is not None and late.error is not None:
                    raise late.error
                if batch is None:
                    break
                if self.with_indices:
                    batch = (*batch, self._numbers(batches.order[k * size : (k + 1) * size]))
                if live is not None:
                    live.hand_out()
                k += 1
                self._running = epoch, first + k, k, live
                yield batch
            self._running = None
        finally:
            if late is not None:
                late.close()  # FFCV's thread may be waiting for it
            _end(batches)

    def _begin(self, epoch: int, state: dict[str, Any] | None) -> Paced | None:
        """What FFCV's thread is to wait for before each batch."""
        order = self.loader.traversal_order
        if self.just_in_time:
            return self._order().begin_just_in_time(epoch, state)
        return order.begin(epoch) if isinstance(order, SamplerOrder) else None

    def resume(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration be `epoch` from `batch` on; the ones after it are whole.

        Exact where the order is the sampler's (`order`, `attach`): the same batches follow as in a
        run that was never stopped. With `follow_epoch=False`, or a `Balancer`, the order is that of
        the sampler's own epoch: restore its state first.
        """
        order = self._order()
        if epoch < 0 or not 0 <= batch < len(self):
            raise ValueError(
                f"Expected epoch to be at least 0 and batch to be in [0, {len(self)}), "
                f"but got {epoch} and {batch}."
            )
        if self.just_in_time and batch:
            raise ValueError(
                f"Expected batch to be 0 with just_in_time=True, but got {batch}: which batches "
                "follow depends on what was drawn before. Use state_dict and load_state_dict."
            )
        self.loader.next_epoch, self._running, self._loaded = epoch, None, None
        order.skip = batch * self.loader.batch_size

    def state_dict(self) -> dict[str, Any]:
        """Where the running epoch is, for `load_state_dict`; between epochs, which comes next.

        Save it together with the state of the `Balancer`, or of the sampler and the miner.
        """
        epoch, batch, ids = self.loader.next_epoch, 0, np.empty(0, np.int64)
        if self._running is not None:
            epoch, batch, k, live = self._running
            ids = ids if live is None else live.waiting(k)
        return {"epoch": epoch, "batch": batch, "drawn": torch.from_numpy(ids)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration yield the batches that would have followed, later ones all.

        Load the state of the `Balancer`, or of the sampler and the miner, as well.
        """
        epoch, batch = state["epoch"], state["batch"]
        if not 0 <= batch <= len(self):
            raise ValueError(
                f"Expected state of a loader with at least {batch} batches an epoch, but this one "
                f"has {len(self)}."
            )
        at_once = batch < len(self) and not self.just_in_time
        self.resume(epoch, batch if at_once else 0)
        self._loaded = None if at_once else state

    def _order(self) -> SamplerOrder:
        order = self.loader.traversal_order
        if not isinstance(order, SamplerOrder):
            raise ValueError(
                "Expected a loader with an order of equipoise.ffcv to resume or to draw just in "
                f"time, but got {type(order).__name__}."
            )
        return order

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
