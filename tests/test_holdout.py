from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import holdout_split

IDS = [0, 2, 2, 1, 2]


def held_of(labels, holdout, seed=0):
    """Of each class, how many are held out."""
    train, held = holdout_split(labels, holdout, seed=seed)
    assert sorted([*train, *held]) == list(range(len(labels)))
    return np.bincount(np.array(labels)[held], minlength=max(labels) + 1)


@settings(max_examples=300, deadline=None)
@given(
    labels=st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 3, 5]), min_size=2, max_size=80),
    share=st.floats(0.02, 0.95),
    seed=st.integers(0, 9),
)
def test_holdout_is_stratified_and_loses_nothing(labels, share, seed):
    n, counts = len(labels), np.bincount(labels)
    size, most = round(share * n), np.maximum(counts - 1, 0)
    if not 0 < size < n:
        return
    if size > most.sum():
        with pytest.raises(ValueError, match=f"Expected size to be at most {most.sum()} of"):
            holdout_split(labels, share, seed=seed)
        return
    kept = held_of(labels, share, seed)
    assert kept.sum() == size
    least = np.minimum(most, 1) if size >= np.count_nonzero(most) else 0 * most
    assert (kept >= least).all()
    assert (kept <= most).all()
    # Largest remainder within those bounds: no example more here and less there comes nearer …
    lacking = counts * size / n - kept
    could_give, could_take = kept > least, kept < most
    if could_give.any() and could_take.any():
        assert lacking[could_take].max() <= lacking[could_give].min() + 1 + 1e-9
    # … and so, where no class was held at a bound, each has its share rounded up or down.
    if (could_give & could_take)[counts > 0].all():
        assert (abs(lacking) < 1).all()
    assert np.array_equal(
        holdout_split(labels, size, seed=seed)[1], holdout_split(labels, share, seed=seed)[1]
    )


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([6, 4], 5, [3, 2]),
        ([100, 2, 2], 10, [8, 1, 1]),  # shares 9.6, .2, .2
        ([100, 2, 2], 3, [1, 1, 1]),
        ([100, 2, 2], 2, [2, 0, 0]),  # fewer than classes
        ([50, 1, 1, 1, 1], 27, [27, 0, 0, 0, 0]),  # the single ones are for training
        ([3, 3, 0, 1], 4, [2, 2, 0, 0]),
    ],
)
def test_quotas_by_hand(counts, size, expected):
    assert held_of(np.repeat(np.arange(len(counts)), counts).tolist(), size).tolist() == expected


def test_many_classes_are_quick():
    labels = np.arange(300_000) % 100_000
    _, held = holdout_split(labels, 0.4)
    assert len(held) == 120_000


@pytest.mark.parametrize("size", [0, 5, 1.0, -1, 0.0, 7, True])
def test_bad_holdouts_are_named(size):
    with pytest.raises(ValueError, match="Expected size"):
        holdout_split(IDS, size)


@pytest.mark.parametrize(("labels", "size"), [([0, 1, 2, 3], 2), (IDS, 3), (IDS, 0.6)])
def test_a_holdout_that_would_empty_a_class_is_refused(labels, size):
    with pytest.raises(ValueError, match=r"Expected size to be at most .* keeps one for train"):
        holdout_split(labels, size)
