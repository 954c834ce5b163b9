"""The order function: exact quotas, every member before any again, and random access."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.samplers import order as order_module
from equipoise.samplers.order import ClassOrder, quotas
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


def test_quotas_are_unbiased():
    expected = np.array([0.25, 0.5, 3.1, 0.15])
    mean = np.mean([quotas(expected, (k + 0.5) / 1000) for k in range(1000)], axis=0)
    assert np.abs(mean - expected).max() < 0.002


def class_plan(counts, num_samples, seed=0, shares=None):
    """The plan of epoch 0, and the examples' classes; by default in natural proportions."""
    counts = np.array(counts)
    order = ClassOrder(np.arange(counts.sum()), counts, num_samples, seed)
    each = np.ones(len(counts))
    if shares is not None:
        each = np.divide(shares, counts, out=np.zeros(len(counts)), where=counts > 0)
    with np.errstate(divide="ignore"):  # −∞ of no share
        return order.plan(np.log(each)), np.repeat(np.arange(len(counts)), counts)


def naive(plan, position):
    """One position, step by step as samplers/order.py describes it."""
    order = plan.order
    slot = int(permute([position], plan.size, plan._slot_key)[0])
    label = int(np.searchsorted(np.cumsum(plan.quotas), slot, side="right"))
    rank = int(plan.cursors[label]) + slot - int(plan.quotas[:label].sum())
    turn, within = divmod(rank, int(order.counts[label]))
    keys = keys_of(key_of(order.seed, 1), np.array([label])) + np.uint64(turn)
    # beside it something as large as the whole order, for words of the same length
    sizes = np.array([order.counts[label], len(order.members) + order.num_samples])
    place = permute_each(np.array([within, 0]), sizes, keys_of(keys, np.array([0, 0])))[0]
    return order.members[order.counts[:label].sum() + int(place)]


@pytest.mark.parametrize("num_samples", [1, 37, 5000, 2**33 + 1], ids="M = {}".format)
@pytest.mark.parametrize("epoch", [0, 3])
def test_draws_are_those_of_a_naive_account(num_samples, epoch):
    plan, _ = class_plan([7, 1, 0, 300, 12], num_samples, 5, np.array([1.0, 3.0, 0.0, 0.3, 2.0]))
    plan = plan.at(epoch)
    positions = np.unique(np.linspace(0, num_samples - 1, 60).astype(np.int64))
    assert plan(positions).tolist() == [naive(plan, int(t)) for t in positions]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    shares=st.lists(st.sampled_from([0, 0.1, 1, 20]), min_size=12, max_size=12),
    num_samples=st.integers(1, 200),
    chunk=st.sampled_from([5, 16, 77, 1000]),
    ids=st.sampled_from([np.int32, np.int64]),
)
def test_an_epoch_at_once_is_the_same_epoch(counts, shares, num_samples, chunk, ids):
    shares = np.array(shares[: len(counts)]) * (np.array(counts) > 0)
    plan, _ = class_plan(counts, num_samples, 2, shares if shares.any() else None)
    plan.order.members = plan.order.members[::-1].astype(ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "CHUNK", chunk)
        for epoch in (0, 3):
            whole = plan.at(epoch).at_once()
            assert whole.dtype == np.int64
            assert whole.tolist() == plan.at(epoch)(np.arange(num_samples)).tolist()


def test_classes_far_smaller_than_a_cell_of_the_look_up():
    """Ten thousand classes in a corner of the epoch, behind one that takes the rest."""
    plan, _ = class_plan([1] * 10_000 + [2**21], 2**21 + 10_000)
    slots = np.arange(0, plan.size, 97)
    ends = np.cumsum(plan.quotas)
    found = plan._classes(slots.astype(plan.order.word))
    assert found.tolist() == np.searchsorted(ends, slots, side="right").tolist()


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
    shares = np.random.default_rng(seed).random(len(counts)) + 0.01
    plan, labels = class_plan(counts, num_samples, seed, shares)
    drawn = np.zeros(len(labels), int)
    for epoch in range(epochs):
        now = plan.at(epoch)
        indices = now(np.arange(num_samples))
        assert np.array_equal(np.bincount(labels[indices], minlength=len(counts)), now.quotas)
        drawn += np.bincount(indices, minlength=len(labels))
        for c in range(len(counts)):
            assert np.ptp(drawn[labels == c]) <= 1


def test_2_to_the_24_plus_1_examples():
    """WeightedRandomSampler refuses more than 2^24; here nothing is drawn for all of them."""
    size = 2**24 + 1
    plan, _ = class_plan([size - 2, 2], size, shares=np.array([0.5, 0.5]))
    assert plan.order.members.take([0, -1]).tolist() == [0, size - 1]
    drawn = plan(np.arange(1000))
    assert abs((drawn >= size - 2).mean() - 0.5) < 0.1
    assert plan.quotas.sum() == size
