"""What every sampler promises, checked on each multilabel one."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.multilabel.cases import CASES, LABELS, make


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def at(name, epoch, **settings):
    sampler = make(name, **settings)
    sampler.set_epoch(epoch)
    return list(sampler)


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_length_equals_iteration(name):
    sampler = make(name)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == sampler.num_samples
        assert all(type(i) is int for i in drawn[:3])
        assert 0 <= min(drawn) <= max(drawn) < len(LABELS)


def test_same_seed_and_epoch_same_stream(name):
    assert at(name, 3) == at(name, 3)
    assert at(name, 3) != at(name, 4)
    assert at(name, 3) != at(name, 3, seed=1)


def test_an_epoch_draws_each_example_its_repeats_rounded_down_or_up(name):
    sampler = make(name)
    assert sampler.repeats.sum() == pytest.approx(sampler.num_samples)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        counts = np.bincount(sampler.indices(), minlength=len(sampler.repeats))
        assert (counts >= np.floor(sampler.repeats - 1e-9)).all()
        assert (counts <= np.ceil(sampler.repeats + 1e-9)).all()


def test_global_random_state_is_neither_read_nor_changed(name):
    drawn = at(name, 2)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert at(name, 2) == drawn
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_ranks_streams_make_up_the_single_stream(name, replicas):
    whole = at(name, 1)
    together = [None] * len(whole)
    for rank in range(replicas):
        sampler = make(name, rank=rank, num_replicas=replicas)
        sampler.set_epoch(1)
        together[rank::replicas] = drawn = list(sampler)
        assert len(sampler) == len(drawn)
        assert sampler.indices().tolist() == drawn
    assert together == whole


@pytest.mark.parametrize("replicas", [(1, 1), (1, 3), (4, 2)])
def test_resumes_in_mid_epoch_with_any_number_of_ranks(name, replicas):
    before, after = replicas
    whole, following = at(name, 2), at(name, 3)
    sampler = make(name, num_replicas=before)
    sampler.set_epoch(2)
    stream = iter(sampler)
    for _ in range(2):
        next(stream)
    state = saved(sampler.state_dict())
    rest = [None] * (len(whole) - 2 * before)
    for rank in range(after):
        resumed = make(name, rank=rank, num_replicas=after)
        resumed.load_state_dict(state)
        rest[rank::after] = list(resumed)
        resumed.set_epoch(3)
        assert resumed.indices().tolist() == following[rank::after]
    assert rest == whole[2 * before :]


def test_iterating_again_starts_the_epoch_again(name):
    sampler = make(name)
    stream = iter(sampler)
    first = [next(stream) for _ in range(4)]
    assert list(sampler)[:4] == first
    assert len(list(sampler)) == len(sampler)


def test_feeds_a_data_loader(name):
    sampler = make(name)
    loader = DataLoader(torch.arange(len(LABELS)), batch_size=8, sampler=sampler)
    assert torch.cat(list(loader)).tolist() == sampler.indices().tolist()


def test_refuses_a_state_of_another_sampler(name):
    with pytest.raises(ValueError, match=r"Expected state of a .* with (seed|num_samples)"):
        make(name, seed=2).load_state_dict(make(name, seed=1).state_dict())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"rank": 2, "num_replicas": 2}, ValueError, "rank"),
        ({"num_replicas": 0}, ValueError, "num_replicas"),
    ],
)
def test_bad_settings_are_named(name, settings, error, words):
    with pytest.raises(error, match=f"Expected {words}"):
        make(name, **settings)
