"""Log-linear example weights: from one log-weight a label to how often each example is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.targets import Targets
from equipoise.targets.label_sets import label_set_ids

__all__ = ["LabelBalance", "LogLinearWeights", "effective_size", "mean_ir"]


@dataclass(frozen=True, eq=False)
class LabelBalance:
    """What sampling with a log-weight a label reaches. C labels, N examples.

    Attributes:
        log_weight: `(C,)` float64, λ.
        weight: `(N,)` float64, expected repeats of each example in N draws; mean 1.
        frequency_before: `(C,)` float64, share of the examples that carry the label.
        frequency: `(C,)` float64, share of the draws that carry the label.
        shortfall: `(C,)` float64, by which share the label stays below its target (0: met).
        mean_ir_before: MeanIR of the data; labels without examples count 0, as in mldr.
        mean_ir: MeanIR of the draws.
        effective_size: Kish's effective sample size over N.
        cardinality_before: labels an example, mean.
        cardinality: labels a draw, mean.
        iterations: of the solver; 0 where λ was given.
        elements: whether examples carry elements, such as pixels: then frequencies are the shares
            of all elements, and cardinality is elements an example, 1 for the mean of the data.
    """

    log_weight: np.ndarray
    weight: np.ndarray
    frequency_before: np.ndarray
    frequency: np.ndarray
    shortfall: np.ndarray
    mean_ir_before: float
    mean_ir: float
    effective_size: float
    cardinality_before: float
    cardinality: float
    iterations: int = 0
    elements: bool = False

    def __str__(self) -> str:
        worst = int(self.shortfall.argmax())
        one, several = ("class", "elements") if self.elements else ("label", "labels")
        return (
            f"MeanIR {self.mean_ir_before:.2f} → {self.mean_ir:.2f}; effective sample size "
            f"{self.effective_size:.2f} of N; {several} an example {self.cardinality_before:.2f} → "
            f"{self.cardinality:.2f}; an example comes at most {self.weight.max():.1f} times; "
            f"{one} {worst} stays {self.shortfall[worst]:.0%} below its target"
        )


def mean_ir(frequency: np.ndarray) -> float:
    """Mean over labels of the largest frequency over the label's; a frequency of 0 counts 0.

    Example:
        >>> mean_ir(np.array([0.4, 0.1, 0.0]))
        1.6666666666666667
    """
    positive = frequency > 0
    return float((frequency.max() / frequency[positive]).sum() / len(frequency))


class LogLinearWeights:
    """Example weights v ∝ exp(Yλ), capped, with the number of labels an example kept.

        v_i = min(exp((Yλ)_i − z), max_repeat) / N

    Here z makes Σ v = 1; with `cardinality="distribution"` every number of labels has a z of its
    own, which keeps each one's share. This is the v of least Kullback-Leibler distance to uniform
    among those with its label frequencies, cap and cardinality. Examples of the same label set
    weigh the same, so all is computed once for each of the S distinct sets, as the set's mass in v.

    Where examples carry elements, Y_ic is their number of class c in example i over its root mean
    square over all examples, and each example is a set by itself.

    Attributes:
        base: `(S,)` share of the examples that have the set.
        set_of: `(N,)` the set of each example.
    """

    def __init__(self, targets: Targets, max_repeat: float, cardinality: str | None) -> None:
        matrix: Any = targets.matrix
        self.set_of, self.unit = np.arange(targets.num_examples), np.ones(targets.num_classes)
        sizes = np.ones(targets.num_examples)
        if targets.elements:
            cardinality, matrix = None, matrix / (targets.counts.sum() / targets.num_examples)
            square = np.asarray(matrix.power(2).mean(0)).reshape(-1)
            self.unit = np.sqrt(np.where(square > 0, square, 1.0))
            matrix = matrix.multiply(1 / self.unit).tocsr()
        else:
            ids, first, times = label_set_ids(targets)
            if len(first) < targets.num_examples:
                self.set_of, sizes, matrix = ids, times, matrix[first]
        self.matrix = matrix.astype(np.float32)  # four times as fast as float64, see `moments`
        self.base = sizes / targets.num_examples
        self.num_classes = targets.num_classes
        self.max_repeat = max_repeat
        lengths = np.diff(matrix.indptr)
        self.group = np.zeros(len(lengths), np.int64)
        if cardinality == "distribution":
            self.group = np.unique(lengths, return_inverse=True)[1]
        self.share = np.bincount(self.group, self.base)
        self._by_group = np.argsort(self.group, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(self.group))[:-1]])

    def scores(self, per_label: np.ndarray) -> np.ndarray:
        """`(S,)` Yλ: the sum over each set's labels."""
        return (self.matrix @ per_label.astype(np.float32)).astype(np.float64)

    def frequency(self, per_set: np.ndarray) -> np.ndarray:
        """`(C,)` share of the draws that carry each label, or of the elements that are of it."""
        return self.unit * self.moments(per_set)

    def moments(self, per_set: np.ndarray) -> np.ndarray:
        """`(C,)` Yᵀv: the sum over each label's sets, to about 6 digits."""
        n = len(per_set)
        return (self.matrix.T @ (n * per_set).astype(np.float32)).astype(np.float64) / n

    def repeats(self, v: np.ndarray) -> np.ndarray:
        """`(N,)` expected repeats of the examples in N draws."""
        return (v / self.base)[self.set_of]

    def size(self, v: np.ndarray) -> float:
        """Kish's effective sample size over N."""
        return float(1 / (v @ (v / self.base)))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """`(S,)` masses of the sets, with sum 1, from their scores Yλ.

        Newton's method for the z of each group that gives the group its share, kept in a bracket.
        """
        base, cap = self.base, self.max_repeat
        in_order = scores[self._by_group]
        top = np.maximum.reduceat(in_order, self._starts)
        mass = self._sum(base * np.exp(scores - top[self.group]))
        z = high = top + np.log(mass / self.share)  # right if nothing is capped, else too high
        low = np.minimum.reduceat(in_order, self._starts) - np.log(cap)  # everything is capped
        for _ in range(200):
            repeats = np.minimum(np.exp(np.minimum(scores - z[self.group], 60.0)), cap)
            v = base * repeats
            self._free = np.where(repeats < cap, v, 0.0)
            excess = self._sum(v) - self.share
            if (np.abs(excess) <= 1e-12 * self.share).all() or (high - low <= 1e-13).all():
                break
            low, high = np.where(excess > 0, z, low), np.where(excess < 0, z, high)
            newton = z + excess / np.maximum(self._sum(self._free), 1e-300)
            z = np.where((newton > low) & (newton < high), newton, (low + high) / 2)
        return v / v.sum()

    def pull_back(self, gradient: np.ndarray) -> np.ndarray:
        """∂/∂scores of a function whose gradient in v, at the last weights, is `gradient`."""
        free = self._free
        mass = np.maximum(self._sum(free), 1e-300)
        return free * (gradient - (self._sum(free * gradient) / mass)[self.group])

    def _sum(self, values: np.ndarray) -> np.ndarray:
        if len(self.share) == 1:
            return np.array([values.sum()])
        return np.bincount(self.group, values, len(self.share))

    def at_floor(self, log_weight: np.ndarray, min_effective: float) -> tuple[np.ndarray, float]:
        """Masses of s·λ for the largest s ≤ 1 whose effective size is at the floor; and s."""
        scores = self.scores(log_weight)
        v, low, high = self(scores), 0.0, 1.0
        if self.size(v) >= min_effective - 1e-6:
            return v, 1.0
        for _ in range(25):
            middle = (low + high) / 2
            if self.size(self(middle * scores)) >= min_effective:
                low = middle
            else:
                high = middle
        return self(low * scores), low


def effective_size(weight: np.ndarray) -> float:
    """Kish's effective sample size over N: (Σ w)² / (N Σ w²).

    Example:
        >>> effective_size(np.array([1.0, 1.0, 0.0, 0.0]))
        0.5
    """
    return float(weight.sum() ** 2 / (weight @ weight) / len(weight))
