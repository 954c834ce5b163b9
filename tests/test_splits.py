from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Targets, holdout_split
from equipoise.splits import k_folds, three_way_split

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
@pytest.mark.filterwarnings("ignore:Of . classes these have no example")
def test_holdout_is_stratified_and_loses_nothing(labels, share, seed):
    n, counts = len(labels), np.bincount(labels)
    size, most = round(share * n), np.maximum(counts - 1, 0)
    if not 0 < size < n:
        return
    if size > most.sum():
        words = f"Expected size to be at most {most.sum()} of .* keeps one for train"
        with pytest.raises(ValueError, match=words):
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


def test_many_classes_are_quick():
    labels = np.arange(300_000) % 100_000
    _, held = holdout_split(labels, 0.4)
    assert len(held) == 120_000


ROWS = (np.random.default_rng(3).random((300, 6)) < 0.5 * 0.6 ** np.arange(6)).astype(int)
OF_EVERY_KIND = {
    "class ids": np.random.default_rng(0).choice(4, 300, p=[0.5, 0.3, 0.15, 0.05]),
    "labels": ROWS,
    "elements": Targets.from_counts(ROWS * 7),
}


def presence(targets):
    """`(N, C)` whether an example carries a class."""
    targets = Targets.of(targets)
    if targets.matrix is None:
        return np.eye(targets.num_classes, dtype=int)[targets.labels]
    return (targets.matrix.toarray() > 0).astype(int)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", OF_EVERY_KIND)
def test_every_example_is_on_one_side(kind, grouped):
    """Folds, hold-outs and three-way splits: whole, sorted, by seed, groups in one piece, fair."""
    targets, n = OF_EVERY_KIND[kind], 300
    rows = presence(targets)
    groups = np.random.default_rng(1).integers(0, 40, n) if grouped else None
    settings = {"groups": None if groups is None else groups.astype(str)}
    folds = k_folds(targets, 5, **settings)
    splits = [
        holdout_split(targets, 0.2, **settings),
        three_way_split(targets, 60, 0.2, **settings),
    ]
    for parts in [*folds, *splits]:
        assert sorted(np.concatenate(parts)) == list(range(n))
        for ids in parts:
            assert (np.diff(ids) > 0).all()
        if grouped:
            assert sum(len(set(groups[ids])) for ids in parts) == len(set(groups))
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(n))
    for held in [held for _, held in folds] + [ids for parts in splits for ids in parts[1:]]:
        assert abs(len(held) - 60) <= (6 if grouped else 1)
        off = np.abs(rows[held].sum(0) - 0.2 * rows.sum(0))
        assert off.max() <= (6 if grouped else 2)
    again, other = (k_folds(targets, 5, seed=seed, **settings)[0][1].tolist() for seed in (0, 1))
    assert folds[0][1].tolist() == again != other


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=50),
    k=st.integers(2, 6),
    seed=st.integers(0, 9),
)
@pytest.mark.filterwarnings("ignore:Of . classes these have no example")
def test_folds_of_class_ids_differ_by_one_example_at_most(labels, k, seed):
    if k > len(labels):
        with pytest.raises(ValueError, match="Expected k to be an int from 2 to"):
            k_folds(labels, k)
        return
    held = [np.array(labels)[ids] for _, ids in k_folds(labels, k, seed=seed)]
    table = np.array([np.bincount(ids, minlength=4) for ids in held])
    assert np.ptp(table.sum(1)) <= 1
    assert np.ptp(table, axis=0).max() <= 1


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=12),
    share=st.floats(0.02, 0.95),
    seed=st.integers(0, 9),
)
def test_groups_are_kept_whole_and_no_side_is_empty(sizes, share, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    n = len(groups)
    labels = np.arange(n) % 2
    if not 0 < round(share * n) < n:
        return
    train, held = holdout_split(labels, share, groups=groups, seed=seed)
    assert sorted([*train, *held]) == list(range(n))
    assert not set(groups[train]) & set(groups[held])
    assert len(train)
    assert len(held)
    # As many as the share asks for, within the largest group.
    assert abs(len(held) - share * n) <= max(sizes) + 1


def test_groups_are_shared_out_as_well_as_by_scikit_learn():
    model_selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 200, 3000)
    chances = rng.dirichlet(np.full(8, 0.3), 200).cumsum(1)
    labels = (rng.random((3000, 1)) > chances[groups]).sum(1).clip(max=7)
    theirs = model_selection.StratifiedGroupKFold(5, shuffle=True, random_state=0)
    off = []
    for folds in (k_folds(labels, 5, groups=groups), theirs.split(labels, labels, groups)):
        shares = [np.bincount(labels[held], minlength=8) for _, held in folds]
        off.append(np.abs(np.array(shares) / np.bincount(labels) - 0.2).mean())
    assert off[0] <= off[1]
    assert off[0] < 0.01


@pytest.mark.parametrize(
    ("split", "words"),
    [
        *(
            (lambda size=size: holdout_split(IDS, size), "Expected size")
            for size in (0, 5, 1.0, -1, 0.0, 7, True)
        ),
        (lambda: k_folds(IDS, 1), "Expected k to be an int from 2 to the 5 examples, but got 1"),
        (lambda: k_folds(IDS, 2.0), "Expected k to be an int"),
        (lambda: k_folds(IDS, 3, groups=[0, 0, 1, 1, 1]), "at least 3 different ones.*but got 2"),
        (lambda: holdout_split(IDS, 1, groups=[0] * 5), "at least 2 different ones.*but got 1"),
        (
            lambda: holdout_split(IDS, 1, groups=[0, 1]),
            r"groups to be \(N,\), one for each of the 5",
        ),
        (lambda: three_way_split(IDS, 3, 2), "Expected holdout and test to leave some of the 5"),
        (lambda: three_way_split(IDS, 0, 2), "Expected holdout to be a share"),
        (lambda: three_way_split(IDS, 1, 5), "Expected test to be a share"),
        (lambda: holdout_split(Targets.from_class_counts([3, 2]), 1), r"Pass Targets\(labels\)"),
    ],
)
def test_bad_splits_are_named(split, words):
    with pytest.raises(ValueError, match=words):
        split()
