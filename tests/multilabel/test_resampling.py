"""Examples by weight: systematic sampling, repeat factors, label weights, resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.samplers import (
    ExampleWeightedSampler,
    LabelWeightSampler,
    LPROSSampler,
    LPRUSSampler,
    MLROSSampler,
    MLRUSSampler,
    RepeatFactorSampler,
)
from equipoise.samplers.label_weight import example_weights
from equipoise.samplers.resampling import fill_evenly
from equipoise.targets import Targets
from tests.multilabel.cases import LABELS, matrices

# Some cases have one label in every row, on purpose
pytestmark = pytest.mark.filterwarnings("ignore:Every row of labels")


def counts_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return np.bincount(sampler.indices(), minlength=len(sampler.repeats))


weights = st.lists(st.sampled_from([0.0]) | st.floats(1e-6, 1e6), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(weights.filter(any), st.integers(1, 500), st.integers(0, 2**63), st.integers(0, 10**6))
def test_counts_are_the_expected_ones_rounded(weight, num_samples, seed, epoch):
    sampler = ExampleWeightedSampler(weight, num_samples=num_samples, seed=seed)
    counts = counts_of(sampler, epoch)
    assert counts.sum() == num_samples
    assert (counts > sampler.repeats - 1 - 1e-6).all()
    assert (counts < sampler.repeats + 1 + 1e-6).all()
    assert not counts[np.array(weight) == 0].any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=50).filter(any), st.integers(0, 99))
def test_whole_repeats_are_met_in_every_epoch(repeats, epoch):
    sampler = ExampleWeightedSampler(repeats, num_samples=sum(repeats))
    assert counts_of(sampler, epoch).tolist() == repeats


def test_draws_over_epochs_are_the_expected_ones_and_evenly_spread():
    """The golden-ratio offsets: after E epochs no example is off by more than a few draws."""
    weight = np.random.default_rng(0).gamma(0.5, size=200)
    sampler = ExampleWeightedSampler(weight, num_samples=97)
    drawn = np.zeros(200)
    for epoch in range(300):
        drawn += counts_of(sampler, epoch)
        assert np.abs(drawn - (epoch + 1) * sampler.repeats).max() < 6
    # independent draws would be off by about √(300 · r)
    assert np.abs(drawn / 300 - sampler.repeats).max() < 0.02


def test_positions_are_shuffled():
    """Weight and place in the epoch are uncorrelated: |r| < 5 / √M fails once in 10^6 seeds."""
    weight = np.repeat([1.0, 3.0], 2000)
    sampler = ExampleWeightedSampler(weight, num_samples=8000, seed=11)
    drawn = sampler.indices()
    assert abs(np.corrcoef(np.arange(8000), weight[drawn])[0, 1]) < 5 / np.sqrt(8000)


def test_same_repeats_for_equal_weights():
    assert sorted(ExampleWeightedSampler(np.full(77, 0.1))) == list(range(77))


def test_effective_size():
    assert ExampleWeightedSampler([1, 1, 1, 1]).effective_size == pytest.approx(1)
    assert ExampleWeightedSampler([1, 0, 0, 0]).effective_size == pytest.approx(0.25)


@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(0.01, 1))
def test_repeat_factor_equals_the_naive_loop(rows, threshold):
    f = rows.mean(0)
    expected = [
        max([max(1, np.sqrt(threshold / f[c])) for c in np.flatnonzero(row)], default=1)
        for row in rows
    ]
    sampler = RepeatFactorSampler(rows, threshold)
    assert len(sampler) == round(sum(expected))
    assert sampler.repeats * sum(expected) / len(sampler) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from(["max", "mean"]), st.integers(0, 99))
def test_label_weights_equal_the_naive_loop(rows, reduce, seed):
    weight = np.random.default_rng(seed).random(rows.shape[1])
    how = getattr(np, reduce)
    expected = [how(weight[row == 1]) if row.any() else 0.25 for row in rows]
    assert example_weights(rows, weight, reduce, 0.25) == pytest.approx(expected)


def resampled(sampler, rows, share, seed) -> np.ndarray:
    return sampler.resample(Targets(rows), int(share * len(rows)), np.random.default_rng(seed))


def naive_ml_ros(rows, share, seed):
    """Mulan's reading, one list after another."""
    rng = np.random.default_rng(seed)
    count = rows.sum(0).astype(int).tolist()
    largest = max(count)
    ratios = [largest / c for c in count if c]
    mean = sum(ratios) / len(ratios)
    minority = [c > 0 and largest / c > mean for c in count]
    left, data = int(share * len(rows)), [1] * len(rows)
    while left > 0 and any(minority):
        for label in range(len(count)):
            if not minority[label]:
                continue
            if largest / count[label] <= mean:
                minority[label] = False
                continue
            bag = np.flatnonzero(rows[:, label])
            chosen = bag[rng.integers(len(bag))]
            data[chosen] += 1
            count = [c + int(y) for c, y in zip(count, rows[chosen], strict=True)]
            left -= 1
            if left <= 0:
                break
    return data


