"""The order function: bijections for every size, exact quotas, and draws that look random."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from equipoise.samplers.order import (
    ClassOrder,
    key_of,
    keys_of,
    permute,
    permute_each,
    quotas,
    sum_of_quotas,
)

KEYS = 20_000
FALSE_ALARM = 1e-6  # of each statistical test below, were the draws ideal; the keys are fixed


def chi_square_fails(observed, expected) -> bool:
    statistic = ((observed - expected) ** 2 / expected).sum()
    return statistic > chi2.isf(FALSE_ALARM, observed.size - 1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size, key):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@pytest.mark.parametrize("size", [2**24 + 1, 2**33 + 7, 2**52])
def test_permute_reaches_past_the_float32_and_int32_limits(size):
    positions = np.unique(np.linspace(0, size - 1, 10_001).astype(np.int64))
    sent = permute(positions, size, key_of(1))
    assert len(np.unique(sent)) == len(positions)
    assert sent.max() < size
    assert sent.max() > 0.99 * size


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 2**63))
def test_permute_each_is_a_bijection_in_each_group(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.concatenate([np.arange(n) for n in sizes])
    sent = permute_each(rank, np.repeat(sizes, sizes), keys_of(seed, groups))
    for group, size in enumerate(sizes):
        assert sorted(sent[groups == group].tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 5, 10, 23, 64])
def test_every_place_is_equally_likely_and_neighbours_are_independent(size):
    keys = keys_of(key_of(7), np.arange(KEYS))
    sizes = np.full(KEYS, size)
    first, second = (permute_each(np.full(KEYS, i), sizes, keys).astype(int) for i in (0, 1))
    assert not chi_square_fails(np.bincount(first, minlength=size), KEYS / size)
    pairs = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    pairs = pairs[~np.eye(size, dtype=bool)]
    if size > 2:
        assert not chi_square_fails(pairs, KEYS / len(pairs))


def test_consecutive_passes_are_independent():
    size = 10
    class_keys = keys_of(key_of(3), np.arange(KEYS))
    sizes, start = np.full(KEYS, size), np.zeros(KEYS, int)
    now, then = (permute_each(start, sizes, keys_of(class_keys, start + p)) for p in (0, 1))
    pairs = np.bincount((now * size + then).astype(int), minlength=size * size)
    assert not chi_square_fails(pairs, KEYS / len(pairs))


def test_a_long_permutation_has_no_trend():
    size = 100_000
    sent = permute(np.arange(size), size, key_of(11)).astype(float)
    limit = 5 / np.sqrt(size)  # five standard errors of a correlation
    for lag in (1, 2, 3, 316, 317):
        assert abs(np.corrcoef(sent[:-lag], sent[lag:])[0, 1]) < limit
    assert abs(np.corrcoef(np.arange(size), sent)[0, 1]) < limit


@settings(max_examples=100, deadline=None)
@given(
    expected=st.lists(st.floats(0, 1000), min_size=1, max_size=30),
    offset=st.floats(0, 1, exclude_max=True),
)
def test_quotas_are_floor_or_ceiling_and_sum_up(expected, offset):
    expected = np.array(expected)
    drawn = quotas(expected, offset)
    assert drawn.sum() == round(float(expected.sum()))
    # where the sum itself was rounded, a quota may be one further
    assert (np.abs(drawn - expected) < 2).all()
    whole = np.round(expected)
    assert np.array_equal(quotas(whole, offset), whole)


@settings(max_examples=60, deadline=None)
@given(
    expected=st.lists(st.floats(0, 1000), min_size=1, max_size=30),
    offsets=st.lists(st.floats(0, 1, exclude_max=True), max_size=9),
)
def test_sum_of_quotas_is_the_sum_of_quotas(expected, offsets):
    expected = np.array(expected)
    one_by_one = sum((quotas(expected, offset) for offset in offsets), np.zeros(len(expected), int))
    assert sum_of_quotas(expected, np.array(offsets)).tolist() == one_by_one.tolist()


def test_quotas_are_unbiased():
    expected = np.array([0.25, 0.5, 3.1, 0.15])
    mean = np.mean([quotas(expected, (k + 0.5) / 1000) for k in range(1000)], axis=0)
    assert np.abs(mean - expected).max() < 0.002


def class_order(counts, num_samples, seed=0):
    counts = np.array(counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    return ClassOrder(np.arange(counts.sum()), counts, num_samples, seed), labels


def test_natural_shares_draw_every_example_once_an_epoch():
    order, labels = class_order([7, 1, 30, 12], 50)
    for epoch in range(4):
        order.set_epoch(epoch)
        assert np.array_equal(np.sort(order(np.arange(50))), np.arange(len(labels)))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    num_samples=st.integers(1, 200),
    epochs=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_each_class_is_gone_through_before_any_example_comes_again(
    counts, num_samples, epochs, seed
):
    order, labels = class_order(counts, num_samples, seed)
    order.set_shares(np.random.default_rng(seed).random(len(counts)) + 0.01)
    drawn = np.zeros(len(labels), int)
    for epoch in range(epochs):
        order.set_epoch(epoch)
        indices = order(np.arange(num_samples))
        assert np.array_equal(np.bincount(labels[indices], minlength=len(counts)), order.quotas)
        drawn += np.bincount(indices, minlength=len(labels))
        for c in range(len(counts)):
            assert np.ptp(drawn[labels == c]) <= 1


def test_cursors_go_on_when_the_shares_change():
    order, _ = class_order([20, 20], 10)
    seen = []
    for epoch in range(4):
        order.set_epoch(epoch)
        order.set_shares(np.array([1.0, 4.0]) if epoch % 2 else np.array([1.0, 1.0]))
        seen.append(order(np.arange(10)))
    drawn = np.bincount(np.concatenate(seen), minlength=40)
    assert np.ptp(drawn[:20]) <= 1
    assert np.ptp(drawn[20:]) <= 1


@settings(max_examples=30, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_cursors_are_the_sum_of_quotas_wherever_one_comes_from(changes, seed):
    """Forth, back, by leaps, with shares that change: as if every epoch had been gone through."""
    order, _ = class_order([9, 4, 1, 30], 23, seed)
    rng = np.random.default_rng(seed)
    expected, shares, counted = np.zeros(4, int), order.shares, 0
    for epoch, reweigh in changes:
        if epoch < order.base_epoch:
            continue
        order.set_epoch(epoch)
        if not reweigh:
            continue
        order.set_shares(rng.random(4) + 0.01)
        for earlier in range(counted, epoch):
            offset = (key_of(seed, 4) / 2**64 + earlier * (5**0.5 - 1) / 2) % 1.0
            expected += quotas(23 * shares, offset)
        assert order.cursors.tolist() == expected.tolist()
        shares, counted = order.shares, epoch


def test_a_million_epochs_are_left_out_in_no_time():
    order, _ = class_order(range(1, 11), 50)
    order.set_shares(np.random.default_rng(0).random(10))
    start = time.perf_counter()
    order.set_epoch(10**6)
    assert time.perf_counter() - start < 3  # 0.1 s on a quiet machine, 11 s epoch by epoch
    expected = 50 * order.shares
    order.set_shares(order.shares)
    assert np.abs(order.cursors - 10**6 * expected).max() < 10


def test_the_next_epoch_is_not_counted_from_the_first(monkeypatch):
    from equipoise.samplers import order as module

    counted = []
    count = module.sum_of_quotas
    monkeypatch.setattr(
        module,
        "sum_of_quotas",
        lambda expected, offsets: counted.append(len(offsets)) or count(expected, offsets),
    )
    order, _ = class_order([20, 20], 10)
    for epoch in range(50):
        order.set_epoch(epoch)
    assert sum(counted) == 49


def test_an_epoch_before_the_last_change_is_refused():
    order, _ = class_order([5, 5], 10)
    order.set_epoch(3)
    order.set_shares(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="Expected epoch to be at least 3"):
        order.set_epoch(2)


def test_2_to_the_24_plus_1_examples():
    """WeightedRandomSampler refuses more than 2^24; here nothing is drawn for all of them."""
    size = 2**24 + 1
    order, _ = class_order([size - 2, 2], size)
    assert order.members.take([0, -1]).tolist() == [0, size - 1]
    order.set_shares(np.array([1.0, 1.0]))
    drawn = order(np.arange(1000))
    assert abs((drawn >= size - 2).mean() - 0.5) < 0.1
    assert order.quotas.sum() == size


def test_many_small_classes():
    counts = np.full(50_000, 2)
    order, labels = class_order(counts, 25_000)
    epochs = []
    for epoch in range(4):
        order.set_epoch(epoch)
        epochs.append(order(np.arange(25_000)))
    assert np.array_equal(np.sort(np.concatenate(epochs)), np.arange(100_000))
    assert len(labels) == 100_000
