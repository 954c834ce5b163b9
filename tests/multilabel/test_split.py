"""The stratified multilabel hold-out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.multilabel_split import multilabel_holdout_split
from tests.multilabel.cases import LABELS, multi_hot


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_nothing_is_lost_and_every_label_stays_in_training(data):
    n = data.draw(st.integers(4, 80))
    frequencies = data.draw(st.lists(st.floats(0, 0.9), min_size=1, max_size=8))
    rows = multi_hot(n, frequencies, data.draw(st.integers(0, 999)))
    size = data.draw(st.integers(1, n - 1))
    train, held = multilabel_holdout_split(rows, size, seed=data.draw(st.integers(0, 9)))
    assert sorted([*train, *held]) == list(range(n))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()
    assert len(held) <= size
    assert (rows[train].any(0) == rows.any(0)).all()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_labels_have_their_share(share):
    """Within one example of the share for nearly all labels; a random split is off by ten."""
    rows = multi_hot(2000, list(0.4 * 0.75 ** np.arange(14)), seed=6)
    train, held = multilabel_holdout_split(rows, share)
    assert len(held) == 2000 * share
    off = np.abs(rows[held].sum(0) - share * rows.sum(0))
    assert off.mean() < 1
    assert off.max() < 3
    random_ids = np.random.default_rng(0).permutation(2000)[: len(held)]
    assert off.mean() < 0.2 * np.abs(rows[random_ids].sum(0) - share * rows.sum(0)).mean()
    assert len(train) + len(held) == 2000


def test_seeds():
    one, two = (multilabel_holdout_split(LABELS, 20, seed=seed)[1].tolist() for seed in (1, 2))
    assert multilabel_holdout_split(LABELS, 20, seed=1)[1].tolist() == one
    assert one != two


@pytest.mark.parametrize("size", [0, 83, 1.5, -0.1, True, float("nan")])
def test_bad_sizes_are_named(size):
    with pytest.raises(ValueError, match=r"Expected holdout|cannot convert"):
        multilabel_holdout_split(LABELS, size)


def test_class_ids_are_refused():
    with pytest.raises(ValueError, match=r"equipoise\.holdout_split"):
        multilabel_holdout_split([0, 1, 1], 1)
