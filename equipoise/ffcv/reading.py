"""targets: the labels of a `.beton` file, read without FFCV's loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ffcv.fields import FloatField, IntField, NDArrayField
from ffcv.loader import Loader

from equipoise.ffcv.checking import Fields, check
from equipoise.ffcv.loading import BalancedLoader
from equipoise.ffcv.multihot import MultiHotField
from equipoise.targets import Targets

__all__ = ["targets"]


def targets(source: Any, field: str = "label", *, custom_fields: Fields | None = None) -> Targets:
    """The targets an FFCV file holds, read from its index: no image is decoded.

    Args:
        source: path of a `.beton` (it is checked first), or a loader. Of a loader with
            `indices=`, the targets of those examples, in that order.
        field: name of an `IntField` or a `FloatField` of whole numbers (class ids), or of a
            `MultiHotField` or an `NDArrayField` of 0 and 1 (multi-hot).
        custom_fields: as the `Loader` takes them; a `MultiHotField` is known without.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole FFCV file; no such field; labels `Targets` refuses.
        TypeError: a field that holds no targets.

    Example:
        .. code-block:: python

            sampler = ClassBalancedSampler(equipoise.ffcv.targets("train.beton"))
    """
    loader = source.loader if isinstance(source, BalancedLoader) else source
    if isinstance(loader, Loader):
        reader, ids = loader.reader, np.asarray(loader.indices)
    else:
        reader, ids = check(source, custom_fields), None
    names = list(reader.handlers)
    if field not in names:
        raise ValueError(f"Expected field to be one of {names}, but got {field!r}.")
    handler, stored = reader.handlers[field], reader.metadata[f"f{names.index(field)}"]
    stored = stored if ids is None else stored[ids.astype(np.int64)]
    if isinstance(handler, IntField | FloatField):
        return Targets(np.ascontiguousarray(stored))
    if isinstance(handler, MultiHotField):
        return Targets(_stack(handler.rows(stored)))
    if isinstance(handler, NDArrayField):
        return Targets(_stack(_array_rows(reader.file_name, handler, stored)))
    raise TypeError(
        f"Expected field to be an IntField, FloatField, MultiHotField or NDArrayField, but got "
        f"{field!r}, a {type(handler).__name__}."
    )


def _array_rows(path: str, field: NDArrayField, addresses: np.ndarray) -> Iterator[np.ndarray]:
    """`(rows, …)` of an array field, a part at a time, straight from the file."""
    content = np.memmap(path, np.uint8, mode="r")
    width = int(field.element_size)
    step = max(1, 2**24 // width)
    for first in range(0, len(addresses), step):
        part = addresses[first : first + step].astype(np.int64)
        rows = np.stack([content[start : start + width] for start in part])
        yield rows.view(np.dtype(field.dtype)).reshape(len(part), *field.shape)


def _stack(parts: Iterator[np.ndarray]) -> Any:
    """Rows as one sparse matrix; as a plain array where they are single numbers."""
    from scipy.sparse import csr_matrix, vstack

    kept: list[Any] = []
    for part in parts:
        if part.ndim > 2:
            raise TypeError(
                "Expected field to hold one number or one row of numbers an example, but got "
                f"arrays of shape {part.shape[1:]}."
            )
        kept.append(part if part.ndim == 1 else csr_matrix(part))
    return np.concatenate(kept) if isinstance(kept[0], np.ndarray) else vstack(kept, format="csr")
