"""What every sampler promises, also a user's own, checked on each of them."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from tests.samplers.cases import BY_CLASS, CASES, GLOBAL_BATCH, OFTEN, make, num_examples
from tests.states import global_random_state, saved


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def at(name, epoch, **settings) -> list[int]:
    """A whole epoch, as one array."""
    sampler = make(name, **settings)
    sampler.set_epoch(epoch)
    return sampler.indices().tolist()


# The stream


def test_the_stream_is_as_long_as_said_and_follows_seed_and_epoch_alone(name):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    before = global_random_state()
    sampler = make(name)
    assert sampler.num_examples == num_examples(name)
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == sampler.num_samples
        assert all(type(i) is int for i in drawn[:3])
        assert min(drawn) >= 0
        assert max(drawn) < num_examples(name)
        indices = sampler.indices()
        assert indices.dtype == np.int64
        assert indices.flags.c_contiguous
        assert indices.tolist() == drawn == at(name, epoch)
    assert global_random_state() == before
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    assert at(name, 5) == drawn != at(name, 4)
    assert at(name, 5, seed=1) != drawn or name == "own"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_order_is_random_access(data):
    name = data.draw(st.sampled_from(sorted(CASES)))
    epoch = data.draw(st.integers(0, 50))
    sampler = make(name, seed=data.draw(st.integers(0, 2**63)))
    sampler.set_epoch(epoch)
    whole = sampler.indices()
    positions = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=20))
    assert sampler.draw(np.array(positions)).tolist() == whole[positions].tolist()


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_those_of_torchs_batch_sampler(name, drop_last):
    for size in (1, 7, 2000):
        ours = make(name).batches(size, drop_last)
        theirs = BatchSampler(make(name), size, drop_last)
        for _ in range(2):  # the second pass is of the next epoch
            drawn = list(ours)
            assert drawn == list(theirs)
            assert len(drawn) == len(ours) == len(theirs)
            assert all(type(i) is int for batch in drawn for i in batch)


# Epochs and iterations


def test_a_complete_pass_is_followed_by_the_next_epoch(name):
    sampler = make(name)
    for epoch in range(3):
        assert list(islice(sampler, len(sampler))) == at(name, epoch)  # no need to ask once more
        assert sampler.epoch == epoch
    sampler.set_epoch(1)
    assert list(sampler) == at(name, 1), "set_epoch decides"
    resumed = make(name)
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed) == at(name, 2)
    sampler.auto_advance = False
    assert list(sampler) == list(sampler) == at(name, 1)


def test_passes_broken_off_and_indices_do_not_count(name):
    sampler, whole = make(name), at(name, 0)
    sampler.indices(), sampler.indices()  # as FFCV asks twice
    next(iter(sampler.batches(2)))
    next(iter(DataLoader(torch.arange(1000), 2, sampler=sampler)))
    old = iter(sampler)
    next(old), next(old), next(old)
    new = iter(sampler)
    next(new)
    assert sampler.position == 1
    list(old)  # a loader that was left behind draws on
    assert sampler.position == 1
    assert list(new) == whole[1:]
    assert list(sampler) == at(name, 1)


def test_a_running_iteration_keeps_its_epoch(name):
    sampler, whole = make(name), at(name, 0)
    for stream, size in ((iter(sampler), 0), (iter(sampler.batches(2)), 2)):
        sampler.set_epoch(0)
        drawn = [next(stream)]
        sampler.set_epoch(3)
        drawn += stream
        in_batches = [whole[i : i + 2] for i in range(0, len(whole), 2)]
        assert drawn == (in_batches if size else whole)
        assert list(sampler) == at(name, 3)


# Ranks and resuming


@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_ranks_streams_are_equally_long_and_make_up_the_single_stream(name, replicas):
    whole = at(name, 1)
    whole = whole[: len(whole) // replicas * replicas]
    together = [None] * len(whole)
    for rank in range(replicas):
        sampler = make(name, rank=rank, num_replicas=replicas)
        sampler.set_epoch(1)
        together[rank::replicas] = drawn = list(sampler)
        assert len(sampler) == len(drawn)
        assert sampler.indices().tolist() == drawn
    batch = GLOBAL_BATCH.get(name, 1)  # in which the order depends on the ranks
    for first in range(0, len(whole), batch):
        assert sorted(together[first : first + batch]) == sorted(whole[first : first + batch])


@pytest.mark.parametrize("replicas", [(1, 1), (1, 3), (4, 2)])
def test_resumes_in_mid_epoch_with_any_number_of_ranks(name, replicas):
    before, after = replicas
    whole, steps = at(name, 2), 2
    sampler = make(name, num_replicas=before)
    sampler.set_epoch(2)
    stream = iter(sampler)
    for _ in range(steps):
        next(stream)
    state = saved(sampler.state_dict())
    gone = steps * before  # where fewer positions are left than there were ranks, the epoch is over
    gone = gone if gone + before <= len(whole) else len(whole)
    begun = [i for rank in range(before) for i in at(name, 2, rank=rank, num_replicas=before)[:2]]
    length = (len(whole) - gone) // after * after
    rest = [None] * length
    for rank in range(after):
        resumed = make(name, rank=rank, num_replicas=after)
        resumed.load_state_dict(state)
        assert resumed.position == gone
        resumed.set_epoch(2)  # where nothing is left of it, it would go on with the next
        rest[rank::after] = list(resumed)
        assert resumed.position == len(whole)
        resumed.set_epoch(3)
        expected = at(name, 3, rank=rank, num_replicas=after)
        assert resumed.indices().tolist() == expected
    assert len(begun + rest) == steps * before + length
    assert not Counter(begun + rest) - Counter(whole), "nothing doubled"
    assert rest == whole[gone:][:length] or name in GLOBAL_BATCH


@pytest.mark.parametrize("by_count", [False, True], ids=["by state", "by examples trained on"])
def test_a_loop_that_sets_every_epoch_resumes(name, by_count):
    whole, following = at(name, 2), at(name, 3)
    sampler = make(name)
    sampler.set_epoch(2)
    stream = iter(sampler.batches(3))
    assert [next(stream), next(stream)] == [whole[:3], whole[3:6]]
    assert sampler.position == 6
    resumed = make(name)
    resumed.batches(3).load_state_dict(saved(sampler.batches(3).state_dict()))
    if by_count:
        resumed.set_epoch(2, position=5)  # a DataLoader's workers had asked for 6
    left = 5 if by_count else 6
    for epoch, expected in ((2, whole[left:]), (3, following)):
        resumed.set_epoch(epoch)
        assert resumed.position == (left if epoch == 2 else 0)
        assert list(resumed) == expected
        resumed.set_epoch(epoch)
        assert list(resumed)[:3] == (whole if epoch == 2 else following)[:3], "used once"
    for other in (3, 2):
        resumed.set_epoch(2, position=5)
        resumed.set_epoch(other, position=0)
        resumed.set_epoch(2)
        assert list(resumed) == whole, "another epoch, or 0, forgets the position"


# What sampling does to the classes


def carried(targets, drawn):
    """How often each class comes."""
    if targets.matrix is None:
        return np.bincount(targets.labels[drawn], minlength=targets.num_classes)
    return np.asarray(targets.matrix[drawn].sum(axis=0)).ravel()


def test_draws_are_as_often_as_the_sampler_is_for_and_expects(name):
    sampler, epochs = make(name), 40
    often, by_class = np.zeros(sampler.num_examples), 0
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn = sampler.indices()
        often += np.bincount(drawn, minlength=len(often)) / epochs
        if sampler.targets is not None:
            by_class = by_class + carried(sampler.targets, drawn) / epochs
    if name in OFTEN:
        expected = np.asarray(OFTEN[name]) * sampler.num_samples / np.sum(OFTEN[name])
        np.testing.assert_allclose(often, expected, atol=0.1)
    if sampler.targets is not None:
        np.testing.assert_allclose(by_class, sampler.expected_draws(), atol=0.5, rtol=0.01)
    else:
        with pytest.raises(ValueError, match="Expected ExampleWeightedSampler to know the targets"):
            sampler.expected_draws()


@pytest.mark.parametrize("name", [*BY_CLASS, "label-balanced", "repeat-factor"])
def test_logit_shift_is_the_change_in_log_odds(name):
    sampler = make(name)
    before = sampler.targets.counts / sampler.targets.num_examples
    after = sampler.expected_draws() / sampler.num_samples
    if sampler.targets.multilabel:
        expected = np.log(after / (1 - after)) - np.log(before / (1 - before))
    else:
        expected = np.log(after / before)
        expected -= expected.mean()
    np.testing.assert_allclose(sampler.logit_shift(), expected, atol=1e-12)
    if name == "class-balanced, weights":
        log_weight = np.log([1, 2, 3, 0.5])
        np.testing.assert_allclose(sampler.logit_shift(), log_weight - log_weight.mean())


# What is refused


def test_log_weights_are_taken_or_refused(name):
    sampler = make(name)
    log_weight = np.zeros(sampler.targets.num_classes) if sampler.targets else np.zeros(1)
    if sampler.takes_log_weight:
        sampler.set_log_weight(log_weight)
        np.testing.assert_array_equal(sampler.log_weight, log_weight)
        for wrong in ([*log_weight, 0.0], log_weight + np.nan, log_weight[:, None]):
            with pytest.raises(ValueError, match="Expected log_weight to be"):
                sampler.set_log_weight(wrong)
    else:
        assert sampler.log_weight is None
        with pytest.raises(TypeError, match=f"{type(sampler).__name__}, which.*sampler_share=0"):
            sampler.set_log_weight(log_weight)


def test_bad_settings_epochs_and_states_are_named(name):
    for wrong in (
        {"seed": -1},
        {"seed": 0.5},
        {"rank": 2, "num_replicas": 2},
        {"num_replicas": 0},
        {"num_replicas": 10**4},
    ):
        with pytest.raises((TypeError, ValueError), match=f"Expected {next(iter(wrong))} to be"):
            make(name, **wrong)
    sampler = make(name)
    for epoch, position in ((-1, 0), (1.5, 0), (0, 10**6)):
        expected = "Expected position" if position else "Expected epoch"
        with pytest.raises((TypeError, ValueError), match=expected):
            sampler.set_epoch(epoch, position)
    for size in (0, 1.5, True):
        with pytest.raises((TypeError, ValueError), match="Expected batch_size"):
            sampler.batches(size)
    with pytest.raises(ValueError, match=r"Expected state of a .* with (seed|num_samples)"):
        sampler.load_state_dict(make(name, seed=2).state_dict())
