"""Label sets: which examples carry exactly the same labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.targets import Targets

__all__ = ["label_set_ids"]


def label_set_ids(targets: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the distinct label sets: `(N,)` set of each example; `(S,)` first example and size.

    Sets are told apart by 64-bit hashes, sums of one random number a label, and numbered in the
    hashes' order, which depends on the labels alone. For N examples the chance that two different
    sets are taken for one is below N² / 2^65. Linear in the number of positives.

    Args:
        targets: anything that `Targets` takes; with class ids the sets are the classes.

    Example:
        >>> ids, first, sizes = label_set_ids([[1, 0], [1, 1], [1, 0]])
        >>> bool(ids[0] == ids[2]), bool(ids[0] == ids[1]), sorted(sizes.tolist())
        (True, False, [1, 2])
    """
    targets = Targets.of(targets)
    hashes = np.random.default_rng(0x5E75).integers(0, 2**64, targets.num_classes, np.uint64)
    if targets.matrix is None:
        row_hash = hashes[targets.require_single_label("label_set_ids")]
    else:
        # Sums wrap modulo 2^64, so differences of a running sum are the rows' own sums.
        running = np.zeros(targets.matrix.nnz + 1, np.uint64)
        np.cumsum(hashes.take(targets.matrix.indices), out=running[1:])
        row_hash = np.diff(running.take(targets.matrix.indptr))
    _, first, ids, sizes = np.unique(
        row_hash, return_index=True, return_inverse=True, return_counts=True
    )
    return ids, first, sizes
