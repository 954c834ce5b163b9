"""check: whether a `.beton` file is whole, before FFCV trusts it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ffcv.fields import BytesField, NDArrayField, RGBImageField
from ffcv.fields.base import Field
from ffcv.reader import Reader
from ffcv.types import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    get_metadata_type,
)

from equipoise.ffcv.multihot import MultiHotField, is_multi_hot

__all__ = ["Fields", "check", "check_again"]

Fields = Mapping[str, Any]  # classes of fields, by name


def check(path: str | os.PathLike[str], custom_fields: Fields | None = None) -> Reader:
    """FFCV's `Reader` of a file that is whole; raises for any other, before FFCV opens it.

    FFCV trusts a file: it hangs or crashes on a truncated one. Checked are the header, the table
    of fields, the index of examples and the table of allocations, against one another and against
    the file's size: every part of every example lies within the file, on one page, with the size
    its field says. Image and array contents are not read.

    Args:
        path: of the `.beton` file.
        custom_fields: as the `Loader` takes them; a `MultiHotField` is known without.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an FFCV file, a truncated or an unfinished one, or fields not in
            `custom_fields`.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected path to be an FFCV file, but there is none at {path}.")
    size = os.path.getsize(path)
    header, descriptors = _read_head(path, size)
    handlers = _read_fields(path, descriptors, dict(custom_fields or {}))
    table_at, samples = int(header["alloc_table_ptr"]), int(header["num_samples"])
    start = HeaderType.itemsize + descriptors.nbytes
    end = start + samples * get_metadata_type(list(handlers.values())).itemsize
    if table_at == 0:
        raise _broken(path, "its writing was not finished (it has no table of allocations)")
    if not end <= table_at <= size or (size - table_at) % ALLOC_TABLE_TYPE.itemsize:
        raise _broken(
            path, f"it is truncated or damaged ({size} bytes; table of allocations at {table_at})"
        )
    reader = Reader(path, {name: type(field) for name, field in handlers.items()})
    table = _sorted_table(reader, path, end, table_at)
    for i, (name, field) in enumerate(handlers.items()):
        problem = _parts_problem(field, reader.metadata[f"f{i}"], *table)
        if problem:
            raise _broken(path, f"it is truncated or damaged (field {name!r}: {problem})")
    return reader


def check_again(reader: Reader) -> None:
    """`check` of a file that FFCV has opened, with the fields it found."""
    check(reader.file_name, {name: type(field) for name, field in reader.handlers.items()})


def _broken(path: str, why: str) -> ValueError:
    return ValueError(f"Expected path to be a whole FFCV file, but got {path}: {why}.")


def _read_head(path: str, size: int) -> tuple[Any, np.ndarray]:
    if size < HeaderType.itemsize:
        raise _broken(path, f"it has {size} bytes, less than a header")
    header = np.fromfile(path, HeaderType, count=1)[0]
    version, page_size = int(header["version"]), int(header["page_size"])
    fields, samples = int(header["num_fields"]), int(header["num_samples"])
    if version != CURRENT_VERSION:
        raise _broken(path, f"it is none, or of version {version} instead of {CURRENT_VERSION}")
    if page_size < 2**21 or page_size & (page_size - 1) or not fields or not samples:
        raise _broken(
            path, f"its header has {samples} examples, {fields} fields and pages of {page_size}"
        )
    if HeaderType.itemsize + fields * FieldDescType.itemsize + samples > size:
        raise _broken(
            path, f"it has {size} bytes, too few for {samples} examples of {fields} fields"
        )
    return header, np.fromfile(path, FieldDescType, count=fields, offset=HeaderType.itemsize)


def _read_fields(path: str, descriptors: np.ndarray, custom: dict[str, Any]) -> dict[str, Field]:
    handlers: dict[str, Field] = {}
    for descriptor in descriptors:
        name = descriptor["name"].tobytes().split(b"\0")[0].decode("ascii", "replace")
        kind = int(descriptor["type_id"])
        if not name or name in handlers or not name.isascii() or kind not in TYPE_ID_HANDLER:
            raise _broken(path, f"its table of fields is damaged (name {name!r}, type {kind})")
        handler = custom.get(name) or TYPE_ID_HANDLER[kind]
        if handler is None and is_multi_hot(descriptor["arguments"]):
            handler = MultiHotField
        if handler is None:
            raise ValueError(f"Expected custom_fields to have the class of field {name!r}.")
        try:
            handlers[name] = handler.from_binary(descriptor["arguments"])
        except Exception as error:
            raise _broken(path, f"field {name!r} cannot be read ({error})") from error
    return handlers


def _sorted_table(reader: Reader, path: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Addresses and sizes of all parts, by address; each is within the data, on one page."""
    table = reader.alloc_table[np.argsort(reader.alloc_table["ptr"], kind="stable")]
    at, sizes, page = table["ptr"], table["size"], np.uint64(int(reader.page_size))
    if len(at):
        inside = (at >= start) & (at < end) & (sizes > 0) & (sizes <= page)
        inside &= at + sizes <= end
        inside &= at // page == (at + sizes - np.uint64(1)) // page
        inside &= table["sample_id"] < reader.num_samples
        if not inside.all() or (at[1:] < at[:-1] + sizes[:-1]).any():
            raise _broken(path, "its table of allocations is damaged")
    return at, sizes


def _parts_problem(field: Field, stored: np.ndarray, at: np.ndarray, sizes: np.ndarray) -> str:
    """What is wrong with where a field's parts lie, or an empty string."""
    checked: Any = True
    if isinstance(field, RGBImageField):
        address = stored["data_ptr"]
        expected = 3 * stored["height"].astype(np.uint64) * stored["width"]
        if (stored["mode"] > 1).any() or not expected.all():
            return "images of no known kind, or without a size"
        checked = stored["mode"] == 1  # raw; the sizes of JPEGs are their own
    elif isinstance(field, NDArrayField):
        address, expected = stored, np.uint64(field.element_size)
    elif isinstance(field, BytesField):
        address, expected = stored["ptr"], stored["size"]
    else:
        return ""
    if not len(at):
        return "its parts are not in the table of allocations"
    place = np.minimum(np.searchsorted(at, address), len(at) - 1)
    if (missing := at[place] != address).any():
        return f"{int(missing.sum())} parts are not in the table of allocations"
    if ((sizes[place] != expected) & checked).any():
        return "parts of a wrong size"
    return ""
