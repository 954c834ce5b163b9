"""Labels checked: class ids, multi-hot rows, and counts of elements."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = [
    "NUMBERING",
    "agreed_num_classes",
    "class_counts",
    "class_ids",
    "element_counts",
    "multi_hot",
    "some",
    "warn_of_empty",
    "warn_of_one_hot",
]

NUMBERING = (
    "If class ids have gaps by mistake, number them by "
    "names, labels = np.unique(labels, return_inverse=True)."
)

# Without num_classes, more ids than this and than twice the examples can only be gaps.
_MOST_CLASSES = 10_000
# Rows that hold a single 1 each: fewer of them may do so by chance.
_FEWEST_ONE_HOT = 50


def some(values: Any, most: int = 5) -> str:
    """The first values, and how many there are."""
    shown = ", ".join(str(value) for value in values[:most])
    return f"{shown}, … ({len(values)} in all)" if len(values) > most else shown


def agreed_num_classes(
    num_classes: int | None, names: list[str] | None, columns: int | None = None
) -> int | None:
    """C, where the asked number, the names or the columns say it; they must not differ."""
    if num_classes is not None and (not _is_int(num_classes) or not 0 < num_classes < 2**31):
        raise ValueError(
            f"Expected num_classes to be an int from 1 to 2^31 − 1, but got {num_classes!r}."
        )
    if columns is not None and num_classes not in (None, columns):
        raise ValueError(
            f"Expected num_classes to be the {columns} columns of labels, but got {num_classes}."
        )
    known = num_classes if columns is None else columns
    if names is not None and known not in (None, len(names)):
        raise ValueError(
            f"Expected names of all {known} classes, but got {len(names)}: "
            f"{some([*map(repr, names)])}."
        )
    return known if names is None else len(names)


def class_ids(values: np.ndarray, num_classes: int | None) -> tuple[np.ndarray, int]:
    """A copy of checked class ids, in the smallest unsigned dtype; and the number of classes."""

    def refuse(bad: np.ndarray, what: str, mend: str = "") -> None:
        if len(at := np.flatnonzero(bad)):
            raise ValueError(
                f"Expected labels to be {what}, but got {values[at[0]]:.12g} "
                f"at position {some(at)}.{mend}"
            )

    if values.dtype.kind == "f":
        refuse(~np.isfinite(values) | (values != np.floor(values)), "whole class ids")
    largest = int(values.max())
    if values.min() < 0:
        refuse(values < 0, "class ids from 0 up", " Leave out examples without a label.")
    if num_classes is not None and largest >= num_classes:
        refuse(values >= num_classes, f"class ids below num_classes={num_classes}")
    if num_classes is None and largest >= max(_MOST_CLASSES, 2 * len(values)):
        raise ValueError(
            f"Expected labels to be class ids numbered from 0 without large gaps, but got "
            f"{largest} as the largest of {len(values):,} ids. Number the classes with "
            "names, labels = np.unique(labels, return_inverse=True), or pass num_classes= "
            "if every id below it is a class."
        )
    classes = largest + 1 if num_classes is None else num_classes
    return values.astype(np.min_scalar_type(classes - 1)), classes


def class_counts(values: Any, num_examples: int | None) -> tuple[np.ndarray, int]:
    """A copy of checked class counts, and N: their sum, where an example has one class each."""
    if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"Expected counts to be (C,) numbers from 0 up, but got {values!r}.")
    if (values != np.floor(values)).any() or not values.any():
        raise ValueError(f"Expected counts to be whole and not all 0, but got {values!r}.")
    counts = values.astype(np.int64)
    if num_examples is None:
        return counts, int(counts.sum())
    if not _is_int(num_examples) or num_examples < counts.max():
        raise ValueError(
            f"Expected num_examples to be an int of at least the largest count {counts.max()}, "
            f"but got {num_examples!r}."
        )
    return counts, int(num_examples)


def multi_hot(values: Any, unknown: float | None) -> tuple[csr_matrix, np.ndarray]:
    """CSR of ones that shares nothing with `values`; and the unknown entries of each column."""
    from scipy.sparse import csr_matrix

    _require_examples(values)
    unknown_counts = np.zeros(values.shape[1], np.int64)
    if unknown is not None:
        values, unknown_counts = _without(values, unknown)
    dense = isinstance(values, np.ndarray)
    if dense and (parts := _ones_of(values)) is not None:
        return csr_matrix(parts, shape=values.shape), unknown_counts
    stored = values if dense else values.data
    if (wrong := ~((stored == 0) | (stored == 1))).any():
        odd = stored[wrong][0]
        hint = " For (N, 1) class ids pass labels.ravel()." if values.shape[1] == 1 else ""
        if odd < 0 or odd != odd:
            hint = f" If {odd} marks unknown labels, pass unknown={odd}."
        elif odd > 1 and odd == np.floor(odd) and values.shape[1] > 1:
            hint = " For numbers of pixels, tokens or boxes use Targets.from_counts."
        raise ValueError(
            f"Expected multi-hot labels to be 0 or 1, but got {odd} "
            f"({int(wrong.sum())} of them).{hint}"
        )
    matrix = csr_matrix(values, dtype=np.uint8, copy=True)
    matrix.sum_duplicates()
    if not matrix.data.all():
        matrix.eliminate_zeros()
    if matrix.nnz and matrix.data.max() > 1:
        raise ValueError("Expected each label once an example, but got duplicate entries.")
    return matrix, unknown_counts


def element_counts(values: Any) -> csr_matrix:
    """CSR of positive whole numbers that shares nothing with `values`."""
    from scipy.sparse import csr_matrix

    if len(values.shape) != 2:
        raise ValueError(
            "Expected counts to be (N, C), the elements of each class in each example, "
            f"but got shape {values.shape}."
        )
    _require_examples(values)
    matrix = csr_matrix(values, copy=True)
    matrix.sum_duplicates()
    data = matrix.data
    if data.dtype.kind not in "biuf":
        raise TypeError(f"Expected counts to be whole numbers, but got {data.dtype}.")
    wrong = ~(np.isfinite(data) & (data >= 0) & (data == np.floor(data)))
    if wrong.any():
        raise ValueError(
            f"Expected counts to be whole numbers from 0 up, but got {data[wrong][0]} "
            f"({int(wrong.sum())} of them)."
        )
    matrix.data = data.astype(np.int64)
    matrix.eliminate_zeros()
    return matrix


def warn_of_empty(classes: str, num_classes: int, numbered: bool) -> None:
    """Say which classes have no example, and where they are ids, how to number without gaps."""
    warnings.warn(
        f"Of {num_classes} classes these have no example: {classes}. They are never drawn, and "
        f"their log-weight stays 0.{' ' + NUMBERING if numbered else ''}",
        stacklevel=4,
    )


def warn_of_one_hot(matrix: csr_matrix) -> None:
    """Say so if every row holds a single 1, and there are too many of them for chance."""
    many = matrix.shape[0] >= _FEWEST_ONE_HOT and matrix.shape[1] > 1
    if many and (np.diff(matrix.indptr) == 1).all():
        warnings.warn(
            "Every row of labels holds exactly one 1, as one-hot rows do, and is taken for a set "
            "of labels. For classes that exclude one another pass class ids, "
            "labels.argmax(axis=1).",
            stacklevel=3,
        )


def _require_examples(values: Any) -> None:
    if 0 in values.shape:
        raise ValueError(f"Expected labels of at least one example, but got shape {values.shape}.")


def _without(values: Any, unknown: float) -> tuple[Any, np.ndarray]:
    """`values` with 0 for the unknown ones; and how many of those each column had."""
    if unknown in (0, 1):
        raise ValueError(f"Expected unknown to be another value than 0 and 1, but got {unknown!r}.")

    def found(data: np.ndarray) -> np.ndarray:
        return np.isnan(data) if unknown != unknown else data == unknown

    if isinstance(values, np.ndarray):
        mask = found(values)
        return np.where(mask, 0, values), mask.sum(axis=0)
    values = values.copy()
    mask = found(values.data)
    values.data[mask] = 0
    return values, np.bincount(values.indices[mask], minlength=values.shape[1])


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


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
