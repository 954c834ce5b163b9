"""FFCV fields inferred from an example, and values made into what those fields can encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from ffcv.fields import FloatField, IntField, NDArrayField, RGBImageField
from ffcv.fields.base import Field
from PIL.Image import Image

__all__ = ["checked_fields", "describe", "infer_field", "preparer"]

NAME_LENGTH = 16  # bytes FFCV has for a field's name; longer ones it cuts silently


def infer_field(name: str, value: Any) -> Field:
    """The field for values like this one.

    PIL images and uint8 images (H, W, 3), as tensors also (3, H, W), become `RGBImageField`s
    (raw, so lossless); whole numbers, also in an array of one, `IntField`s; other numbers
    `FloatField`s; any other array or list of numbers an `NDArrayField` of its dtype and shape
    (bool as uint8).
    """
    if isinstance(value, Image):
        return RGBImageField(write_mode="raw")
    array = _as_array(name, value)
    if _is_image(array, isinstance(value, torch.Tensor)):
        return RGBImageField(write_mode="raw")
    if array.ndim == 0 or (array.shape == (1,) and array.dtype.kind in "biu"):
        return FloatField() if array.dtype.kind == "f" else IntField()
    if array.size == 0:
        raise ValueError(f"Expected {name} to be an array of numbers, but got shape {array.shape}.")
    return NDArrayField(np.dtype(np.uint8) if array.dtype == bool else array.dtype, array.shape)


def checked_fields(sample: Any, fields: Mapping[str, Field | None] | None) -> dict[str, Field]:
    """`fields` with the missing ones inferred from `sample`, names checked."""
    values = list(sample.values()) if isinstance(sample, dict) else as_tuple(sample)
    if fields is None:
        names = list(sample) if isinstance(sample, dict) else _default_names(values)
        fields = dict.fromkeys(names)
    elif isinstance(sample, dict) and all(name in sample for name in fields):
        values = [sample[name] for name in fields]
    if len(fields) != len(values) or not fields:
        raise ValueError(
            f"Expected fields to be one for each of the {len(values)} parts of an example, but "
            f"got {list(fields)}."
        )
    taken = {}
    for (name, field), value in zip(fields.items(), values, strict=True):
        if not (isinstance(name, str) and name.isascii() and 0 < len(name) <= NAME_LENGTH):
            raise ValueError(
                f"Expected names of fields to be 1 to {NAME_LENGTH} ASCII characters, which is "
                f"what an FFCV file holds, but got {name!r}."
            )
        taken[name] = infer_field(name, value) if field is None else field
        if not isinstance(taken[name], Field):
            raise TypeError(f"Expected fields[{name!r}] to be an FFCV Field, but got {field!r}.")
    return taken


def preparer(name: str, field: Field) -> Callable[[Any], Any]:
    """What makes a value into what `field.encode` takes, or raises TypeError or ValueError.

    FFCV itself would store 2.7 in an `IntField` as 2, and wait for ever where encoding fails.
    """
    if isinstance(field, RGBImageField):
        return partial(_image, name)
    if isinstance(field, IntField | FloatField):
        dtype = np.dtype(np.int64 if isinstance(field, IntField) else np.float64)
        return lambda value: _like(name, value, dtype, ()).item()
    if type(field) is NDArrayField:
        return lambda value: _like(name, value, field.dtype, tuple(field.shape))
    return lambda value: value  # of other fields it is known to `encode` alone


def describe(field: Field) -> str:
    """A field in words, for the line that says what was taken."""
    if isinstance(field, RGBImageField):
        return f"RGBImageField({field.write_mode!r})"
    if isinstance(field, NDArrayField):
        return f"{type(field).__name__}({field.dtype}, {tuple(field.shape)})"
    words = repr(field)
    return type(field).__name__ if words.startswith("<") else words  # most have no __repr__


def as_tuple(sample: Any) -> tuple[Any, ...]:
    """The parts of an example: itself, where it has no parts."""
    return tuple(sample) if isinstance(sample, tuple | list) else (sample,)


def _default_names(values: Any) -> list[str]:
    """`image` or `features`, then `label`, then `field2`, …; a single one by its kind."""
    parts = []
    for value in values:
        image = isinstance(value, Image) or np.ndim(_as_array("example", value)) >= 2
        parts.append("image" if image else "features" if np.ndim(value) else "label")
    if len(parts) == 1:
        return parts
    first = "image" if parts[0] == "image" else "features"
    return [first, "label", *(f"field{i}" for i in range(2, len(parts)))]


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().numpy()
        else:
            array = np.asarray(value)
    except (TypeError, ValueError) as error:  # bfloat16; ragged lists
        raise TypeError(f"Expected {name} to be numbers, but got {type(value)}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"Expected {name} to be an image, a number or an array of numbers, but got "
            f"{type(value)}. Pass fields= with an FFCV field that takes it."
        )
    return array


def _is_image(array: np.ndarray, is_tensor: bool) -> bool:
    if array.dtype != np.uint8 or array.ndim != 3 or array.size == 0:
        return False
    return array.shape[2] == 3 or (is_tensor and array.shape[0] == 3)


def _image(name: str, value: Any) -> np.ndarray:
    if isinstance(value, Image):
        return np.asarray(value if value.mode == "RGB" else value.convert("RGB"))
    array = _as_array(name, value)
    if not _is_image(array, isinstance(value, torch.Tensor)) or max(array.shape) >= 2**16:
        raise ValueError(
            f"Expected {name} to be a uint8 image (H, W, 3), but got {array.dtype} of shape "
            f"{array.shape}. Scale it to 0 … 255 and cast, use x.transpose(1, 2, 0), or write it "
            "with an NDArrayField."
        )
    if isinstance(value, torch.Tensor) and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    return np.ascontiguousarray(array)


def _like(name: str, value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """`value` in a field's dtype and shape, where no value changes by that."""
    given = _as_array(name, value)
    if not shape and given.size == 1:
        given = given.reshape(())
    if given.shape != shape:
        raise ValueError(
            f"Expected {name} to have shape {shape}, as its field, but got {given.shape}."
        )
    with np.errstate(invalid="ignore"):
        array = np.ascontiguousarray(given, dtype).reshape(shape)
    rounded = np.can_cast(given.dtype, dtype, "same_kind") and dtype.kind == "f"
    if not rounded and not np.array_equal(array, given):
        raise ValueError(
            f"Expected {name} to be {dtype}, as its field, but got {given.dtype} with values that "
            f"do not fit: {given}."
        )
    return array
