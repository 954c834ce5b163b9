"""What a training loop, loaders and a Balancer ask of samplers, and what only some promise."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    MPerClassSampler,
)
from tests.samplers.cases import BY_CLASS, CASES, LABELS, make
from tests.samplers.test_contract import carried

LOG_WEIGHT = np.array([0.0, 1.0, -1.0, 2.0])
each_following = pytest.mark.parametrize("name", [n for n in CASES if make(n).takes_log_weight])


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.15
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("by_batches", [False, True])
def test_a_stateful_data_loader_skips_once(workers, by_batches):
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        sampler = make("class-balanced")
        how = {"batch_sampler": sampler.batches(8)} if by_batches else {}
        how = how or {"sampler": sampler, "batch_size": 8}
        return StatefulDataLoader(torch.arange(len(LABELS)), num_workers=workers, **how)

    whole = [batch.tolist() for batch in loader()]
    begun = loader()
    stream = iter(begun)
    for _ in range(3):
        next(stream)
    state = begun.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    assert [batch.tolist() for batch in resumed] == whole[3:]
    resumed.batch_sampler.sampler.load_state_dict(make("class-balanced").state_dict())
    resumed.load_state_dict(state)  # it rules, whatever the sampler was told beside it
    assert [batch.tolist() for batch in resumed] == whole[3:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_running_loader_keeps_epoch_and_weights(workers):
    sampler = ClassBalancedSampler(np.arange(100_000) % 4, seed=1)  # more than a chunk
    loader = DataLoader(range(100_000), 1000, sampler=sampler, num_workers=workers)
    whole = sampler.snapshot().indices().tolist()
    stream = iter(loader)
    drawn = next(stream).tolist()
    sampler.set_epoch(1)
    sampler.set_log_weight(LOG_WEIGHT)
    for batch in stream:
        drawn += batch.tolist()
    assert drawn == whole


def moved(sampler):
    """Other weights than the sampler's, which favour the last class."""
    return sampler.log_weight + np.linspace(-1.0, 1.5, sampler.targets.num_classes)


def drawn_in(sampler):
    """How often each class comes in the epoch, held against what is expected."""
    drawn = carried(sampler.targets, sampler.snapshot().indices())
    off = 6 if sampler.targets.multilabel else 2.5
    np.testing.assert_allclose(drawn, sampler.expected_draws(), atol=off)
    return drawn.tolist()


@each_following
def test_weights_set_before_an_epoch_begins_act_in_it(name):
    sampler, other = make(name), make(name)
    before = drawn_in(sampler)  # only a look
    for each in (sampler, other):
        each.set_log_weight(moved(each))
    assert sampler.indices().tolist() == other.indices().tolist()
    assert drawn_in(sampler) != before
    if name in BY_CLASS:
        each = sampler.targets.counts * np.exp(sampler.log_weight)
        np.testing.assert_allclose(
            sampler.expected_draws(), sampler.num_samples * each / each.sum(), atol=0.5
        )


@each_following
@pytest.mark.parametrize("begun", ["iterated", "broken off", "indices", "resumed"])
def test_weights_set_once_an_epoch_has_begun_act_from_the_next_on(name, begun):
    sampler, at_once, whole = make(name), make(name), make(name).indices().tolist()
    before, after, drawn = sampler.log_weight, moved(sampler), drawn_in(sampler)
    at_once.set_log_weight(after)  # some keep within bounds
    if begun == "iterated":
        list(sampler)
    elif begun == "broken off":
        next(iter(sampler))
    elif begun == "indices":
        sampler.indices()
    else:
        sampler.set_epoch(0, position=5)
    sampler.set_log_weight(after)
    np.testing.assert_array_equal(sampler.log_weight, before)
    assert sampler.indices().tolist() == whole
    sampler.set_epoch(1)
    np.testing.assert_allclose(sampler.log_weight, at_once.log_weight)
    assert drawn_in(sampler) != drawn
    sampler.set_log_weight(before)
    np.testing.assert_allclose(sampler.log_weight, before)


@pytest.mark.parametrize("by_set_epoch", [True, False])
def test_weights_set_after_the_loop_leave_nothing_out(by_set_epoch):
    """1,000 examples in natural proportions: whatever comes when, each is seen before any twice."""
    labels = np.random.default_rng(0).integers(0, 4, 1000)
    sampler = ClassBalancedSampler(labels, np.ones(4), num_samples=250)
    counts = np.zeros(1000, int)
    for epoch in range(12):
        if by_set_epoch:
            sampler.set_epoch(epoch)
        counts += np.bincount(list(sampler), minlength=1000)
        assert all(np.ptp(counts[labels == c]) <= 1 for c in range(4))
        sampler.set_log_weight(np.random.default_rng(epoch).normal(size=4) / 4)


@each_following
def test_a_state_with_weights_for_the_next_epoch(name):
    sampler, resumed, at_once = make(name), make(name), make(name)
    stream, after = iter(sampler), moved(sampler)
    at_once.set_log_weight(after)
    drawn = [next(stream) for _ in range(3)]
    sampler.set_log_weight(after)
    resumed.load_state_dict(sampler.state_dict())
    assert drawn + list(resumed) == make(name).indices().tolist()
    list(stream)
    assert list(resumed) == list(sampler)
    np.testing.assert_allclose(resumed.log_weight, at_once.log_weight)


def test_an_epoch_before_the_last_change_is_refused():
    sampler = ClassBalancedSampler(LABELS)
    sampler.set_epoch(3)
    sampler.set_log_weight(LOG_WEIGHT)
    with pytest.raises(ValueError, match="Expected epoch to be at least 3"):
        sampler.set_epoch(2)


def test_logit_shift_of_what_cannot_move_is_0():
    always = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    sampler = ExampleWeightedSampler([1, 0, 0], targets=always)  # all draws have labels 0 and 1
    assert sampler.logit_shift().tolist() == [0, 0, 0]
    never = ExampleWeightedSampler([1, 1, 0], targets=[0, 1, 2])
    assert never.logit_shift().tolist() == [0, 0, 0]


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_m_examples_of_a_class_stay_together_on_each_rank(replicas):
    labels, part = np.arange(160) % 8, 16 // replicas
    for rank in range(replicas):
        settings = {"rank": rank, "num_replicas": replicas}
        for batch in MPerClassSampler(labels, m=4, batch_size=16, **settings).batches(part):
            assert set(Counter(labels[batch]).values()) == {4}


def test_weights_and_targets_of_other_numbers_of_examples_are_refused():
    with pytest.raises(ValueError, match="Expected targets of 2 examples, as weight, but got"):
        ExampleWeightedSampler([1, 2], targets=[0, 1, 1])
