"""The order function: exact quotas, every member before any again, and random access."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.samplers import order as order_module
from equipoise.samplers.order import ClassOrder, quotas, sum_of_quotas
from equipoise.samplers.permutation import key_of, keys_of, permute, permute_each


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


def naive(order, position):
    """One position, step by step as DESIGN has it."""
    slot = int(permute([position], order.num_samples, order._slot_key)[0])
    label = int(np.searchsorted(np.cumsum(order.quotas), slot, side="right"))
    rank = int(order._cursors_at(order.epoch)[label]) + slot - int(order.quotas[:label].sum())
    turn, within = divmod(rank, int(order.counts[label]))
    keys = keys_of(key_of(order.seed, 1), np.array([label])) + np.uint64(turn)
    # beside it something as large as the whole order, for words of the same length
    sizes = np.array([order.counts[label], len(order.members) + order.num_samples])
    place = permute_each(np.array([within, 0]), sizes, keys_of(keys, np.array([0, 0])))[0]
    return order.members[order.counts[:label].sum() + int(place)]


@pytest.mark.parametrize("num_samples", [1, 37, 5000, 2**33 + 1], ids="M = {}".format)
@pytest.mark.parametrize("epoch", [0, 3])
def test_draws_are_those_of_a_naive_account(num_samples, epoch):
    order, _ = class_order([7, 1, 0, 300, 12], num_samples, seed=5)
    order.set_shares(np.array([1.0, 3.0, 0.0, 0.3, 2.0]))
    order.set_epoch(epoch)
    positions = np.unique(np.linspace(0, num_samples - 1, 60).astype(np.int64))
    assert order(positions).tolist() == [naive(order, int(t)) for t in positions]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    shares=st.lists(st.sampled_from([0, 0.1, 1, 20]), min_size=12, max_size=12),
    num_samples=st.integers(1, 200),
    chunk=st.sampled_from([5, 16, 77, 1000]),
    ids=st.sampled_from([np.int32, np.int64]),
)
def test_an_epoch_at_once_is_the_same_epoch(counts, shares, num_samples, chunk, ids):
    order, _ = class_order(counts, num_samples, seed=2)
    order.members = order.members[::-1].astype(ids)
    shares = np.array(shares[: len(counts)]) * (order.counts > 0)
    if shares.any():
        order.set_shares(shares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "CHUNK", chunk)
        for epoch in (0, 3):
            order.set_epoch(epoch)
            whole = order.epoch_at_once()
            assert whole.dtype == np.int64
            assert whole.tolist() == order(np.arange(num_samples)).tolist()


def test_classes_far_smaller_than_a_cell_of_the_look_up():
    """Ten thousand classes in a corner of the epoch, behind one that takes the rest."""
    order, _ = class_order([1] * 10_000 + [2**21], 2**21 + 10_000)
    slots = np.arange(0, order.num_samples, 97)
    ends = np.cumsum(order.quotas)
    found = order._classes(slots.astype(order._word))
    assert found.tolist() == np.searchsorted(ends, slots, side="right").tolist()


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
    counted = []
    count = order_module.sum_of_quotas
    monkeypatch.setattr(
        order_module,
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
