"""Data from `.npz` and `.arff` files: inputs with their labels, and who is to test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from equipoise.arff import read_arff
from equipoise.targets import Targets
from equipoise.training.arrays import Arrays, dense
from equipoise.training.label_files import (
    CSR_PARTS,
    LABELS,
    NAMES,
    arff_labels,
    checked_csr,
    from_array,
    listed,
    load_checked,
)
from equipoise.training.splitting import HELD, TEST, TRAIN

__all__ = ["Contents", "read_arff_file", "read_npz"]

# What arrays of inputs are called, in any case, alone or with the name of a part
INPUTS = ("x", "images", "image", "features", "inputs", "data")
PARTS = {"train": TRAIN, "test": TEST, "val": HELD, "valid": HELD, "validation": HELD}
PARTS |= {"holdout": HELD}
STEMS = [name for name in LABELS if "train" not in name]


@dataclass
class Contents:
    """What a file or folder holds; `split` is `(N,)` of 0, 1, 2 (see `split_ids`) or `None`."""

    inputs: Any
    targets: Targets
    names: list[str] | None
    split: np.ndarray | None


def read_arff_file(path: Path, labels: str | None) -> Contents:
    """Features and labels; an `.arff` says nothing of a split."""
    data = read_arff(path, arff_labels(labels))
    features = data.features
    if features.shape[1] == 0:
        raise ValueError("Expected attributes beside the labels, but there are none.")
    if features.nnz > 0.3 * np.prod(features.shape):
        return Contents(Arrays(features.toarray()), data.targets, data.label_names, None)
    return Contents(Arrays(features), data.targets, data.label_names, None)


def read_npz(path: Path, inputs: str | None, field: str | None) -> Contents:
    """Inputs (as arrays) and labels: of all examples with a `split`, or a pair of them a part."""
    from scipy.sparse import csr_matrix, vstack

    with path.open("rb") as file:
        stored = load_checked(path, NpzFile, lambda: np.load(file, allow_pickle=False))

        def load(name: str) -> Any:
            return load_checked(path, np.ndarray, lambda: stored[name])

        def load_any(name: str) -> Any:
            if name not in sparse:
                return load(name)
            data, indices, indptr, shape = (load(f"{name}_{part}") for part in CSR_PARTS)
            size = tuple(shape.ravel().tolist())
            return checked_csr(path, lambda: csr_matrix((data, indices, indptr), size))

        files = list(stored.files)
        sparse = [
            name.removesuffix("_indptr")
            for name in files
            if {f"{name.removesuffix('_indptr')}_{part}" for part in CSR_PARTS} <= {*files}
        ]
        there = [n for n in files if not any(n.startswith(f"{s}_") for s in sparse)] + sparse
        xs = _parts(path, there, INPUTS, inputs, "inputs", "x, images or features", "--inputs")
        ys = _parts(path, there, STEMS, field, "labels", "y, labels or targets", "--field")
        if {*xs} != {*ys}:
            raise ValueError(
                f"Expected inputs and labels of the same parts, but got {listed([*xs.values()])} "
                f"and {listed([*ys.values()])}."
            )
        all_x: list[Any] = []
        all_y: list[Any] = []
        split: list[np.ndarray] = []
        for part, x_name in xs.items():
            x, y = load_any(x_name), load_any(ys[part])
            _check_inputs(x, x_name)
            if x.shape[0] != y.shape[0]:
                raise ValueError(
                    f"Expected {x_name} and {ys[part]} to be of the same examples, but got "
                    f"{x.shape[0]} and {y.shape[0]}."
                )
            if all_x and (x.shape[1:], y.shape[1:]) != (all_x[0].shape[1:], all_y[0].shape[1:]):
                raise ValueError(
                    f"Expected {x_name} and {ys[part]} to be shaped as {xs['train']} and "
                    f"{ys['train']} are, but got {x.shape} and {y.shape}."
                )
            all_x.append(x)
            all_y.append(y)
            split.append(np.full(x.shape[0], PARTS[part], np.int8))
        x = vstack(all_x, "csr") if hasattr(all_x[0], "tocsr") else np.concatenate(all_x)
        known = [load(name) for name in NAMES if name in files and name not in xs.values()]
        names = known[0].tolist() if known and known[0].dtype.kind == "U" else None
        if hasattr(all_y[0], "tocsr"):
            targets = Targets(vstack(all_y, "csr"))
        else:
            targets, names = from_array(np.concatenate(all_y), names)
        given = np.concatenate(split) if len(split) > 1 else None
        if given is None and "split" in files:
            given = _split(load("split"), x.shape[0])
        return Contents(_features(x), targets, names, given)


def _parts(
    path: Path, there: list[str], stems: Any, given: str | None, what: str, such: str, option: str
) -> dict[str, str]:
    """The array of each part ("train" alone: of all examples), `given` or found by its name."""
    if given is not None:
        if given not in there:
            raise ValueError(f"Expected {path} to hold {given!r}, but it holds {listed(there)}.")
        found = {"train": given}
        for part in PARTS:
            other = re.sub(r"train(ing)?", part, given, flags=re.IGNORECASE)
            if other != given and other in there:
                found.setdefault(part, other)
        return found
    for stem in stems:
        for forms in ("{stem}", "{stem}_{part}", "{part}_{stem}"):
            found = {}
            for part in PARTS if "part" in forms else ("train",):
                wanted = forms.format(stem=stem, part=part)
                match = [name for name in there if name.lower() == wanted]
                if match and PARTS[part] not in [PARTS[p] for p in found]:
                    found[part] = match[0]
            if "train" in found:
                return found
    raise ValueError(
        f"Expected {path} to hold {what} under a name such as {such}, but it holds "
        f"{listed(there)}. Say which with {option}."
    )


def _check_inputs(x: Any, name: str) -> None:
    if x.ndim not in (2, 3, 4) or 0 in x.shape or x.dtype.kind not in "buif":
        raise ValueError(
            f"Expected {name} to be features (N, F) or images (N, H, W) or (N, H, W, C) of "
            f"numbers, but got {x.dtype} of shape {tuple(x.shape)}."
        )


def _features(x: Any) -> Any:
    """Images as they are; features as float32, sparse where few are not 0."""
    if x.ndim != 2:
        return x
    x = x.astype(np.float32)
    if hasattr(x, "nnz") and x.nnz > 0.3 * np.prod(x.shape):
        x = dense(x)
    if np.isinf(x.data if hasattr(x, "nnz") else x).any():
        raise ValueError("Expected features to be finite or NaN (missing), but some are infinite.")
    return x


def _split(values: np.ndarray, n: int) -> np.ndarray:
    """`split` as numbers, from numbers or the names of parts."""
    if values.dtype.kind == "U":
        unknown = sorted({*np.unique(values).tolist()} - {*PARTS})
        if unknown:
            raise ValueError(f"Expected split to be train, test or val, but got {listed(unknown)}.")
        values = np.array([PARTS[name] for name in values.ravel().tolist()])
    if values.shape != (n,) or not np.isin(values, (TRAIN, TEST, HELD)).all():
        raise ValueError(
            f"Expected split to be one of 0 (training), 1 (test) and 2 (hold-out) for each of "
            f"{n} examples, but got {values.dtype} of shape {values.shape}."
        )
    return values.astype(np.int8)
