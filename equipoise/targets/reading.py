"""What people keep labels in, read as one NumPy array or one sparse matrix, with class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from equipoise.targets.checking import agreed_num_classes, class_ids

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Names", "checked_names", "from_label_ids", "read"]

Names = list[str] | None

_FORMS = "(N,) class ids or names, or an (N, C) matrix"
_RAGGED = (
    f"Expected labels to be {_FORMS}, but got rows of different lengths. "
    "For the labels of each row as a list use Targets.from_label_ids."
)


@runtime_checkable
class _Categorical(Protocol):
    """`pandas.Categorical` and `CategoricalIndex`."""

    categories: Any
    codes: Any


@runtime_checkable
class _Series(Protocol):
    """`pandas.Series` and `Index`."""

    array: Any
    to_numpy: Any


@runtime_checkable
class _Frame(Protocol):
    """A data frame of pandas or polars."""

    columns: Any
    to_numpy: Any


@runtime_checkable
class _ScipySparse(Protocol):
    tocsr: Any


@runtime_checkable
class _HubColumn(Protocol):
    """A column of a Hugging Face data set, `dataset["label"]`, from datasets 4 on."""

    source: Any
    column_name: str
    __getitem__: Any


@runtime_checkable
class _HubDataset(Protocol):
    features: Any
    column_names: list[str]


def read(labels: Any, names: Sequence[str] | None) -> tuple[Any, Names]:
    """`(N,)` or `(N, C)` numbers, not yet checked, as an array or scipy sparse; and the names.

    `names` are those asked for; `None` for those that come with the labels, if any do.
    """
    asked = None if names is None else checked_names(names)
    values, found = _contents(labels)
    if not isinstance(values, np.ndarray):
        return values, asked or found
    if values.dtype.kind in "OUST":
        values, found = _numbers_or_words(values, asked)
    elif asked is not None and found is not None and _categorical(labels) is not None:
        values = _renumbered(values, found, asked)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"Expected labels to be numbers or strings, but got {values.dtype}.")
    if values.ndim not in (1, 2):
        raise ValueError(f"Expected labels to be {_FORMS}, but got shape {values.shape}.")
    if values.size == 0:
        raise ValueError(f"Expected labels of at least one example, but got shape {values.shape}.")
    return values, asked or found


def _contents(labels: Any) -> tuple[Any, Names]:
    """Values of any kind, numbers or words, and the names that come with them."""
    if isinstance(labels, np.ndarray):
        return labels, None
    if isinstance(labels, torch.Tensor):
        return _from_tensor(labels.detach()), None
    if isinstance(labels, _ScipySparse):
        return labels.tocsr(), None
    if isinstance(labels, _Frame):
        return labels.to_numpy(), [str(name) for name in labels.columns]
    if (categorical := _categorical(labels)) is not None:
        return _from_categorical(categorical)
    if isinstance(labels, _HubColumn):
        return _from_hub_column(labels)
    if (targets := getattr(labels, "targets", None)) is not None:
        return _from_torchvision(labels, targets)
    if isinstance(labels, Dataset):
        return _from_torch_dataset(labels)
    if isinstance(labels, _HubDataset):
        raise TypeError(
            f"Expected labels to be {_FORMS}, but got a data set with the columns "
            f"{labels.column_names}. Pass the column that holds the labels, dataset[column]."
        )
    try:
        values = np.asarray(labels)
        if values.dtype.kind == "U" and values.ndim == 1:  # a NaN or None among strings
            values = np.array(labels, dtype=object)
        return values, None
    except ValueError as error:
        raise TypeError(_RAGGED) from error


def _categorical(labels: Any) -> _Categorical | None:
    if isinstance(labels, _Series):
        labels = labels.array
    return labels if isinstance(labels, _Categorical) else None


def _from_tensor(labels: torch.Tensor) -> Any:
    labels = (labels.float() if labels.dtype == torch.bfloat16 else labels).cpu()
    if labels.layout == torch.strided:
        return labels.numpy()
    from scipy.sparse import csr_matrix

    csr = labels.to_sparse_csr()
    parts = (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
    return csr_matrix(parts, shape=(csr.shape[0], csr.shape[1]))


def _from_categorical(labels: _Categorical) -> tuple[np.ndarray, Names]:
    codes = np.asarray(labels.codes)
    if (missing := np.flatnonzero(codes < 0)).size:
        raise ValueError(
            f"Expected every example to have a label, but got none at position {missing[0]} "
            f"({missing.size} in all). Leave those examples out."
        )
    return codes, [str(category) for category in labels.categories]


def _from_hub_column(column: _HubColumn) -> tuple[Any, Names]:
    feature = column.source.features[column.column_name]
    if (names := getattr(feature, "names", None)) is not None:  # ClassLabel
        return np.asarray(column[:]), list(names)
    if (names := getattr(getattr(feature, "feature", None), "names", None)) is not None:
        return from_label_ids(column[:], None, list(names))  # lists of ClassLabel
    return _contents(column[:])


def _from_torchvision(dataset: Any, targets: Any) -> tuple[Any, Names]:
    """`.targets`, and `.classes` where they are names of as many classes as there may be."""
    values, names = _contents(targets)
    classes = getattr(dataset, "classes", None)
    if names is None and isinstance(classes, list | tuple) and len(classes) == len(set(classes)):
        numbers = isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and values.size
        fits = values.max() < len(classes) if numbers and values.ndim == 1 else False
        fits |= len(values.shape) == 2 and values.shape[1] == len(classes)
        if fits and all(isinstance(name, str) for name in classes):
            names = list(classes)
    return values, names


def _from_torch_dataset(dataset: Dataset) -> tuple[Any, Names]:
    if isinstance(dataset, Subset):
        values, names = _contents(dataset.dataset)
        return values[np.asarray(dataset.indices)], names
    if isinstance(dataset, ConcatDataset):
        return _concatenated([_contents(part) for part in dataset.datasets])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return _contents(dataset.tensors[-1])
    raise TypeError(  # NumPy would read every example
        f"Expected labels, or a data set with `.targets`, but got a {type(dataset).__name__} "
        f"without. Pass its labels themselves: {_FORMS}."
    )


def _concatenated(parts: list[tuple[Any, Names]]) -> tuple[Any, Names]:
    named = [names for _, names in parts if names is not None]
    if different := [names for names in named if names != named[0]]:
        raise ValueError(
            "Expected the parts of a ConcatDataset to have the same classes, but got "
            f"{named[0][:5]} and {different[0][:5]} …. Pass labels that are numbered alike."
        )
    values = [values for values, _ in parts]
    names = named[0] if named else None
    if any(isinstance(part, _ScipySparse) for part in values):
        from scipy.sparse import csr_matrix, vstack

        return vstack([csr_matrix(part) for part in values], "csr"), names
    return np.concatenate(values), names


def _numbers_or_words(values: np.ndarray, names: Names) -> tuple[np.ndarray, Names]:
    """Class ids of strings; or numbers, where an object array holds nothing else."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    flat = values.reshape(-1).tolist()
    kinds = set(map(type, flat))
    if kinds and all(issubclass(kind, str) for kind in kinds):
        if len(flat) != len(values):  # a single column of a table is as good as one
            raise TypeError(
                f"Expected labels to be {_FORMS}, but got strings of shape {values.shape}. Pass "
                "the column that holds the classes; for lists of names Targets.from_label_ids."
            )
        return _ids_of_words(flat, names)
    if kinds & {list, tuple, set, np.ndarray}:
        raise TypeError(_RAGGED)
    if values.ndim and str not in kinds and (numbers := np.array(flat)).dtype.kind in "biuf":
        return numbers.reshape(values.shape), None
    usual = next((kind for kind in (str, int, float) if kind in kinds), None)
    odd = next((i for i, value in enumerate(flat) if type(value) is not usual), 0)
    what = f"{flat[odd]!r} at position {odd}" if values.ndim else f"a {type(flat[0]).__name__}"
    mend = "Leave out examples without a label; of a data set pass the labels."
    if usual is str and flat[odd] != flat[odd]:
        mend += ' A class called "NA" or "None" stays one with read_csv(…, keep_default_na=False).'
    raise TypeError(f"Expected labels to be numbers or strings, but got {what}. {mend}")


