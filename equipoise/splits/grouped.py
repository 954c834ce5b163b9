"""Parts of a data set that keep groups whole, and in which every class has its share."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["grouped_parts"]


def grouped_parts(values: Any, groups: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """`(N,)` part of each example: whole groups, every class spread by the parts' shares.

    From the largest down, and at random among groups whose sizes lie within the same power of two,
    each group goes to the part j where it adds least to Σ_j Σ_c (h_jc − s_j n_c)² / (s_j n_c), with
    h_jc of the n_c examples of class c in part j, whose share is s_j. All examples together count
    as one more class. scikit-learn's `StratifiedGroupKFold` is greedy in the same way and spreads
    classes as evenly, but takes class ids and equal shares alone, and about ten times as long.

    `values` are `(N,)` class ids or an `(N, C)` CSR matrix; `groups` ids from 0 up without gaps;
    `shares` those of the parts, with sum 1. No part stays empty.
    """
    table = _examples_by_class(values, groups)
    total = np.asarray(table.sum(axis=0)).reshape(-1)
    scale = 1 / np.maximum(total, 1)
    order = np.random.default_rng(seed).permutation(table.shape[0])
    sizes = np.asarray(table.power(2) @ scale).reshape(-1)
    octave = np.frexp(sizes)[1]
    order = order[np.argsort(-octave[order], kind="stable")]
    off = -np.outer(shares, total)
    part, filled = np.zeros(len(order), np.int64), np.zeros(len(shares), bool)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        entries = slice(table.indptr[group], table.indptr[group + 1])
        classes, count = table.indices[entries], table.data[entries]
        cost = (2 * off[:, classes] + count) @ (count * scale[classes]) / shares
        if left <= np.count_nonzero(~filled):
            cost[filled] = np.inf
        part[group] = best = int(np.argmin(cost))
        off[best, classes] += count
        filled[best] = True
    return part[groups]


def _examples_by_class(values: Any, groups: np.ndarray) -> Any:
    """CSR `(G, C + 1)`: of each group the examples that carry each class, and all of them."""
    from scipy.sparse import csr_matrix, hstack

    n = len(groups)
    if isinstance(values, np.ndarray):
        values = csr_matrix((np.ones(n), values, np.arange(n + 1)))
    carried = csr_matrix((np.ones(values.nnz), values.indices, values.indptr), values.shape)
    grouped = csr_matrix((np.ones(n), (groups, np.arange(n))))
    table = csr_matrix(grouped @ hstack([carried, csr_matrix(np.ones((n, 1)))], format="csr"))
    table.sort_indices()
    return table
