"""The stratified multilabel hold-out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import holdout_split
from tests.multilabel.cases import multi_hot


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_nothing_is_lost_and_every_label_stays_in_training(data):
    n = data.draw(st.integers(4, 80))
    frequencies = data.draw(st.lists(st.floats(0, 0.9), min_size=1, max_size=8))
    rows = multi_hot(n, frequencies, data.draw(st.integers(0, 999)))
    size = data.draw(st.integers(1, n - 1))
    train, held = holdout_split(rows, size, seed=data.draw(st.integers(0, 9)))
    assert sorted([*train, *held]) == list(range(n))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()
    assert len(held) <= size
    assert (rows[train].any(0) == rows.any(0)).all()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_labels_have_their_share(share):
    """Within one example of the share for nearly all labels; a random split is off by ten."""
    rows = multi_hot(2000, list(0.4 * 0.75 ** np.arange(14)), seed=6)
    train, held = holdout_split(rows, share)
    assert len(held) == 2000 * share
    off = np.abs(rows[held].sum(0) - share * rows.sum(0))
    assert off.mean() < 1
    assert off.max() < 3
    random_ids = np.random.default_rng(0).permutation(2000)[: len(held)]
    assert off.mean() < 0.2 * np.abs(rows[random_ids].sum(0) - share * rows.sum(0)).mean()
    assert len(train) + len(held) == 2000


def topical(n, labels, seed):
    """Multi-hot rows with uneven frequencies and widely different numbers of labels."""
    rng = np.random.default_rng(seed)
    crowded = rng.gamma(2.0, 0.5, size=(n, 1))
    return (rng.random((n, labels)) < crowded * 0.3 * 0.96 ** np.arange(labels)).astype(np.uint8)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_number_of_labels_an_example_keeps_its_distribution(share):
    """Within one example at every cut; a hold-out that takes the label-rich first is far off."""
    cardinality = topical(3000, 60, seed=0).sum(1)
    train, held = holdout_split(topical(3000, 60, seed=0), share)
    cuts = np.arange(cardinality.max() + 1)
    below = (cardinality[held, None] <= cuts).sum(0)
    assert np.abs(below - share * (cardinality[:, None] <= cuts).sum(0)).max() < 0.005 * 3000
    assert cardinality[held].std() == pytest.approx(cardinality.std(), rel=0.03)
    assert cardinality[train].mean() == pytest.approx(cardinality.mean(), rel=0.005)


def test_labels_of_two_examples_are_on_both_sides():
    rng = np.random.default_rng(3)
    rows = topical(600, 120, seed=1)
    for label in range(40):  # 1 to 4 examples
        rows[:, label] = 0
        rows[rng.permutation(600)[: 1 + label % 4], label] = 1
    counts = rows.sum(0)
    for seed in range(5):
        train, held = holdout_split(rows, 0.2, seed=seed)
        assert len(held) == 120
        assert rows[train][:, counts > 0].any(0).all()
        assert rows[held][:, counts > 1].any(0).all()
        assert not rows[held][:, counts == 1].any()


def test_label_counts_are_nearer_than_by_iterative_stratification():
    from skmultilearn.model_selection import IterativeStratification

    rows = topical(1500, 80, seed=2)
    folds = IterativeStratification(n_splits=2, sample_distribution_per_fold=[0.2, 0.8])
    theirs = min(next(folds.split(np.zeros((1500, 1)), rows)), key=len)
    off = [
        np.abs(rows[held].sum(0) - 0.2 * rows.sum(0)).mean()
        for held in (holdout_split(rows, 0.2)[1], theirs)
    ]
    assert off[0] < 0.5
    assert off[0] < 0.5 * off[1]


def test_examples_without_labels_and_a_hold_out_of_one():
    rows = np.zeros((50, 3), np.uint8)
    rows[:10, 0] = 1
    train, held = holdout_split(rows, 0.2)
    assert rows[held].sum() == 2
    assert len(train) == 40
    assert [len(side) for side in holdout_split(rows, 1)] == [49, 1]
    assert [len(side) for side in holdout_split(rows, 49)] == [1, 49]
    assert len(holdout_split(np.zeros((9, 2)), 3)[1]) == 3