def _ids_of_words(words: list[str], names: Names) -> tuple[np.ndarray, list[str]]:
    """Class ids of strings: their places in `names`, or else among the sorted strings."""
    names = sorted(set(words)) if names is None else names
    place = {name: c for c, name in enumerate(names)}
    if unknown := sorted(set(words) - place.keys()):
        raise ValueError(
            f"Expected labels to be among the {len(names)} names, but got {unknown[0]!r} "
            f"at position {words.index(unknown[0])} ({len(unknown)} such names in all)."
        )
    return np.fromiter(map(place.__getitem__, words), np.int64, len(words)), names


def _renumbered(codes: np.ndarray, categories: list[str], names: list[str]) -> np.ndarray:
    """Codes of categories as places in `names`, which may lack categories without examples."""
    used = np.unique(codes)
    table = np.zeros(len(categories), np.int64)
    table[used], _ = _ids_of_words([categories[code] for code in used], names)
    return table[codes]


def from_label_ids(
    label_ids: Iterable[Any], num_classes: int | None, names: Sequence[str] | None
) -> tuple[csr_matrix, Names]:
    """CSR of ones from one sequence of label ids, or names, an example; and the names."""
    from scipy.sparse import csr_matrix

    known = None if names is None else checked_names(names)
    rows = [np.asarray(ids).reshape(-1) for ids in label_ids]
    flat = np.concatenate([ids for ids in rows if len(ids)] or [np.zeros(0, np.int64)])
    if flat.dtype.kind in "OUST":
        flat, known = _numbers_or_words(flat, known)
    classes = agreed_num_classes(num_classes, known)
    if classes is None:
        raise ValueError(
            "Expected num_classes or names beside label ids, but got neither: the largest id that "
            "occurs need not be the last."
        )
    ids, _ = class_ids(flat, classes) if len(flat) else (flat, 0)
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in rows], dtype=np.int64)])
    ones = np.ones(len(ids), np.uint8)
    return csr_matrix((ones, ids.astype(np.int32), indptr), (len(rows), classes)), known


def checked_names(names: Sequence[str]) -> list[str]:
    """A list of `names`, each of which is a string and differs from the others."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"Expected names to be a list of strings, but got {names!r}.")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice or not len(names):
        raise ValueError(f"Expected names to differ, one a class, but got {twice} more than once.")
    return [str(name) for name in names]
