"""Hold-outs and folds of examples that carry several classes: every class gives its share."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["multilabel_folds", "multilabel_holdout"]

_STRATA = 64  # of the number of labels an example, at most
_SAFE = 20  # a label of which either side expects fewer examples than this gets one of its own
_WINDOW = 1 << 19  # positives looked at for an exchange
_EFFORT = 3e8  # positives looked at in all, within 20 to 100 times the data
_PATIENCE = 60  # exchanges of a single pair that fail, one after the other, before it ends


def multilabel_holdout(matrix: Any, size: int, seed: int) -> np.ndarray:
    """Example ids held out, `size` of them unless what training must keep leaves fewer.

    It starts from every (1/s)-th example in the order of the number of labels, s the share, random
    among equals. Then examples are exchanged between the sides, many at a time, as long as that
    lowers Σ_c (h_c − s n_c)² / n_c, with h_c of the n_c examples of column c held out. The columns
    are the labels, and up to 64 strata of the number of labels. Linear in the number of positives.
    In iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, ECML PKDD), which goes
    through the labels from the rarest, examples of many labels crowd the hold-out.

    `matrix` is `(N, C)` CSR: an example carries the classes whose entries are not 0.
    """
    split = _Split(matrix, size, np.random.default_rng(seed))
    split.start()
    split.exchange()
    return split.order[split.side]


def multilabel_folds(matrix: Any, k: int, seed: int) -> np.ndarray:
    """`(N,)` fold of each example: hold-outs of 1/k, then of 1/(k − 1) of the rest, and so on."""
    fold, rest = np.zeros(matrix.shape[0], np.int64), np.arange(matrix.shape[0])
    for last in range(k - 1, 0, -1):
        held = rest[multilabel_holdout(matrix[rest], round(len(rest) / (last + 1)), seed)]
        fold[held] = last
        rest = np.setdiff1d(rest, held, assume_unique=True)
    return fold


class _Split:
    """Which examples, in a random order, are held out, and how many of each column those are."""

    def __init__(self, matrix: Any, size: int, rng: np.random.Generator) -> None:
        from scipy.sparse import csr_matrix, hstack

        n, num_classes = matrix.shape
        self.size, self.rng, self.order = size, rng, rng.permutation(n)
        cardinality = np.diff(matrix.indptr)
        stratum = _strata(cardinality)
        strata = csr_matrix((np.ones(n, np.float32), stratum, np.arange(n + 1)))
        ones = np.ones(matrix.nnz, np.float32)
        carried = csr_matrix((ones, matrix.indices, matrix.indptr), matrix.shape)
        self.matrix = hstack([carried, strata], format="csr")[self.order]
        self.cardinality = cardinality[self.order]
        counts = np.bincount(matrix.indices, minlength=num_classes)
        self.counts = np.concatenate([counts, np.bincount(stratum)])
        self.want = self.counts * (size / n)
        self.scale = 1 / np.maximum(self.counts, 1)
        self.side = np.zeros(n, bool)
        self.fixed = self._fixed(num_classes)
        self.held = np.zeros(len(self.counts))

    def _fixed(self, num_classes: int) -> np.ndarray:
        """0 or 1 for examples that a rare label needs on that side, −1 for all others."""
        fixed, left = np.full(len(self.side), -1, np.int8), self.size
        expected = np.minimum(self.want, self.counts - self.want)[:num_classes]
        rare = np.flatnonzero((self.counts[:num_classes] > 0) & (expected < _SAFE))
        rare = rare[np.argsort(self.counts[rare], kind="stable")]
        by_label = self.matrix[:, rare].tocsc()
        for first, end in zip(by_label.indptr[:-1], by_label.indptr[1:], strict=True):
            bag = by_label.indices[first:end]
            if not (fixed[bag] == 0).any():
                kept = bag[np.argmin(fixed[bag])]  # a free one, or else one back from the hold-out
                left += fixed[kept] == 1
                fixed[kept] = 0
            free = bag[fixed[bag] < 0]
            if left and len(free) and not (fixed[bag] == 1).any():
                fixed[free[0]] = 1
                left -= 1
        return fixed

    def start(self) -> None:
        """Every (1/s)-th example by the number of labels, and what is fixed."""
        n = len(self.side)
        crossed = np.floor(np.arange(n + 1) * (self.size / n) + self.rng.random())
        self.side[np.argsort(self.cardinality, kind="stable")] = np.diff(crossed) > 0
        self.side[self.fixed == 0], self.side[self.fixed == 1] = False, True
        missing = self.size - int(self.side.sum())
        able = np.flatnonzero((self.side == (missing < 0)) & (self.fixed < 0))
        able = able[np.argsort(self.cardinality[able], kind="stable")]
        count = min(abs(missing), len(able))
        self.side[able[(2 * np.arange(count) + 1) * len(able) // (2 * max(count, 1))]] = missing > 0
        self.held = self._columns(self.matrix[self.side])

    def exchange(self) -> None:
        """Swap examples of a window while that brings columns nearer to their share."""
        n, positives = len(self.side), self.matrix.nnz
        left = n * float(np.clip(_EFFORT / positives, 20, 100))
        width = min(max(1, n * _WINDOW // positives), -(-n // 2))
        alone = self.matrix @ self.scale.astype(np.float32)
        free, pairs, value, failures = self.fixed < 0, max(1, width // 20), self._value(), 0
        while left > 0 and failures < _PATIENCE:
            at = int(self.rng.integers(1 - width, n))
            window = slice(max(at, 0), min(at + width, n))
            left -= window.stop - window.start
            rows = self._rows(window)
            pull = rows @ (2 * (self.held - self.want) * self.scale).astype(np.float32)
            ins = np.flatnonzero(free[window] & ~self.side[window])
            outs = np.flatnonzero(free[window] & self.side[window])
            count = min(pairs, len(ins), len(outs))
            if not count:
                failures += 1
                continue
            # what moving each example alone adds to the sum, the smallest first
            ins = ins[np.argpartition((alone[window] + pull)[ins], count - 1)[:count]]
            outs = outs[np.argpartition((alone[window] - pull)[outs], count - 1)[:count]]
            before, self.held = self.held, self.held + self._columns(rows[ins])
            self.held = self.held - self._columns(rows[outs])
            if (now := self._value()) < value:
                self.side[window.start + ins], self.side[window.start + outs] = True, False
                value, pairs, failures = now, 2 * count, 0
            else:
                self.held, pairs = before, max(1, count // 2)
                failures += count == 1

    def _rows(self, window: slice) -> Any:
        """Rows of the matrix, its values not copied."""
        from scipy.sparse import csr_matrix

        starts = self.matrix.indptr[window.start : window.stop + 1]
        part = slice(starts[0], starts[-1])
        values = (self.matrix.data[part], self.matrix.indices[part], starts - starts[0])
        return csr_matrix(values, shape=(window.stop - window.start, len(self.counts)))

    def _columns(self, rows: Any) -> np.ndarray:
        """How many of these rows have each column."""
        return np.bincount(rows.indices, minlength=len(self.counts)).astype(float)

    def _value(self) -> float:
        return float(((self.held - self.want) ** 2 * self.scale).sum())


def _strata(cardinality: np.ndarray) -> np.ndarray:
    """`(N,)` stratum of each number of labels: about equal parts of the data, small ones joined."""
    _, kind, counts = np.unique(cardinality, return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / len(cardinality)
    return np.unique((middle * _STRATA).astype(int), return_inverse=True)[1][kind]
