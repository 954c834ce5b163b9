"""ML-ROS, ML-RUS, LP-ROS, LP-RUS: examples repeated or left out, as chosen once.

Charte et al. (2015), "Addressing imbalance in multilabel classification: measures and random
resampling algorithms", Neurocomputing 163; ML in the reading of the Mulan library.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import Unpack

from equipoise._order_sampler import Settings, require_int
from equipoise.samplers.example_order import ExampleWeightedSampler
from equipoise.targets import Targets
from equipoise.targets.label_sets import label_set_ids

__all__ = ["LPROSSampler", "LPRUSSampler", "MLROSSampler", "MLRUSSampler"]


class ResamplingSampler(ExampleWeightedSampler):
    """A stream in which each example comes as often as a subclass's `resample` says."""

    most = np.inf  # `share` is below

    @staticmethod
    def resample(targets: Targets, amount: int, rng: np.random.Generator) -> np.ndarray:
        """`(N,)` int64 repeats of the examples, of which at most `amount` are not 1."""
        raise NotImplementedError

    def __init__(
        self,
        targets: Any,
        share: float = 0.25,
        *,
        num_samples: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        targets, seed = Targets.of(targets), settings.get("seed", 0)
        require_int("seed", seed, 0)
        if isinstance(share, bool) or not 0 < share < self.most:
            raise ValueError(f"Expected share to be in (0, {self.most}), but got {share!r}.")
        amount = int(share * targets.num_examples)
        repeats = self.resample(targets, amount, np.random.default_rng(seed))
        if num_samples is None:
            num_samples = int(repeats.sum())
        super().__init__(repeats, targets=targets, num_samples=num_samples, **settings)


class MLROSSampler(ResamplingSampler):
    """A stream of every example once and some of those with rare labels again (ML-ROS).

    In turn each label with IRLbl above MeanIR gets a clone of one of its examples, drawn with
    replacement, until its IRLbl is no longer above MeanIR or share · N clones are made. MeanIR and
    the largest count are those of the data, so it often stops early. The clones are chosen once, by
    `seed`, and are not copied: their ids come several times an epoch. Charte et al. (2015),
    algorithm 1.

    Args:
        targets: `(N, C)` multi-hot, anything multilabel that `Targets` takes.
        share: P, most clones as a share of N, in (0, 1] or above.
        num_samples: draws an epoch over all ranks; N plus the clones by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> targets = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]]
        >>> sorted(MLROSSampler(targets, share=0.5))
        [0, 1, 2, 3, 3]
    """

    @staticmethod
    def resample(targets: Targets, amount: int, rng: np.random.Generator) -> np.ndarray:
        by_label, counts, ratio, mean = _imbalance(targets, "MLROSSampler")
        repeats, largest = np.ones(targets.num_examples, np.int64), counts.max()
        rare = np.flatnonzero(ratio > mean).tolist()
        while amount and rare:
            still = []
            for label in rare:
                if largest / counts[label] <= mean or not amount:
                    continue
                still.append(label)
                bag = _row(by_label, label)
                example = bag[rng.integers(len(bag))]
                repeats[example] += 1
                counts[_row(targets.matrix, example)] += 1
                amount -= 1
            rare = still
        return repeats


class MLRUSSampler(ResamplingSampler):
    """A stream of every example once, but for some of those with frequent labels (ML-RUS).

    In turn each label with IRLbl below MeanIR loses one of its examples, drawn at random, until
    its IRLbl is no longer below MeanIR or share · N examples are out. MeanIR and the largest count
    are those of the data. Which are left out is chosen once, by `seed`. Charte et al. (2015),
    algorithm 2, but for this: an example with a label of which it would be the last is not taken.

    Args:
        targets: `(N, C)` multi-hot, anything multilabel that `Targets` takes.
        share: P, most examples to leave out as a share of N, below 1.
        num_samples: draws an epoch over all ranks; the number kept by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sampler = MLRUSSampler([[1, 0], [1, 0], [1, 0], [1, 1]], share=0.5, seed=1)
        >>> len(sampler), 3 in list(sampler)
        (2, True)
    """

    most = 1.0

    @staticmethod
    def resample(targets: Targets, amount: int, rng: np.random.Generator) -> np.ndarray:
        by_label, counts, ratio, mean = _imbalance(targets, "MLRUSSampler")
        repeats, largest = np.ones(targets.num_examples, np.int64), counts.max()
        frequent = np.flatnonzero((counts > 0) & (ratio < mean)).tolist()
        left = {label: rng.permutation(_row(by_label, label)).tolist() for label in frequent}
        while amount and left:
            for label, bag in list(left.items()):
                taken = None
                while amount and bag and taken is None and largest / counts[label] < mean:
                    example = bag.pop()
                    if repeats[example] and counts[_row(targets.matrix, example)].min() > 1:
                        taken = example
                if taken is None:
                    del left[label]
                    continue
                repeats[taken] = 0
                counts[_row(targets.matrix, taken)] -= 1
                amount -= 1
        return repeats


class LPROSSampler(ResamplingSampler):
    """A stream of every example once and some of those with rare label sets again (LP-ROS).

    share · N clones go in equal parts to the label sets smaller than the mean size (N over the
    number of sets), none of which grows beyond it; what a set has no room for goes to the others.
    Within a set clones are spread evenly, the odd ones at random, by `seed`. Charte et al. (2015),
    LP-ROS (there the clones within a set are drawn independently).

    Args:
        targets: `(N, C)` multi-hot, or `(N,)` class ids: then the sets are the classes.
        share: P, clones as a share of N.
        num_samples: draws an epoch over all ranks; N plus the clones by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> sorted(LPROSSampler([0, 0, 0, 0, 1, 1], share=0.25))
        [0, 1, 2, 3, 4, 5, 5]
    """

    @staticmethod
    def resample(targets: Targets, amount: int, rng: np.random.Generator) -> np.ndarray:
        return 1 + _towards_the_mean_size(targets, amount, rng, 1)


class LPRUSSampler(ResamplingSampler):
    """A stream of every example once, but for some of those of frequent label sets (LP-RUS).

    share · N examples are taken in equal parts from the label sets larger than the mean size (N
    over the number of sets), none of which shrinks below it; what one cannot give the others do.
    Which are left out is chosen once, by `seed`. Charte et al. (2015), LP-RUS.

    Args:
        targets: `(N, C)` multi-hot, or `(N,)` class ids: then the sets are the classes.
        share: P, most examples to leave out as a share of N, below 1.
        num_samples: draws an epoch over all ranks; the number kept by default.
        seed, rank, num_replicas: see `OrderSampler`.

    Example:
        >>> len(LPRUSSampler([0, 0, 0, 0, 1], share=0.25))
        4
    """

    most = 1.0

    @staticmethod
    def resample(targets: Targets, amount: int, rng: np.random.Generator) -> np.ndarray:
        return 1 - _towards_the_mean_size(targets, amount, rng, -1)


def _imbalance(targets: Targets, user: str) -> tuple[Any, np.ndarray, np.ndarray, float]:
    """Examples of each label (CSC), counts, IRLbl, and its mean over the labels with examples."""
    if targets.matrix is None:
        raise ValueError(
            f"Expected targets of {user} to be (N, C) multi-hot, but got {targets!r}. "
            "For class ids use ClassBalancedSampler."
        )
    if not targets.counts.any():
        raise ValueError(f"Expected targets of {user} to have a positive label, but got none.")
    counts = targets.counts.astype(np.float64)
    ratio = np.where(counts > 0, counts.max() / np.maximum(counts, 1), 0.0)
    return targets.matrix.tocsc(), counts, ratio, float(ratio[counts > 0].mean())


def _row(matrix: Any, i: int) -> np.ndarray:
    """The columns in a row of a CSR matrix, or the rows in a column of a CSC one."""
    return matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]]


