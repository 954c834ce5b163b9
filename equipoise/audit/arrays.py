"""Labels in the files of NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from equipoise.targets import Targets
from equipoise.targets.checking import some

__all__ = ["LABELS", "Labels", "chosen", "from_array", "listed", "opened", "read_npy", "read_npz"]

# What arrays and columns of labels are called, in any case; the first that is there is taken.
LABELS = [
    *("labels", "label", "targets", "target", "class", "class_id", "classid", "category", "y"),
    *("y_train", "train_labels", "labels_train", "train_targets", "train_y"),
    *("genre", "genres", "tags", "fine_label"),
]
NAMES = ("label_names", "class_names", "target_names", "classes", "names")
CSR_PARTS = ("data", "indices", "indptr", "shape")

Labels = tuple[Targets, list[str] | None]


def read_npy(path: Path) -> Labels:
    """Such an array as `read_npz` takes, alone."""
    with path.open("rb") as file:
        return from_array(
            _loaded(path, np.ndarray, lambda: np.load(file, allow_pickle=False)), None
        )


def read_npz(path: Path, field: str | None) -> Labels:
    """Class ids or names `(N,)` or `(N, 1)`, or multi-hot `(N, C)`; names of the classes.

    Under `field` or a name such as y, labels, targets, y_train; as CSR under `{field}_data`,
    `_indices`, `_indptr`, `_shape`, or as `scipy.sparse.save_npz` writes it. Names under
    `label_names` or `class_names`. Ids far above the number of examples are taken as names.
    """
    from scipy.sparse import csr_matrix, load_npz

    with opened(path) as (files, load):
        if field is None and {*CSR_PARTS, "format"} <= {*files}:
            return Targets(_checked_csr(path, lambda: csr_matrix(load_npz(path)))), None
        sparse = [name.removesuffix("_indptr") for name in files if name.endswith("_indptr")]
        sparse = [name for name in sparse if {f"{name}_{part}" for part in CSR_PARTS} <= {*files}]
        field = chosen(path, field, sparse + files)
        names = next((load(name) for name in NAMES if name in files and name != field), None)
        known = None
        if names is not None and names.ndim == 1 and names.dtype.kind == "U":
            known = names.tolist()
        if field not in sparse:
            return from_array(load(field), known)
        data, indices, indptr, shape = (load(f"{field}_{part}") for part in CSR_PARTS)
        parts, size = (data, indices, indptr), tuple(shape.ravel().tolist())
        return Targets(_checked_csr(path, lambda: csr_matrix(parts, size))), known


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    """The names of the arrays in an .npz, and what reads one of them."""
    with path.open("rb") as file:
        stored = _loaded(path, NpzFile, lambda: np.load(file, allow_pickle=False))
        yield list(stored.files), lambda name: _loaded(path, np.ndarray, lambda: stored[name])


def _loaded(path: Path, kind: type, load: Callable[[], Any]) -> Any:
    """What `load` reads from a NumPy file, or the ValueError that says why it is nothing."""
    whole = f"Expected {path} to be a whole {path.suffix} file of arrays,"
    try:
        found = load()
    except Exception as error:  # a damaged file raises all kinds of things
        if "Object arrays" in str(error):
            raise ValueError(
                f"Expected {path} to hold plain arrays, but got pickled Python objects, which are "
                "not read because they can run any code. Save numbers or text (dtype=str)."
            ) from error
        # NumPy takes for a pickle what it does not know
        reason = "" if "pickle" in str(error) else f" ({error or type(error).__name__})"
        raise ValueError(f"{whole} but it is damaged or none{reason}.") from error
    if not isinstance(found, kind):
        raise ValueError(f"{whole} but it is damaged or none.")
    return found


def chosen(path: Path, field: str | None, there: list[str]) -> str:
    """`field`, or the one that is named as labels are, or the only one."""
    if field is not None:
        if field not in there:
            raise ValueError(f"Expected {path} to hold {field!r}, but it holds {listed(there)}.")
        return field
    likely = [name for label in LABELS for name in there if name.lower() == label]
    if not likely and len(there) != 1:
        raise ValueError(
            f"Expected {path} to hold labels under a name such as y, labels or targets, but it "
            f"holds {listed(there)}. Say which with --field."
        )
    return likely[0] if likely else there[0]


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for an error message, the first ones of many."""
    return some(names, most) or "nothing"


def _checked_csr(path: Path, make: Callable[[], Any]) -> Any:
    """The CSR matrix of `make`, which is what it says it is."""
    try:
        matrix = make()
        matrix.check_format(full_check=True)  # else an index out of range is followed
    except Exception as error:  # SciPy, too, trusts its files
        raise ValueError(f"Expected {path} to hold a CSR matrix, but: {error}.") from error
    return matrix


def from_array(values: np.ndarray, names: list[str] | None) -> Labels:
    """Class ids or class names `(N,)` or `(N, 1)`; anything else is for `Targets` to judge."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.size == 0 or values.dtype.kind == "O":
        return Targets(values), names
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    # Ids in a data base rather than numbers from 0 up
    far = (
        values.dtype.kind in "iu" and values.min() >= 0 and values.max() >= max(10**4, len(values))
    )
    if values.dtype.kind == "U" or far:
        found, ids = np.unique(values, return_inverse=True)
        return Targets(ids), [str(name) for name in found]
    targets = Targets(values)
    if names is not None and len(names) > targets.num_classes:
        targets = Targets(values, num_classes=len(names))
    return targets, names
