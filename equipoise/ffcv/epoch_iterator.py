"""The two things FFCV's iterator over an epoch lacks: an end at any time, and an error when dead.

FFCV has no interface for either, so this file, and no other, uses the parts of an `EpochIterator`:
its thread, the queue of batches that thread has made, and the batches it has still to make.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers.process_cache.context import ProcessCacheContext

__all__ = ["end", "next_batch"]


def next_batch(batches: EpochIterator) -> tuple[Any, ...] | None:
    """The next batch, or `None` after the last one.

    Raises:
        RuntimeError: the thread that makes the batches has died; FFCV itself would wait for ever.
    """
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


def end(batches: EpochIterator) -> None:
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
