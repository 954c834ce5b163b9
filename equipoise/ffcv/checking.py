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
    FieldDescType,
    HeaderType,
)
from ffcv.utils import decode_null_terminated_string

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
    table_at, size = _check_head(path), os.path.getsize(path)
    try:
        reader = Reader(path, _custom_fields(path, custom_fields))
    except Exception as error:
        raise _broken(path, f"its fields cannot be read ({error})") from error
    names = reader.field_names
    if len(set(names)) < len(names) or not all(name and name.isascii() for name in names):
        raise _broken(path, f"its table of fields is damaged (names {names})")
    start = HeaderType.itemsize + reader.field_descriptors.nbytes
    end = start + int(reader.num_samples) * reader.metadata_type.itemsize
    if not end <= table_at <= size or (size - table_at) % ALLOC_TABLE_TYPE.itemsize:
        raise _broken(
            path, f"it is truncated or damaged ({size} bytes; table of allocations at {table_at})"
        )
    table = _sorted_table(reader, path, end, table_at)
    for i, (name, field) in enumerate(reader.handlers.items()):
        problem = _parts_problem(field, reader.metadata[f"f{i}"], *table)
        if problem:
            raise _broken(path, f"it is truncated or damaged (field {name!r}: {problem})")
    return reader


def check_again(reader: Reader) -> None:
    """`check` of a file that FFCV has opened, with the fields it found."""
    check(reader.file_name, {name: type(field) for name, field in reader.handlers.items()})


def _broken(path: str, why: str) -> ValueError:
    return ValueError(f"Expected path to be a whole FFCV file, but got {path}: {why}.")


def _check_head(path: str) -> int:
    """Where the table of allocations begins, by a header that can be true."""
    size = os.path.getsize(path)
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
    if not header["alloc_table_ptr"]:
        raise _broken(path, "its writing was not finished (it has no table of allocations)")
    return int(header["alloc_table_ptr"])


def _custom_fields(path: str, given: Fields | None) -> Fields:
    """`given`, and `MultiHotField` for each field that was written by it."""
    head = np.fromfile(path, HeaderType, count=1)[0]
    fields = np.fromfile(path, FieldDescType, int(head["num_fields"]), offset=HeaderType.itemsize)
    known = {
        decode_null_terminated_string(field["name"]): MultiHotField
        for field in fields
        if is_multi_hot(field["arguments"])
    }
    return {**known, **(given or {})}


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
    if isinstance(field, RGBImageField):
        address, expected = stored["data_ptr"], 3 * stored["height"].astype(np.uint64)
        expected *= stored["width"]
        if (stored["mode"] > 1).any() or not expected.all():
            return "images of no known kind, or without a size"
        checked = stored["mode"] == 1  # raw; the sizes of JPEGs are their own
    elif isinstance(field, NDArrayField):
        address, checked = stored, np.ones(len(stored), bool)
        expected = np.full(len(stored), int(field.element_size), np.uint64)
    elif isinstance(field, BytesField):
        address, expected = stored["ptr"], stored["size"]
        checked = np.ones(len(stored), bool)
    else:
        return ""
    if not len(at):
        return "its parts are not in the table of allocations"
    place = np.minimum(np.searchsorted(at, address), len(at) - 1)
    if (at[place] != address).any():
        return f"{int((at[place] != address).sum())} parts are not in the table of allocations"
    if (sizes[place] != expected)[checked].any():
        return "parts of a wrong size"
    return ""
