"""What a training loop, loaders and a Balancer ask of samplers, and what only some promise."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from equipoise.mining import LossPruning
from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    LabelBalancedSampler,
    MPerClassSampler,
)
from tests.samplers.cases import LABELS, make
from tests.samplers.test_contract import carried

LOG_WEIGHT = np.array([0.0, 1.0, -1.0, 2.0])
FOLLOWING = {
    "class-balanced": lambda: ClassBalancedSampler(LABELS, np.ones(4), seed=2),
    "pruned": lambda: LossPruning().over(ClassBalancedSampler(LABELS, np.ones(4), seed=2)),
    "label-balanced": lambda: LabelBalancedSampler(
        [*np.eye(4, dtype=int)[LABELS], [1, 1, 0, 0]], log_weight=np.zeros(4), seed=2
    ),
}
each_following = pytest.mark.parametrize("make_sampler", FOLLOWING.values(), ids=FOLLOWING)


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


def test_an_iteration_keeps_epoch_and_weights_over_all_its_chunks():
    sampler = ClassBalancedSampler(np.arange(100_000) % 4, seed=1)
    whole = sampler.snapshot().indices().tolist()
    stream = iter(sampler)
    drawn = [next(stream)]
    sampler.set_epoch(1)
    sampler.set_log_weight(LOG_WEIGHT)
    assert drawn + list(stream) == whole


@each_following
def test_weights_set_before_an_epoch_begins_act_in_it(make_sampler):
    sampler, other = make_sampler(), make_sampler()
    before = carried(sampler.targets, sampler.snapshot().indices())  # only a look
    sampler.set_log_weight(LOG_WEIGHT)
    other.set_log_weight(LOG_WEIGHT)
    assert sampler.indices().tolist() == other.indices().tolist()
    assert carried(sampler.targets, sampler.indices())[3] > 1.5 * before[3]


@each_following
@pytest.mark.parametrize("begun", ["iterated", "broken off", "indices", "resumed"])
def test_weights_set_once_an_epoch_has_begun_act_from_the_next_on(make_sampler, begun):
    sampler, whole = make_sampler(), make_sampler().indices().tolist()
    if begun == "iterated":
        list(sampler)
    elif begun == "broken off":
        next(iter(sampler))
    elif begun == "indices":
        sampler.indices()
    else:
        sampler.set_epoch(0, position=5)
    sampler.set_log_weight(LOG_WEIGHT)
    assert not sampler.log_weight.any()
    assert sampler.indices().tolist() == whole
    sampler.set_epoch(1)
    np.testing.assert_allclose(sampler.log_weight, LOG_WEIGHT)
    before = carried(sampler.targets, np.array(whole))
    assert carried(sampler.targets, sampler.snapshot().indices())[3] > 1.5 * before[3]
    sampler.set_log_weight(-LOG_WEIGHT)
    np.testing.assert_allclose(sampler.log_weight, -LOG_WEIGHT)


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
def test_a_state_with_weights_for_the_next_epoch(make_sampler):
    sampler, resumed = make_sampler(), make_sampler()
    stream = iter(sampler)
    drawn = [next(stream) for _ in range(10)]
    sampler.set_log_weight(LOG_WEIGHT)
    resumed.load_state_dict(sampler.state_dict())
    assert drawn + list(resumed) == make_sampler().indices().tolist()
    list(stream)
    assert list(resumed) == list(sampler)
    np.testing.assert_allclose(resumed.log_weight, LOG_WEIGHT)


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
