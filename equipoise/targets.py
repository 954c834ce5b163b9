"""Targets: the labels of a data set, validated once.

This is the only place where labels are checked. Everything downstream (samplers, policies,
losses) takes a `Targets` and trusts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Targets"]


class Targets:
    """The labels of every example of a data set: class ids, or a multi-hot matrix.

    Args:
        labels: `(N,)` class ids, or `(N, C)` multi-hot of 0/1, as a list, NumPy array, torch
            tensor (dense or sparse CSR/COO), scipy sparse matrix; or a data set with `.targets`
            (torchvision's convention, also inside `torch.utils.data.Subset`).
        num_classes: C. By default the largest class id plus one, or the number of columns.

    Attributes:
        multilabel: whether an example carries several labels.
        num_examples: N.
        num_classes: C.
        counts: `(C,)` int64, examples of each class.
        labels: `(N,)` class ids in the smallest unsigned dtype; `None` for multi-hot targets.
        matrix: `(N, C)` scipy CSR of ones; `None` for class ids.

    Raises:
        TypeError: labels of a type that cannot be read as numbers, or ragged; a
            `torch.utils.data.Dataset` without `.targets`.
        ValueError: labels that are empty, NaN, negative, not whole, or out of range.

    Example:
        >>> targets = Targets([0, 2, 2, 1])
        >>> targets.num_classes, targets.counts.tolist(), targets.multilabel
        (3, [1, 1, 2], False)
        >>> Targets([[1, 0], [1, 1]]).counts.tolist()
        [2, 1]
    """

    def __init__(self, labels: Any, num_classes: int | None = None) -> None:
        if num_classes is not None and (not _is_int(num_classes) or num_classes < 1):
            raise ValueError(f"Expected num_classes to be a positive int, but got {num_classes!r}.")
        values = _as_array(labels)
        self.labels: np.ndarray | None = None
        self.matrix: csr_matrix | None = None
        if values.ndim == 1:
            self.labels, self.num_classes = _class_ids(values, num_classes)
            self.counts = np.bincount(self.labels, minlength=self.num_classes)
        else:
            self.matrix = _multi_hot(values)
            self.num_classes = self.matrix.shape[1]
            if num_classes not in (None, self.num_classes):
                raise ValueError(
                    f"Expected num_classes to be the {self.num_classes} columns of labels, "
                    f"but got {num_classes}."
                )
            self.counts = np.bincount(self.matrix.indices, minlength=self.num_classes)
        self.multilabel = self.matrix is not None
        self.num_examples = int(values.shape[0])

    @classmethod
    def of(cls, targets: Any, num_classes: int | None = None) -> Targets:
        """`targets` itself if it is a `Targets` already, else `Targets(targets)`."""
        return targets if isinstance(targets, cls) else cls(targets, num_classes)

    @classmethod
    def from_label_ids(cls, label_ids: Iterable[Sequence[int]], num_classes: int) -> Targets:
        """Multi-hot targets from one sequence of label ids an example (empty ones are allowed).

        Example:
            >>> Targets.from_label_ids([[0, 2], [], [2]], num_classes=3).counts.tolist()
            [1, 0, 2]
        """
        from scipy.sparse import csr_matrix

        rows = [np.asarray(ids).reshape(-1) for ids in label_ids]
        lengths = [len(ids) for ids in rows]
        flat = np.concatenate(rows) if sum(lengths) else np.zeros(0, np.int64)
        if len(flat):
            flat, _ = _class_ids(flat, num_classes)
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        ones = np.ones(len(flat), np.uint8)
        return cls(csr_matrix((ones, flat.astype(np.int32), indptr), (len(rows), num_classes)))

    def __len__(self) -> int:
        return self.num_examples

    def __repr__(self) -> str:
        kind = "multilabel" if self.multilabel else "single-label"
        return f"Targets({kind}, {self.num_examples:,} examples, {self.num_classes:,} classes)"

    def require_single_label(self, user: str) -> np.ndarray:
        """The class ids; `user` is named in the error where targets are multi-hot."""
        if self.labels is None:
            raise ValueError(
                f"Expected targets of {user} to be (N,) class ids, but got multi-hot {self!r}."
            )
        return self.labels

    def require_every_class(self, user: str) -> None:
        """Raise if a class has no example, which nothing can be drawn or learnt from."""
        missing = np.flatnonzero(self.counts == 0)
        if len(missing):
            raise ValueError(
                f"Expected every class in targets of {user} to have at least one example, but "
                f"of {self.num_classes} classes these have none: {_some(missing)}. "
                "Renumber the class ids without gaps, or pass a smaller num_classes."
            )

    @cached_property
    def members(self) -> np.ndarray:
        """`(N,)` example ids grouped by class: class c's are `members[starts[c]:starts[c + 1]]`."""
        labels = self.require_single_label("members")
        dtype = np.int32 if self.num_examples <= np.iinfo(np.int32).max else np.int64
        return np.argsort(labels, kind="stable").astype(dtype, copy=False)

    @cached_property
    def starts(self) -> np.ndarray:
        """`(C + 1,)` int64 offsets of the classes in `members`."""
        return np.concatenate([[0], np.cumsum(self.counts)])


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _some(ids: np.ndarray, most: int = 5) -> str:
    shown = ", ".join(str(i) for i in ids[:most])
    return f"{shown}, … ({len(ids)} in all)" if len(ids) > most else shown


def _as_array(labels: Any) -> Any:
    """A NumPy array or a scipy sparse matrix of `labels`, values unchecked."""
    if hasattr(labels, "targets") and not isinstance(labels, np.ndarray | torch.Tensor):
        return _as_array(labels.targets)
    if isinstance(labels, torch.utils.data.Subset):
        values = _as_array(labels.dataset)
        return values[np.asarray(labels.indices)]
    if isinstance(labels, torch.utils.data.Dataset):  # NumPy would read every example
        raise TypeError(
            f"Expected labels, or a data set with `.targets`, but got a {type(labels).__name__} "
            "without. Pass its labels themselves, (N,) class ids or an (N, C) multi-hot matrix."
        )
    if isinstance(labels, torch.Tensor):
        labels = labels.detach()
        if labels.layout != torch.strided:
            return _sparse_tensor(labels)
        if labels.dtype == torch.bfloat16:
            labels = labels.float()
        return _checked(labels.cpu().numpy())
    if hasattr(labels, "tocsr"):
        return labels.tocsr()
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise TypeError(
            "Expected labels to be (N,) class ids or an (N, C) multi-hot matrix, but got rows of "
            "different lengths. For lists of label ids use Targets.from_label_ids."
        ) from error
    return _checked(values)


def _sparse_tensor(labels: torch.Tensor) -> Any:
    from scipy.sparse import csr_matrix

    csr = labels.to_sparse_csr().cpu()
    data = csr.values()
    data = data.float() if data.dtype == torch.bfloat16 else data
    parts = (data.numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
    return csr_matrix(parts, shape=(csr.shape[0], csr.shape[1]))


def _checked(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise TypeError(
            "Expected labels to be numbers, but got "
            f"{values.dtype if values.ndim else type(values.item())} "
            "(a data set is read through its `.targets`; otherwise pass its labels)."
        )
    if values.ndim not in (1, 2):
        raise ValueError(
            "Expected labels to be (N,) class ids or an (N, C) multi-hot matrix, "
            f"but got shape {values.shape}."
        )
    if values.size == 0:
        raise ValueError(f"Expected labels of at least one example, but got shape {values.shape}.")
    return values


def _class_ids(values: np.ndarray, num_classes: int | None) -> tuple[np.ndarray, int]:
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values) | (values != np.floor(values)))
        if len(bad):
            raise ValueError(
                f"Expected labels to be whole class ids, but got {values[bad[0]]} "
                f"at position {_some(bad)}."
            )
    smallest, largest = values.min(), values.max()
    if smallest < 0:
        bad = np.flatnonzero(values < 0)
        raise ValueError(
            f"Expected labels to be class ids from 0 up, but got {int(values[bad[0]])} "
            f"at position {_some(bad)}."
        )
    if num_classes is not None and largest >= num_classes:
        bad = np.flatnonzero(values >= num_classes)
        raise ValueError(
            f"Expected labels to be class ids below num_classes={num_classes}, "
            f"but got {int(values[bad[0]])} at position {_some(bad)}."
        )
    if largest >= 2**31:
        raise ValueError(f"Expected labels to be class ids below 2^31, but got {int(largest)}.")
    classes = num_classes or int(largest) + 1
    return values.astype(np.min_scalar_type(classes - 1)), int(classes)


def _multi_hot(values: Any) -> csr_matrix:
    from scipy.sparse import csr_matrix, issparse

    if 0 in values.shape:
        raise ValueError(f"Expected labels of at least one example, but got shape {values.shape}.")
    if not issparse(values) and (parts := _ones_of(values)):
        return csr_matrix(parts, shape=values.shape)
    stored = values.data if hasattr(values, "tocsr") else values
    if (wrong := ~((stored == 0) | (stored == 1))).any():
        hint = " For (N, 1) class ids pass labels.ravel()." if values.shape[1] == 1 else ""
        raise ValueError(
            f"Expected multi-hot labels to be 0 or 1, but got {stored[wrong][0]} "
            f"({int(wrong.sum())} of them).{hint}"
        )
    matrix = csr_matrix(values, dtype=np.uint8, copy=False)
    if not (matrix.has_canonical_format and matrix.data.all()):
        matrix = matrix.copy()  # its arrays may be the caller's
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    if matrix.nnz and matrix.data.max() > 1:
        raise ValueError("Expected each label once an example, but got duplicate entries.")
    return matrix


def _ones_of(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """CSR parts of a 0/1 array, block by block of rows; `None` if it holds anything else."""
    indices, lengths = [], [np.zeros(1, np.int64)]
    for block in np.array_split(dense, (dense.size >> 22) + 1):
        ones = block == 1
        if np.count_nonzero(block) != np.count_nonzero(ones):
            return None
        indices.append((np.flatnonzero(ones) % dense.shape[1]).astype(np.int32))
        lengths.append(np.count_nonzero(ones, axis=1))
    indptr = np.cumsum(np.concatenate(lengths))
    return np.ones(indptr[-1], np.uint8), np.concatenate(indices), indptr