def _towards_the_mean_size(
    targets: Targets, amount: int, rng: np.random.Generator, sign: int
) -> np.ndarray:
    """`(N,)` how often each is cloned (`sign` 1) or left out (−1), so that label sets even out."""
    ids, _, sizes = label_set_ids(targets)
    room = np.maximum(np.floor(sign * sizes.mean()).astype(np.int64) - sign * sizes, 0)
    shares = fill_evenly(room, amount)
    # within a set in equal whole parts, the odd ones drawn
    shuffled = rng.permutation(len(ids))
    by_set = shuffled[np.argsort(ids[shuffled], kind="stable")]
    place = np.empty(len(ids), np.int64)
    place[by_set] = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (shares // sizes)[ids] + (place < (shares % sizes)[ids])


def fill_evenly(room: np.ndarray, amount: int) -> np.ndarray:
    """Hand out `amount` in equal whole parts, none larger than its `room`.

    Example:
        >>> fill_evenly(np.array([1, 5, 0, 9]), 8).tolist()
        [1, 4, 0, 3]
    """
    ordered, still = np.sort(room), np.arange(len(room), 0, -1)
    before = np.cumsum(ordered) - ordered
    filled = np.searchsorted(before + ordered * still, amount, side="right")
    if filled == len(room):
        return room
    level, odd = divmod(amount - before[filled], still[filled])
    given = np.minimum(room, level)
    given[np.flatnonzero(room > level)[:odd]] += 1
    return given
