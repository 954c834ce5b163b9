"""Targets: the labels of a data set, checked and ready for samplers, policies and losses."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equipoise.targets import checking
from equipoise.targets.reading import Names, checked_names, from_label_ids, read

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Targets"]


class Targets:
    """The labels of every example of a data set: class ids, or a multi-hot matrix.

    A class may be without examples, as in a fold or where the last layer is fixed: it is never
    drawn, its log-weight stays 0, and for class ids a `UserWarning` names it once. Labels are
    copied, so changing the caller's arrays later changes nothing here.

    A network with a single logit for two classes learns one label: pass `(N, 1)` rows of 0 and 1.

    Args:
        labels: one class for each example, or `(N, C)` rows of 0 and 1 where an example has
            several labels. Class ids 0 … C − 1 or strings, as a list, NumPy array, torch tensor
            (dense or sparse), SciPy sparse matrix, pandas Series, Categorical or DataFrame, or a
            Hugging Face column (`dataset["label"]`). Also a data set whose labels can be had
            without reading its examples: one with `.targets` (torchvision's `ImageFolder` and
            most others), `TensorDataset` (its last tensor), and `Subset` or `ConcatDataset` of
            such.
        num_classes: C. By default as many as there are names, or the largest class id plus one,
            or the number of columns.
        names: of the classes, in the order of their ids. By default those that come with the
            labels: the sorted strings, categories, columns of a DataFrame, `.classes` of a data
            set, names of a Hugging Face `ClassLabel`.
        unknown: a value (for instance −1 or NaN) that marks entries of a multi-hot matrix of which
            nobody knows whether the label holds. They count as no positives, and are counted in
            `unknown_counts`.

    Attributes:
        multilabel: whether examples carry sets of labels (multi-hot).
        num_examples: N.
        num_classes: C.
        names: C strings, or `None`.
        counts: `(C,)` int64, examples of each class; of `from_counts`, its elements.
        support: `(C,)` int64, examples that carry each class: `counts`, but for `from_counts`.
        unknown: the value that marks unknown entries, or `None`.
        unknown_counts: `(C,)` int64, examples in which the label is unknown.
        labels: `(N,)` class ids in the smallest unsigned dtype; `None` for all but class ids.
        matrix: `(N, C)` SciPy CSR of uint8 ones (multi-hot) or int64 (`from_counts`), or `None`.

    Raises:
        TypeError: labels that are neither numbers nor strings, or ragged; a data set whose labels
            cannot be had without reading its examples; names that are no strings.
        ValueError: labels that are empty, NaN, negative, not whole, out of range, or numbered with
            large gaps; names or columns of another number than C.

    Example:
        >>> targets = Targets(["cat", "dog", "dog", "bird"])
        >>> targets.names, targets.counts.tolist(), targets.labels.tolist()
        (['bird', 'cat', 'dog'], [1, 1, 2], [1, 2, 2, 0])
        >>> Targets([[1, 0], [1, 1]]).counts.tolist()
        [2, 1]
        >>> several = Targets([[1, -1], [1, 1], [0, -1]], unknown=-1)
        >>> several.counts.tolist(), several.unknown_counts.tolist()
        ([2, 1], [0, 2])
    """

    unknown: float | None = None

    def __init__(
        self,
        labels: Any,
        num_classes: int | None = None,
        *,
        names: Sequence[str] | None = None,
        unknown: float | None = None,
    ) -> None:
        values, names = read(labels, names)
        self.unknown = unknown
        columns = None if values.ndim == 1 else values.shape[1]
        num_classes = checking.agreed_num_classes(num_classes, names, columns)
        if values.ndim == 1:
            if unknown is not None:
                raise ValueError(
                    f"Expected unknown only with (N, C) multi-hot labels, but got {unknown!r} with "
                    "class ids. Leave out the examples whose class is unknown."
                )
            ids, num_classes = checking.class_ids(values, num_classes)
            self._set(np.bincount(ids, minlength=num_classes), len(ids), names, labels=ids)
        else:
            matrix, unknown_counts = checking.multi_hot(values, unknown)
            self._set_multi_hot(matrix, unknown_counts, names)
            checking.warn_of_one_hot(matrix)

    @classmethod
    def of(
        cls, targets: Any, num_classes: int | None = None, *, names: Sequence[str] | None = None
    ) -> Targets:
        """`targets` itself if it is a `Targets` already (renamed if asked), else a new one."""
        if not isinstance(targets, cls):
            return cls(targets, num_classes, names=names)
        if num_classes not in (None, targets.num_classes):
            raise ValueError(f"Expected num_classes of {targets!r}, but got {num_classes}.")
        if names is None or list(names) == targets.names:
            return targets
        renamed = copy.copy(targets)
        renamed.names = checked_names(names)
        checking.agreed_num_classes(targets.num_classes, renamed.names)
        return renamed

    @classmethod
    def from_label_ids(
        cls,
        label_ids: Iterable[Sequence[Any]],
        num_classes: int | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> Targets:
        """Multi-hot targets from the labels of each example as a list (which may be empty).

        Args:
            label_ids: for each example its class ids, or the names of its classes.
            num_classes: C; not needed where there are names.
            names: of the classes; by default, for lists of strings, the sorted strings.

        Example:
            >>> Targets.from_label_ids([[0, 2], [], [2]], num_classes=3).counts.tolist()
            [1, 0, 2]
            >>> films = Targets.from_label_ids([["Comedy", "Drama"], ["Drama"]])
            >>> films.names, films.counts.tolist()
            (['Comedy', 'Drama'], [1, 2])
        """
        made = cls.__new__(cls)
        matrix, known = from_label_ids(label_ids, num_classes, names)
        made._set_multi_hot(*checking.multi_hot(matrix, None), known)
        return made

    @classmethod
    def from_counts(cls, counts: Any, *, names: Sequence[str] | None = None) -> Targets:
        """Targets of examples that carry elements: pixels, tokens or boxes, each of one class.

        Samplers draw examples; losses and rates count elements.

        Args:
            counts: `(N, C)` whole numbers from 0 up: how many elements of each class each example
                carries. Dense or sparse, of NumPy, torch, SciPy or pandas.
            names: of the classes, in the order of the columns.

        Raises:
            ValueError: counts that are negative, not whole, or not of shape `(N, C)`.

        Example:
            >>> images = Targets.from_counts([[90, 10], [100, 0]], names=["road", "sign"])
            >>> images.counts.tolist(), images.support.tolist()
            ([190, 10], [2, 1])
        """
        values, names = read(counts, names)
        matrix = checking.element_counts(values)
        sums = np.asarray(matrix.sum(axis=0, dtype=np.int64)).reshape(-1)
        made = cls.__new__(cls)
        made._set(sums, matrix.shape[0], names, matrix=matrix)
        return made

    @classmethod
    def from_class_counts(
        cls, counts: Any, num_examples: int | None = None, *, names: Sequence[str] | None = None
    ) -> Targets:
        """Targets without an index, from the number of examples of each class: for streams.

        Policies and losses need no more than this. What draws examples by their position, such as
        the samplers, raises a `ValueError`.

        Args:
            counts: `(C,)` whole numbers from 0 up.
            num_examples: N where an example may carry several labels; by default each carries
                one, and N is the sum.
            names: of the classes.

        Example:
            >>> Targets.from_class_counts([900, 90, 10])
            Targets(single-label class counts, 1,000 examples, 3 classes)
        """
        values, names = read(counts, names)
        sums, total = checking.class_counts(values, num_examples)
        made = cls.__new__(cls)
        made._set(sums, total, names, multilabel=num_examples is not None)
        return made

    def __len__(self) -> int:
        return self.num_examples

    def __repr__(self) -> str:
        kind = "multilabel" if self.multilabel else "single-label"
        if not self.indexed:
            kind += " class counts"
        kind = "element counts" if self.elements else kind
        shown = "" if self.names is None else f": {self.listed(range(self.num_classes))}"
        return f"Targets({kind}, {len(self):,} examples, {self.num_classes:,} classes{shown})"

    @property
    def elements(self) -> bool:
        """Whether examples carry elements, such as pixels or boxes, each of one class."""
        return self.matrix is not None and not self.multilabel

    @property
    def indexed(self) -> bool:
        """Whether it is known which example carries what: not after `from_class_counts`."""
        return self.labels is not None or self.matrix is not None

    @property
    def empty(self) -> np.ndarray:
        """Ids of the classes that no example carries."""
        return np.flatnonzero(self.counts == 0)

    def listed(self, class_ids: Sequence[int] | np.ndarray, most: int = 5) -> str:
        """The first of these classes for a message, by name where they have names.

        Example:
            >>> Targets(["cat", "dog"]).listed([0, 1]), Targets([0, 1, 2]).listed([0, 1, 2], most=2)
            ("'cat', 'dog'", '0, 1, … (3 in all)')
        """
        names = self.names
        return checking.some(
            class_ids if names is None else [repr(names[c]) for c in class_ids], most
        )

    def as_tensor(self, targets: Any, argument: str = "targets") -> torch.Tensor:
        """Targets of some examples, as a loader or a table gives them; names become class ids.

        `argument` is what an error calls them.

        Example:
            >>> Targets(["cat", "dog", "dog"]).as_tensor(["dog", "cat"])
            tensor([1, 0])
        """
        named = isinstance(targets, list | tuple) and bool(targets) and isinstance(targets[0], str)
        if isinstance(targets, torch.Tensor) or not (named or hasattr(targets, "__array__")):
            return torch.as_tensor(targets)
        array = np.asarray(targets)
        if array.dtype.kind == "O" and not any(isinstance(value, str) for value in array.flat):
            array = np.array(array.tolist())  # numbers in a column for anything
        if array.dtype.kind not in "OU":  # a column's own array may be read-only
            return torch.as_tensor(np.require(array, requirements=["C", "W"]))
        number = {name: c for c, name in enumerate(self.names or [])}
        names = array.ravel().tolist()
        strange = [name for name in names if name not in number]
        if strange:
            known = self.listed(range(self.num_classes)) if number else "numbers alone"
            raise ValueError(
                f"Expected {argument} to be ids, or names that are known ({known}), but got "
                f"{strange[0]!r}."
            )
        return torch.tensor([number[name] for name in names]).view(array.shape)

    def require_index(self, user: str) -> None:
        """Raise if there are class counts alone; `user` is named in the error."""
        if not self.indexed:
            raise ValueError(
                f"Expected targets of {user} to hold the labels of every example, but got "
                f"{self!r}. Pass Targets(labels), or balance the stream with equipoise.streams."
            )

    def require_single_label(self, user: str) -> np.ndarray:
        """The class ids; `user` is named in the error where an example has no single class."""
        self.require_index(user)
        if self.labels is None:
            raise ValueError(f"Expected targets of {user} to be (N,) class ids, but got {self!r}.")
        return self.labels

    def require_every_class(self, user: str) -> None:
        """Raise if a class has no example, where nothing could be done without one."""
        if len(self.empty):
            raise ValueError(
                f"Expected every class in targets of {user} to have at least one example, but "
                f"of {self.num_classes} classes these have none: {self.listed(self.empty)}. "
                f"{checking.NUMBERING}"
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

    @cached_property
    def checksum(self) -> int:
        """A checksum of the labels, by which a saved state knows its data set again."""
        if self.matrix is None:
            return zlib.crc32((self.counts if self.labels is None else self.labels).data)
        checksum = zlib.crc32(self.matrix.indptr.data)
        return zlib.crc32(self.matrix.data.data, zlib.crc32(self.matrix.indices.data, checksum))

    def _set_multi_hot(self, matrix: csr_matrix, unknown: np.ndarray, names: Names) -> None:
        counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
        self._set(counts, matrix.shape[0], names, matrix=matrix, multilabel=True)
        self.unknown_counts = unknown

    def _set(
        self,
        counts: np.ndarray,
        num_examples: int,
        names: Names,
        *,
        labels: np.ndarray | None = None,
        matrix: csr_matrix | None = None,
        multilabel: bool = False,
    ) -> None:
        checking.agreed_num_classes(len(counts), names)
        self.counts, self.num_examples, self.names = counts, num_examples, names
        self.labels, self.matrix, self.multilabel = labels, matrix, multilabel
        self.num_classes = len(counts)
        self.support = counts
        if matrix is not None and not multilabel:
            self.support = np.bincount(matrix.indices, minlength=len(counts))
        self.unknown_counts = np.zeros_like(counts)
        if len(self.empty) and not multilabel:
            numbered = labels is not None and names is None
            checking.warn_of_empty(self.listed(self.empty), len(counts), numbered)
