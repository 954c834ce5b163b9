"""Repeat factor, label weights, ML-ROS, ML-RUS, LP-ROS, LP-RUS against naive references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from equipoise.samplers import (
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
from tests.multilabel.cases import LABELS

# Some cases have one label in every row, on purpose
pytestmark = pytest.mark.filterwarnings("ignore:Every row of labels")

matrices = arrays(
    np.uint8, st.tuples(st.integers(2, 30), st.integers(1, 6)), elements=st.integers(0, 1)
).filter(lambda rows: rows.any())


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


def test_label_weights_are_inverse_counts_by_default():
    sampler = LabelWeightSampler([[1, 0], [1, 0], [1, 1], [0, 0]], num_samples=5)
    assert sampler.repeats == pytest.approx([1 * 5 / 6, 5 / 6, 5 / 2, 5 / 6])
    assert LabelWeightSampler([0, 0, 1]).repeats == pytest.approx([0.75, 0.75, 1.5])


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
        *((lambda share=share: MLROSSampler(LABELS, share), "Expected share") for share in (0, -1)),
        *(
            (lambda share=share: LPRUSSampler(LABELS, share), "Expected share")
            for share in (1, True)
        ),
        (lambda: MLRUSSampler(LABELS, float("nan")), "Expected share"),
        (lambda: MLROSSampler([0, 1, 1]), "multi-hot"),
        (lambda: MLRUSSampler([[0, 0], [0, 0]]), "positive label"),
        (lambda: LabelWeightSampler(LABELS, [1, 2]), "Expected weight to be 5 numbers"),
        (lambda: LabelWeightSampler(LABELS, [1, 2, 3, 4, -5]), "not negative"),
        (lambda: LabelWeightSampler(LABELS, reduce="sum"), "Expected reduce"),
        (lambda: RepeatFactorSampler(LABELS, 0), "Expected threshold"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
