"""MultiHotField: multi-hot labels in an FFCV file, one bit a label, or 16 bits a positive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ffcv.fields.base import ARG_TYPE, Field
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State

from equipoise._order_sampler import require_int

__all__ = ["MultiHotDecoder", "MultiHotField", "is_multi_hot"]

MAGIC = np.frombuffer(b"equipoise.MultiHotField/1\0", np.uint8)
ARGUMENTS = np.dtype(
    [("magic", "<u1", (len(MAGIC),)), ("num_classes", "<u8"), ("max_labels", "<u8")]
)
PADDING = 2**16 - 1  # after the last of an example's label ids
ROWS = 4096  # examples unpacked at a time


class MultiHotDecoder(Operation):
    """`(batch, C)` uint8 of 0 and 1 from a `MultiHotField`; cast it on the device."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """FFCV's hook: the shape of a batch's row, and the buffer for it."""
        shape, dtype = (self.field.num_classes,), np.dtype("u1")
        return (
            replace(previous_state, jit_mode=True, shape=shape, dtype=dtype),
            AllocationQuery(shape, dtype),
        )

    def generate_code(self) -> Callable[..., Any]:
        """FFCV's hook: the function that it compiles."""
        # Bound as locals: the compiled function must not refer to self
        rows = Compiler.get_iterator()
        num_classes, max_labels = self.field.num_classes, self.field.max_labels
        whole_bytes = num_classes // 8

        def decode_ids(indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            for row in rows(indices.shape[0]):
                ids, out = metadata[indices[row]], destination[row]
                out[:] = 0
                for i in range(max_labels):
                    if ids[i] >= num_classes:
                        break
                    out[ids[i]] = 1
            return destination[: indices.shape[0]]

        def decode(indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            for row in rows(indices.shape[0]):
                packed, out = metadata[indices[row]], destination[row]
                for byte in range(whole_bytes):
                    bits = packed[byte]
                    for bit in range(8):
                        out[8 * byte + bit] = (bits >> bit) & 1
                for label in range(8 * whole_bytes, num_classes):
                    out[label] = (packed[whole_bytes] >> (label - 8 * whole_bytes)) & 1
            return destination[: indices.shape[0]]

        chosen = decode if max_labels is None else decode_ids
        chosen.is_parallel = True  # type: ignore[attr-defined]
        return chosen


class MultiHotField(Field):
    """Multi-hot labels of C classes in an FFCV file's index.

    ⌈C/8⌉ bytes an example; with `max_labels` its label ids instead, 2 · max_labels bytes, which is
    less from C = 16 · max_labels on.

    A loader needs `custom_fields={"label": MultiHotField}` and yields `(batch, C)` uint8.
    Reading the targets of a whole file takes no decoding (`equipoise.ffcv.targets`). The index is
    held in memory, N times these bytes.

    Args:
        num_classes: C. Examples are `(C,)` arrays, tensors or lists of 0 and 1.
        max_labels: the most labels that any example has; `None` for one bit a label.

    Example:
        >>> field = MultiHotField(10)
        >>> packed = np.zeros((1, 2), np.uint8)
        >>> field.encode(packed, [1, 0, 0, 0, 0, 0, 0, 0, 0, 1], None)
        >>> packed.tolist()
        [[1, 2]]
    """

    def __init__(self, num_classes: int, max_labels: int | None = None) -> None:
        require_int("num_classes", num_classes, 1)
        if max_labels is not None:
            require_int("max_labels", max_labels, 1)
            if max_labels > num_classes or num_classes > PADDING:
                raise ValueError(
                    f"Expected max_labels to be at most num_classes, and that at most {PADDING}, "
                    f"but got {max_labels} and {num_classes}: leave max_labels out."
                )
        self.num_classes = int(num_classes)
        self.max_labels = None if max_labels is None else int(max_labels)

    def __repr__(self) -> str:
        most = "" if self.max_labels is None else f", max_labels={self.max_labels}"
        return f"MultiHotField({self.num_classes}{most})"

    @property
    def metadata_type(self) -> np.dtype:
        """What FFCV keeps in its index for an example: the packed bits, or ids, themselves."""
        if self.max_labels is not None:
            return np.dtype(("<u2", (self.max_labels,)))
        return np.dtype(("<u1", (-(-self.num_classes // 8),)))

    @staticmethod
    def from_binary(binary: Any) -> MultiHotField:
        """The field as `to_binary` described it in a file."""
        if not is_multi_hot(binary):
            raise ValueError(
                "Expected a field written by MultiHotField, but got another one: leave it out of "
                "custom_fields."
            )
        arguments = _arguments(binary)
        return MultiHotField(int(arguments["num_classes"]), int(arguments["max_labels"]) or None)

    def to_binary(self) -> Any:
        """FFCV's hook: the description in the file's header."""
        result = np.zeros(1, dtype=ARG_TYPE)[0]
        arguments = np.zeros(1, ARGUMENTS)
        arguments["magic"], arguments["num_classes"] = MAGIC, self.num_classes
        arguments["max_labels"] = self.max_labels or 0
        result[0][: ARGUMENTS.itemsize] = arguments.view(np.uint8)
        return result

    def encode(self, destination: np.ndarray, field: Any, malloc: Any) -> None:
        """FFCV's hook: write one example's labels into the index."""
        if isinstance(field, torch.Tensor):
            field = field.detach().cpu().numpy()
        labels = np.asarray(field)
        if labels.shape != (self.num_classes,) or not ((labels == 0) | (labels == 1)).all():
            raise ValueError(
                f"Expected labels for {self!r} to be ({self.num_classes},) of 0 and 1, but got "
                f"shape {labels.shape}: {labels!r}."
            )
        if self.max_labels is None:
            destination[0] = np.packbits(labels.astype(bool), bitorder="little")
            return
        ids = np.flatnonzero(labels)
        if len(ids) > self.max_labels:
            raise ValueError(
                f"Expected labels for {self!r} to be at most {self.max_labels}, but got {len(ids)}."
            )
        destination[0] = PADDING
        destination[0][: len(ids)] = ids

    def get_decoder_class(self) -> type[Operation]:
        """FFCV's hook: what reads it."""
        return MultiHotDecoder

    def rows(self, packed: np.ndarray) -> Iterator[np.ndarray]:
        """Dense `(rows, C)` uint8 of labels as they are stored, `(N, …)`, a part at a time."""
        for first in range(0, len(packed), ROWS):
            part = np.ascontiguousarray(packed[first : first + ROWS])
            if self.max_labels is None:
                yield np.unpackbits(part, axis=1, count=self.num_classes, bitorder="little")
            else:
                dense = np.zeros((len(part), self.num_classes), np.uint8)
                row, place = np.nonzero(part < self.num_classes)
                dense[row, part[row, place]] = 1
                yield dense


def is_multi_hot(binary: np.ndarray) -> bool:
    """Whether a field's description in a file's header is that of a `MultiHotField`."""
    arguments = _arguments(binary)
    return bool((arguments["magic"] == MAGIC).all()) and arguments["num_classes"] > 0


def _arguments(binary: Any) -> Any:
    flat = np.ascontiguousarray(binary).view(np.uint8).ravel()
    return flat[: ARGUMENTS.itemsize].view(ARGUMENTS)[0]
