"""multilabel_holdout_split: a hold-out in which every label has its share."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.targets import Targets

__all__ = ["multilabel_holdout_split"]


def multilabel_holdout_split(
    targets: Any, holdout: float | int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A stratified split of multilabel examples: sorted ids for training, and for the hold-out.

    Every label's examples are shared out in the proportion of the two sides, as nearly as whole
    examples allow, and every label keeps at least one example for training. The hold-out has
    exactly the asked size, unless what training must keep leaves fewer.

    Labels are gone through from the rarest, as in iterative stratification (Sechidis, Tsoumakas
    and Vlahavas 2011, ECML PKDD): a label's examples that have no side yet are divided so that its
    share is met, those first into the hold-out whose other labels lack most there. Unlike there,
    a label's examples are divided at once, and then examples are exchanged between the sides, many
    at a time, as long as that lowers Σ_l (h_l − s n_l)² / n_l, with h_l of the label's n_l examples
    held out and s the share. Linear in the number of positives.

    Args:
        targets: `(N, C)` multi-hot, anything multilabel that `Targets` takes.
        holdout: how many examples to hold out, or which share of them (a float below 1).
        seed: of the private generator.

    Raises:
        ValueError: single-label targets (use `holdout_split`), or a size not below N.

    Example:
        >>> labels = [[1, 0, 0]] * 6 + [[0, 1, 0]] * 4 + [[1, 1, 1]] * 2
        >>> train, held = multilabel_holdout_split(labels, 6)
        >>> np.array(labels)[held].sum(axis=0).tolist()
        [4, 3, 1]
    """
    targets = Targets.of(targets)
    if targets.matrix is None:
        raise ValueError(
            f"Expected targets to be (N, C) multi-hot, but got {targets!r}. "
            "For class ids use equipoise.holdout_split."
        )
    n = targets.num_examples
    whole = isinstance(holdout, int | np.integer)
    size = int(holdout) if whole else round(float(holdout) * n)
    if isinstance(holdout, bool) or not 0 < size < n:
        raise ValueError(
            f"Expected holdout to be a share in (0, 1) or a number of examples below {n}, "
            f"but got {holdout!r}."
        )
    split = _Split(targets, size, np.random.default_rng(seed))
    split.divide()
    split.fill()
    split.exchange()
    held = np.flatnonzero(split.side == 1)
    return np.setdiff1d(np.arange(n), held, assume_unique=True), held


class _Split:
    """Sides of all examples (−1 none yet, 0 training, 1 hold-out), and what each label lacks."""

    def __init__(self, targets: Targets, size: int, rng: np.random.Generator) -> None:
        self.matrix = targets.matrix.astype(np.float32)  # type: ignore[union-attr]
        self.by_label = self.matrix.tocsc()
        self.counts, self.size, self.rng = targets.counts, size, rng
        self.share = size / targets.num_examples
        self.want = self.counts * self.share
        self.side = np.full(targets.num_examples, -1, np.int8)
        self.kept = np.zeros(targets.num_examples, bool)
        for label in np.flatnonzero((self.counts > 0) & (self.counts - self.want < 5)):
            bag = self._bag(label)
            if not self.kept[bag].any():
                self.kept[rng.choice(bag)] = True
        self.side[self.kept] = 0
        self.held = np.zeros(len(self.counts))

    def divide(self) -> None:
        matrix = self.matrix
        for label in np.argsort(self.counts, kind="stable"):
            bag = self._bag(label)
            bag = bag[self.side[bag] < 0]
            if not len(bag):
                continue
            lacking = self.want[label] - self.held[label]
            take = int(np.clip(np.floor(lacking + self.rng.random()), 0, len(bag)))
            rows = matrix[bag]
            lack = (self.want - self.held) / np.maximum(self.want, 1)
            order = np.argsort(-(rows @ lack) + 1e-3 * self.rng.random(len(bag)), kind="stable")
            taken = order[:take]
            self.side[bag] = 0
            self.side[bag[taken]] = 1
            self.held += np.bincount(rows[taken].indices, minlength=len(self.held))

    def fill(self) -> None:
        """Examples without labels, and then any, make up the size."""
        missing = self.size - int((self.side == 1).sum())
        free = self.rng.permutation(np.flatnonzero(self.side < 0))
        self.side[free] = 0
        self.side[free[: max(missing, 0)]] = 1
        missing -= min(max(missing, 0), len(free))
        self.held = self.matrix.T @ (self.side == 1).astype(np.float64)
        while missing:  # a few at a time, each lot where it serves best
            side = 0 if missing > 0 else 1
            able = np.flatnonzero((self.side == side) & ~self.kept)
            if not len(able):
                return
            pull = self._pull(into=missing > 0)[able]
            moved = able[np.argsort(pull, kind="stable")[: max(1, abs(missing) // 8)]]
            self.side[moved] = 1 - side
            self.held += (1 - 2 * side) * self._labels(moved)
            missing -= (1 - 2 * side) * len(moved)

    def exchange(self, rounds: int = 300, patience: int = 30) -> None:
        """Swap examples between the sides while that brings labels nearer to their share."""
        pairs, value, failures = max(1, len(self.side) // 50), self._value(), 0
        for _ in range(rounds):
            # from a random half, so that the chosen ones are not all alike
            half = self.rng.random(len(self.side)) < 0.5
            ins = np.flatnonzero((self.side == 0) & ~self.kept & half)
            outs = np.flatnonzero((self.side == 1) & half)
            count = min(pairs, len(ins), len(outs))
            if not count:
                return
            pull_in, pull_out = self._pull(into=True)[ins], self._pull(into=False)[outs]
            ins = ins[np.argpartition(pull_in, count - 1)[:count]]
            outs = outs[np.argpartition(pull_out, count - 1)[:count]]
            before, self.held = self.held, self.held + self._labels(ins) - self._labels(outs)
            now = self._value()
            if now < value:
                self.side[ins], self.side[outs] = 1, 0
                value, pairs, failures = now, 2 * count, 0
                continue
            self.held, failures = before, failures + 1
            if pairs == 1 and failures > patience:
                return
            pairs = max(1, count // 2)

    def _bag(self, label: Any) -> np.ndarray:
        return self.by_label.indices[self.by_label.indptr[label] : self.by_label.indptr[label + 1]]

    def _labels(self, examples: np.ndarray) -> np.ndarray:
        """How many of these examples carry each label."""
        return np.bincount(self.matrix[examples].indices, minlength=len(self.counts)).astype(float)

    def _pull(self, into: bool) -> np.ndarray:
        """By how much moving each example (into, or out of, the hold-out) raises the sum."""
        off = self.held - self.want
        step = ((2 * off if into else -2 * off) + 1) / np.maximum(self.counts, 1)
        return self.matrix @ step.astype(np.float32)

    def _value(self) -> float:
        return float(((self.held - self.want) ** 2 / np.maximum(self.counts, 1)).sum())
