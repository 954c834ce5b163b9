"""What every sampler promises, checked on each of them."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.samplers.cases import CASES, GLOBAL_BATCH, make, num_examples


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def at(name, epoch, **settings):
    sampler = make(name, **settings)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_length_equals_iteration(name):
    sampler = make(name)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == sampler.num_samples
        assert all(type(i) is int for i in drawn[:3])
        assert min(drawn) >= 0
        assert max(drawn) < num_examples(name)


def test_same_seed_and_epoch_same_stream(name):
    assert at(name, 3) == at(name, 3)
    assert at(name, 3) != at(name, 4)
    assert at(name, 3) != at(name, 3, seed=1)


def test_global_random_state_is_neither_read_nor_changed(name):
    drawn = at(name, 2)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert at(name, 2) == drawn
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


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


def test_indices_are_the_iteration(name):
    sampler = make(name)
    sampler.set_epoch(5)
    indices = sampler.indices()
    assert indices.dtype == np.int64
    assert indices.flags.c_contiguous
    assert indices.tolist() == list(sampler)


def saved(state):
    """The state as a file would give it back, with nothing but safe types."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


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
    stream = iter(sampler)
    for _ in range(7):
        next(stream)
    resumed = make(name)
    resumed.load_state_dict(saved(sampler.state_dict()))
    if by_count:
        resumed.set_epoch(2, position=5)  # a DataLoader's workers had asked for 7
    left = 5 if by_count else 7
    for epoch, expected in ((2, whole[left:]), (3, following)):
        resumed.set_epoch(epoch)
        assert resumed.position == (left if epoch == 2 else 0)
        assert list(resumed) == expected
        resumed.set_epoch(epoch)
        assert list(resumed)[:3] == (whole if epoch == 2 else following)[:3], "used once"


def test_another_epoch_forgets_the_position(name):
    sampler = make(name)
    sampler.set_epoch(2, position=5)
    sampler.set_epoch(3)
    sampler.set_epoch(2)
    assert list(sampler) == at(name, 2)
    sampler.set_epoch(2, position=5)
    sampler.set_epoch(2, position=0)
    assert list(sampler) == at(name, 2)


def test_knows_how_many_examples_it_numbers(name):
    assert make(name).num_examples == num_examples(name)


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


def test_feeds_a_data_loader(name):
    data = torch.arange(num_examples(name))
    sampler = make(name)
    with_sampler = DataLoader(data, batch_size=8, sampler=sampler)
    assert torch.cat(list(with_sampler)).tolist() == sampler.indices().tolist()


def test_refuses_a_state_of_another_sampler(name):
    state = make(name, seed=1).state_dict()
    with pytest.raises(ValueError, match=r"Expected state of a .* with (seed|num_samples)"):
        make(name, seed=2).load_state_dict(state)


def test_bad_settings_and_epochs_are_named(name):
    for wrong in ({"seed": -1}, {"rank": 2, "num_replicas": 2}, {"num_replicas": 0}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} to be"):
            make(name, **wrong)
    with pytest.raises(TypeError, match="Expected seed"):
        make(name, seed=0.5)
    sampler = make(name)
    with pytest.raises(ValueError, match="Expected epoch"):
        sampler.set_epoch(-1)
    with pytest.raises(TypeError, match="Expected epoch"):
        sampler.set_epoch(1.5)
    with pytest.raises(ValueError, match="Expected position"):
        sampler.set_epoch(0, position=10**6)
