"""What a Balancer, a loader and a training loop ask of every sampler, also of a user's own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    LabelBalancedSampler,
    MPerClassSampler,
    OrderSampler,
)
from tests.samplers.cases import BY_CLASS, CASES, LABELS, make


class InOrder(OrderSampler):
    """A user's own: nothing but `draw`."""

    def draw(self, positions):
        return (positions + self.epoch) % self.num_samples


OWN = {"in order": lambda **kw: InOrder(len(LABELS), targets=LABELS, **kw)}
EVERY = CASES | OWN
LOG_WEIGHT = np.array([0.0, 1.0, -1.0, 2.0])
FOLLOWING = {
    "class-balanced": lambda: ClassBalancedSampler(LABELS, np.ones(4), seed=2),
    "label-balanced": lambda: LabelBalancedSampler(
        [*np.eye(4, dtype=int)[LABELS], [1, 1, 0, 0]], log_weight=np.zeros(4), seed=2
    ),
}


@pytest.fixture(params=EVERY)
def every(request):
    return EVERY[request.param]


# Batches


@pytest.mark.parametrize("size", [1, 7, 8, 2000])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_those_of_torchs_batch_sampler(every, size, drop_last):
    ours, theirs = every().batches(size, drop_last), BatchSampler(every(), size, drop_last)
    for _ in range(2):  # the second pass is of the next epoch
        drawn = list(ours)
        assert drawn == list(theirs)
        assert len(drawn) == len(ours) == len(theirs)
        assert all(type(i) is int for batch in drawn for i in batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_feed_a_data_loader(workers):
    sampler = make("class-balanced")
    loader = DataLoader(
        torch.arange(len(LABELS)), batch_sampler=sampler.batches(8), num_workers=workers
    )
    whole = sampler.snapshot().indices().tolist()
    assert torch.cat(list(loader)).tolist() == whole
    assert torch.cat(list(loader)).tolist() != whole, "it goes on by itself"


@pytest.mark.parametrize("replicas", [1, 2])
def test_batches_move_the_sampler_and_share_its_state(every, replicas):
    sampler = every(num_replicas=replicas)
    stream = iter(sampler.batches(3))
    drawn = [next(stream) for _ in range(2)]
    assert sampler.position == 6 * replicas or len(sampler) <= 6
    resumed = every(num_replicas=replicas).batches(3)
    resumed.load_state_dict(sampler.batches(3).state_dict())
    if len(sampler) > 6:
        assert drawn + list(resumed) == list(every(num_replicas=replicas).batches(3))


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


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_a_bad_batch_size_is_named(size):
    with pytest.raises((TypeError, ValueError), match="Expected batch_size"):
        make("class-balanced").batches(size)


# Epochs


def test_a_complete_pass_is_followed_by_the_next_epoch(every):
    sampler, other = every(), every()
    for epoch in range(3):
        other.set_epoch(epoch)
        assert list(sampler) == other.indices().tolist()
        assert sampler.epoch == epoch
    sampler.set_epoch(1)
    other.set_epoch(1)
    assert list(sampler) == other.indices().tolist(), "set_epoch decides"
    sampler.auto_advance = False
    assert list(sampler) == list(sampler) == other.indices().tolist()


def test_passes_broken_off_and_indices_do_not_count(every):
    sampler, whole = every(), every().indices().tolist()
    sampler.indices(), sampler.indices()  # as FFCV asks twice
    for _ in range(3):
        next(iter(sampler))
        next(iter(sampler.batches(2)))
        DataLoader(torch.arange(1000), 2, sampler=sampler).__iter__().__next__()
    assert list(sampler) == whole
    assert list(sampler) != whole


def test_a_pass_counts_when_the_last_is_yielded_also_without_the_stop():
    sampler, whole = make("class-balanced"), make("class-balanced").indices().tolist()
    for i, _ in enumerate(sampler):
        if i == len(sampler) - 1:
            break
    assert list(sampler) != whole


def test_the_epoch_after_a_saved_complete_pass_is_the_next():
    sampler, resumed = make("class-balanced"), make("class-balanced")
    list(sampler)
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed) == list(sampler)
    assert resumed.epoch == 1


