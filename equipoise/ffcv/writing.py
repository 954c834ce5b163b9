"""write: a `.beton` file from a map-style data set or from arrays."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ffcv.fields.base import Field
from ffcv.memory_allocator import MemoryAllocator
from ffcv.writer import MAX_PAGE_SIZE, MIN_PAGE_SIZE, DatasetWriter, handle_sample
from torch.utils.data import StackDataset
from tqdm import tqdm  # type: ignore[import-untyped]

from equipoise._files import replacing
from equipoise.ffcv.infer_fields import as_tuple, checked_fields, describe, preparer

__all__ = ["write"]

CHUNK = 100  # examples a worker takes at a time


def write(
    dataset: Any,
    path: str | os.PathLike[str],
    fields: Mapping[str, Field | None] | None = None,
    *,
    num_workers: int = 0,
    progress: bool = True,
    page_size: int = 1 << 23,
) -> dict[str, Field]:
    """Writes an FFCV file of `dataset` and returns its fields by name.

    Example i of the file is `dataset[i]`. The file appears under its name when it is complete; an
    error or an interruption leaves nothing behind, and whatever was there before.

    Args:
        dataset: any map-style data set (`__len__` and `__getitem__`) of tuples, dicts or single
            values; or a tuple of arrays or tensors of equal length, such as `(images, labels)`.
        path: of the `.beton` file.
        fields: an FFCV field by name, in the order of an example's parts; `None` for all of them,
            or for one, infers it from the first example: PIL and uint8 (H, W, 3) images, tensors
            also (3, H, W), become raw `RGBImageField`s, numbers `IntField`s or `FloatField`s, other
            arrays `NDArrayField`s. Inferred names are `image` or `features`, `label`, `field2`, …,
            or a dict's keys.
        num_workers: processes that read and encode examples; 0 for this one.
        progress: whether to show a bar, and a line that says which fields were taken.
        page_size: bytes, a power of 2 from 2 MiB; no example's part may be larger.

    Raises:
        TypeError: `dataset` or an example that cannot be written.
        ValueError: an empty data set; names FFCV cannot hold; an example that does not fit its
            field (it is named); a page size FFCV cannot use.

    Example:
        >>> import tempfile
        >>> images = np.zeros((4, 8, 8, 3), np.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fields = write((images, [0, 1, 1, 0]), folder + "/tiny.beton", progress=False)
        >>> {name: describe(field) for name, field in fields.items()}
        {'image': "RGBImageField('raw')", 'label': 'IntField'}
    """
    source = _as_dataset(dataset)
    taken = checked_fields(source[0], fields)
    if not MIN_PAGE_SIZE <= page_size < MAX_PAGE_SIZE or page_size & (page_size - 1):
        raise ValueError(
            f"Expected page_size to be a power of 2 in [2^21, 2^32), but got {page_size}."
        )
    if progress:
        words = ", ".join(f"{name} = {describe(field)}" for name, field in taken.items())
        tqdm.write(f"Writing {len(source):,} examples to {path}: {words}")
    with (
        replacing(path) as partial,
        tqdm(total=len(source), unit="ex", disable=not progress) as bar,
    ):
        writer = _Writer(os.fspath(partial), taken, page_size)
        writer.write(_Prepared(source, taken), num_workers, bar.update)
    return taken


class _Prepared:
    """A data set whose examples are what the fields encode."""

    def __init__(self, dataset: Any, fields: Mapping[str, Field]) -> None:
        self.dataset, self.names = dataset, list(fields)
        self.prepare = [preparer(name, field) for name, field in fields.items()]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> list[Any]:
        sample = self.dataset[i]
        if isinstance(sample, dict):
            sample = tuple(sample[name] for name in self.names)
        values = as_tuple(sample)
        if len(values) != len(self.names):
            raise ValueError(
                f"Expected {len(self.names)} parts, as in the first example, but got {len(values)}."
            )
        return [prepare(value) for prepare, value in zip(self.prepare, values, strict=True)]


class _Writer(DatasetWriter):
    """FFCV's writer, with a loop that ends when a worker fails.

    FFCV's own waits until all examples are counted, for ever where a worker died.
    """

    def write(self, dataset: _Prepared, processes: int, update: Callable[[int], Any]) -> None:
        self.num_samples = size = len(dataset)
        self.prepare()
        try:
            allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
            job = (self.metadata_sm, self.metadata_type, self.fields, allocator, dataset)
            chunks = [range(i, min(i + CHUNK, size)) for i in range(0, size, CHUNK)]
            allocations: list[Any] = []
            messages = _in_processes(processes, job, chunks) if processes else _encode(job, chunks)
            for message in messages:
                if isinstance(message, int):
                    update(message)
                else:
                    allocations += message
            self.finalize(allocations)
        finally:
            self.metadata_sm.close()
            self.metadata_sm.unlink()


def _encode(job: tuple[Any, ...], chunks: Iterable[range]) -> Iterator[int | list[Any]]:
    """Write the examples of `chunks`; yields how many were done, at last FFCV's allocations."""
    shared, metadata_type, fields, allocator, dataset = job
    metadata = np.frombuffer(shared.buf, dtype=metadata_type)
    names = metadata_type.names
    allocator.__enter__()
    try:
        for chunk in chunks:
            for i in chunk:
                try:
                    handle_sample(dataset[i], i, names, metadata, allocator, fields)
                except Exception as error:
                    # Views of the shared memory, which could not be closed
                    traceback.clear_frames(error.__traceback__)
                    raise _wrong(i, error, allocator.page_size) from error
            yield len(chunk)
        allocator.flush_page()
        yield allocator.allocations
    finally:
        allocator.fp.close()  # its own `__exit__` would write a page after an error as well
        del metadata  # otherwise the shared memory cannot be closed


def _wrong(i: int, error: Exception, page_size: int) -> Exception:
    kind = TypeError if isinstance(error, TypeError) else ValueError
    too_large = "page size is" in str(error) or isinstance(error, MemoryError)
    hint = f"; pass a page_size above {page_size}, or compress" if too_large else ""
    why = str(error) if type(error) is kind else f"{type(error).__name__}: {error}"
    return kind(f"Example {i} of dataset cannot be written: {why}{hint}")


def _in_processes(
    count: int, job: tuple[Any, ...], chunks: list[range]
) -> Iterator[int | list[Any]]:
    """`_encode` in `count` processes; yields what they do, as it comes."""
    # Forked workers share the data set. FFCV itself uses the platform's default.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    todo, results = context.Queue(), context.Queue()
    for chunk in [*chunks, *[None] * count]:
        todo.put(chunk)
    workers = [
        context.Process(target=_work, args=(todo, results, job), daemon=True) for _ in range(count)
    ]
    missing = count
    try:
        for worker in workers:
            worker.start()
        while missing:
            try:
                message = results.get(timeout=0.2)
            except queue.Empty:
                ended = [worker.exitcode for worker in workers if worker.exitcode is not None]
                if any(ended) or len(ended) == count:
                    raise RuntimeError(
                        f"Workers that write ended with exit codes {ended}, perhaps for want of "
                        "memory; try a smaller num_workers."
                    ) from None
                continue
            if isinstance(message, tuple):
                kind, text, trace = message
                raise kind(text) from RuntimeError(f"in a worker:\n{trace}")
            missing -= isinstance(message, list)
            yield message
    finally:
        for worker in workers:
            if missing and worker.is_alive():
                worker.terminate()
            if worker.pid is not None:
                worker.join()


def _work(todo: Any, results: Any, job: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # a forked process must not use its parent's threads
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for message in _encode(job, iter(todo.get, None)):
            results.put(message)
    except Exception as error:
        kind = type(error) if type(error) in (TypeError, ValueError) else RuntimeError
        results.put((kind, str(error), traceback.format_exc()))


def _end_with_parent() -> None:
    """End a worker whose parent was killed: it would wait for ever, and keep the file locked."""
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)


def _as_dataset(dataset: Any) -> Any:
    is_columns = isinstance(dataset, tuple) and dataset and all(map(_is_column, dataset))
    if is_columns:
        lengths = [len(column) for column in dataset]
        if len(set(lengths)) != 1:
            raise ValueError(f"Expected arrays of equal length in dataset, but got {lengths}.")
        dataset = StackDataset(*dataset)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "Expected dataset to be map-style (__len__ and __getitem__) or a tuple of arrays, but "
            f"got {type(dataset)}."
        )
    if len(dataset) == 0:
        raise ValueError("Expected dataset to have at least one example, but it is empty.")
    return dataset


def _is_column(value: Any) -> bool:
    return isinstance(value, list) or (
        isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0
    )