@settings(max_examples=80, deadline=None)
@given(matrices, st.floats(0.05, 1.5), st.integers(0, 99))
def test_ml_ros_equals_the_naive_loop(rows, share, seed):
    repeats = resampled(MLROSSampler, rows, share, seed)
    assert repeats.tolist() == naive_ml_ros(rows, share, seed)


@settings(max_examples=80, deadline=None)
@given(matrices, st.floats(0.05, 0.95), st.integers(0, 99))
def test_ml_rus_leaves_out_examples_of_frequent_labels_only(rows, share, seed):
    repeats = resampled(MLRUSSampler, rows, share, seed)
    assert set(repeats.tolist()) <= {0, 1}
    assert (1 - repeats).sum() <= int(share * len(rows))
    before, after = rows.sum(0), rows.T.astype(int) @ repeats
    assert ((after > 0) == (before > 0)).all()
    ratio = before.max() / np.maximum(before, 1)
    frequent = (before > 0) & (ratio < ratio[before > 0].mean())
    assert (rows[repeats == 0][:, frequent].any(axis=1)).all()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.integers(0, 300))
def test_fill_evenly_hands_out_equal_parts(room, amount):
    room = np.array(room)
    given_out = fill_evenly(room, amount)
    assert given_out.sum() == min(amount, room.sum())
    assert (given_out <= room).all()
    if len(partial := given_out[given_out < room]):  # not full: all the same, to one
        assert partial.max() - partial.min() <= 1
        assert given_out.max() <= partial.min() + 1


@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(0.05, 0.95), st.integers(0, 99))
def test_label_powersets_move_towards_the_mean_size(rows, share, seed):
    sets, ids, sizes = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    mean, most = len(rows) / len(sets), int(share * len(rows))
    kept = resampled(LPRUSSampler, rows, share, seed)
    more = np.bincount(ids.ravel(), resampled(LPROSSampler, rows, share, seed))
    fewer = np.bincount(ids.ravel(), kept)
    assert (more >= sizes).all()
    assert (fewer <= sizes).all()
    assert more.sum() - len(rows) <= most
    assert len(rows) - fewer.sum() <= most
    assert (more[more > sizes] <= mean).all()
    assert (fewer[fewer < sizes] >= mean).all()
    assert set(kept.tolist()) <= {0, 1}


def test_lengths():
    assert len(LABELS) < len(LPROSSampler(LABELS, share=0.3)) <= int(1.3 * len(LABELS))
    assert len(MLROSSampler(LABELS, num_samples=40)) == 40
    for fewer in (MLRUSSampler, LPRUSSampler):
        assert len(fewer(LABELS)) < len(LABELS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MLROSSampler(LABELS, 0), "Expected share"),
        (lambda: MLROSSampler(LABELS, -1), "Expected share"),
        (lambda: LPRUSSampler(LABELS, 1), "Expected share"),
        (lambda: LPRUSSampler(LABELS, True), "Expected share"),
        (lambda: MLRUSSampler(LABELS, float("nan")), "Expected share"),
        (lambda: MLROSSampler([0, 1, 1]), "multi-hot"),
        (lambda: MLRUSSampler([[0, 0], [0, 0]]), "positive label"),
        (lambda: ExampleWeightedSampler([]), r"\(N,\)"),
        (lambda: ExampleWeightedSampler([[1.0]]), r"\(N,\)"),
        (lambda: ExampleWeightedSampler([1, -1]), "not negative, but got -1.0 at position 1"),
        (lambda: ExampleWeightedSampler([np.nan, 1]), "finite"),
        (lambda: ExampleWeightedSampler([np.inf, 1]), "finite"),
        (lambda: ExampleWeightedSampler([0, 0]), "all are 0"),
        (lambda: LabelWeightSampler(LABELS, [1, 2]), "Expected weight to be 5 numbers"),
        (lambda: LabelWeightSampler(LABELS, [1, 2, 3, 4, -5]), "not negative"),
        (lambda: LabelWeightSampler(LABELS, reduce="sum"), "Expected reduce"),
        (lambda: RepeatFactorSampler(LABELS, 0), "Expected threshold"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
