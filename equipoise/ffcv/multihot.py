"""MultiHotField: multi-hot labels in an FFCV file, one bit a label."""

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

__all__ = ["MultiHotDecoder", "MultiHotField", "is_multi_hot"]

MAGIC = np.frombuffer(b"equipoise.MultiHotField/1\0", np.uint8)
ARGUMENTS = np.dtype([("magic", "<u1", (len(MAGIC),)), ("num_classes", "<u8")])
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
        num_classes = self.field.num_classes
        whole_bytes = num_classes // 8

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

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class MultiHotField(Field):
    """Multi-hot labels of C classes in ⌈C/8⌉ bytes an example, in the file's index.

    A loader needs `custom_fields={"label": MultiHotField}` and yields `(batch, C)` uint8.
    Reading the targets of a whole file takes no decoding (`equipoise.ffcv.targets`). The index is
    held in memory: ⌈C/8⌉ bytes × N.

    Args:
        num_classes: C. Examples are `(C,)` arrays, tensors or lists of 0 and 1.

    Example:
        >>> field = MultiHotField(10)
        >>> packed = np.zeros((1, 2), np.uint8)
        >>> field.encode(packed, [1, 0, 0, 0, 0, 0, 0, 0, 0, 1], None)
        >>> packed.tolist()
        [[1, 2]]
    """

    def __init__(self, num_classes: int) -> None:
        if not isinstance(num_classes, int | np.integer) or num_classes < 1:
            raise ValueError(f"Expected num_classes to be a positive int, but got {num_classes!r}.")
        self.num_classes = int(num_classes)

    def __repr__(self) -> str:
        return f"MultiHotField({self.num_classes})"

    @property
    def metadata_type(self) -> np.dtype:
        """What FFCV keeps in its index for an example: the packed bits themselves."""
        return np.dtype(("<u1", (-(-self.num_classes // 8),)))

    @staticmethod
    def from_binary(binary: Any) -> MultiHotField:
        """The field as `to_binary` described it in a file."""
        if not is_multi_hot(binary):
            raise ValueError(
                "Expected a field written by MultiHotField, but got another one: leave it out of "
                "custom_fields."
            )
        return MultiHotField(int(_arguments(binary)["num_classes"]))

    def to_binary(self) -> Any:
        """FFCV's hook: the description in the file's header."""
        result = np.zeros(1, dtype=ARG_TYPE)[0]
        arguments = np.zeros(1, ARGUMENTS)
        arguments["magic"], arguments["num_classes"] = MAGIC, self.num_classes
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
        destination[0] = np.packbits(labels.astype(bool), bitorder="little")

    def get_decoder_class(self) -> type[Operation]:
        """FFCV's hook: what reads it."""
        return MultiHotDecoder

    def rows(self, packed: np.ndarray) -> Iterator[np.ndarray]:
        """Dense `(rows, C)` uint8 of packed `(N, ⌈C/8⌉)` labels, a part at a time."""
        for first in range(0, len(packed), ROWS):
            part = np.ascontiguousarray(packed[first : first + ROWS])
            yield np.unpackbits(part, axis=1, count=self.num_classes, bitorder="little")


def is_multi_hot(binary: np.ndarray) -> bool:
    """Whether a field's description in a file's header is that of a `MultiHotField`."""
    arguments = _arguments(binary)
    return bool((arguments["magic"] == MAGIC).all()) and arguments["num_classes"] > 0


def _arguments(binary: Any) -> Any:
    flat = np.ascontiguousarray(binary).view(np.uint8).ravel()
    return flat[: ARGUMENTS.itemsize].view(ARGUMENTS)[0]