def test_undersampling_sees_nearly_all_in_plain_loops():
    labels = np.repeat(np.arange(2), [200, 10])
    sampler = ClassBalancedSampler.undersampling(labels)
    loader = DataLoader(torch.arange(210), batch_size=5, sampler=sampler)
    seen = [torch.cat(list(loader)).tolist() for _ in range(20)]
    assert len({i for epoch in seen for i in epoch}) == 210


def test_breaking_off_does_not_count_positions_twice(every):
    sampler = every()
    old = iter(sampler)
    next(old), next(old), next(old)
    new = iter(sampler)
    next(new)
    assert sampler.position == 1
    list(old)  # a loader that was left behind draws on
    assert sampler.position == 1
    assert list(new) == every().indices().tolist()[1:]


# An iteration keeps its plan


def test_a_running_iteration_keeps_its_epoch(every):
    sampler, whole = every(), every().indices().tolist()
    for stream, size in ((iter(sampler), 1), (iter(sampler.batches(2)), 2)):
        sampler.set_epoch(0)
        drawn = [next(stream)]
        sampler.set_epoch(3)
        rest = list(stream)
        assert [*drawn, *rest] == (whole if size == 1 else [whole[i : i + 2] for i in
                                   range(0, len(whole), 2)])  # fmt: skip
        other = every()
        other.set_epoch(3)
        assert list(sampler) == other.indices().tolist()


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


@pytest.mark.parametrize("make_sampler", FOLLOWING.values(), ids=FOLLOWING)
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


@pytest.mark.parametrize("make_sampler", FOLLOWING.values(), ids=FOLLOWING)
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


# What sampling does to the classes


def carried(targets, drawn):
    """How often each class comes."""
    if targets.matrix is None:
        return np.bincount(targets.labels[drawn], minlength=targets.num_classes)
    return np.asarray(targets.matrix[drawn].sum(axis=0)).ravel()


@pytest.mark.parametrize("name", EVERY)
def test_expected_draws_are_the_mean_of_the_draws(name):
    sampler = EVERY[name]()
    if sampler.targets is None:
        with pytest.raises(ValueError, match="Expected ExampleWeightedSampler to know the targets"):
            sampler.expected_draws()
        return
    epochs, total = 40, 0
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        total = total + carried(sampler.targets, sampler.indices())
    np.testing.assert_allclose(total / epochs, sampler.expected_draws(), atol=0.5, rtol=0.01)


@pytest.mark.parametrize("name", [*BY_CLASS, "in order", "label-balanced", "repeat-factor"])
def test_logit_shift_is_the_change_in_log_odds(name):
    sampler = EVERY[name]()
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


def test_logit_shift_of_what_cannot_move_is_0():
    always = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    sampler = ExampleWeightedSampler([1, 0, 0], targets=always)  # all draws have labels 0 and 1
    assert sampler.logit_shift().tolist() == [0, 0, 0]
    never = ExampleWeightedSampler([1, 1, 0], targets=[0, 1, 2])
    assert never.logit_shift().tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", EVERY)
def test_log_weights_are_taken_or_refused(name):
    sampler = EVERY[name]()
    log_weight = np.zeros(sampler.targets.num_classes) if sampler.targets else [0]
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


# Ranks


def test_more_ranks_than_positions_are_refused():
    with pytest.raises(ValueError, match="Expected num_replicas to be at most num_samples=3"):
        ExampleWeightedSampler([1, 1, 1], num_replicas=4)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_m_examples_of_a_class_stay_together_on_each_rank(replicas):
    """The global batch holds the same examples for any number of ranks."""
    labels = np.arange(160) % 8
    one = list(MPerClassSampler(labels, m=4, batch_size=16))
    ranks = [
        list(MPerClassSampler(labels, m=4, batch_size=16, rank=r, num_replicas=replicas))
        for r in range(replicas)
    ]
    part = 16 // replicas
    for step in range(10):
        batches = [rank[step * part : (step + 1) * part] for rank in ranks]
        assert sorted(i for batch in batches for i in batch) == sorted(
            one[step * 16 : (step + 1) * 16]
        )
        for batch in batches:
            assert set(Counter(labels[batch]).values()) == {4}


def test_weights_and_targets_of_other_numbers_of_examples_are_refused():
    with pytest.raises(ValueError, match="Expected targets of 2 examples, as weight, but got"):
        ExampleWeightedSampler([1, 2], targets=[0, 1, 1])
