"""LossPruning: unbiased, by class, of fixed length, and a sampler like the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from equipoise.mining import LossPruning, keep_probabilities
from equipoise.mining.loss_pruning import keep_positions
from equipoise.samplers import ClassBalancedSampler, ExampleWeightedSampler
from tests.samplers.cases import InOrder
from tests.states import saved

RNG = np.random.default_rng(7)
LABELS = RNG.choice(4, 1000, p=[0.6, 0.25, 0.1, 0.05])
LOSSES = RNG.exponential(1.0 + LABELS)


def make(seen=1.0, *, keep=0.5, inner=None, **settings):
    """A miner and its sampler; the losses of a share `seen` of the examples are known."""
    inner = dict(seed=settings.get("seed", 0)) | (inner or {})
    miner = LossPruning(keep, **settings)
    sampler = miner.over(ClassBalancedSampler(LABELS, np.array([1, 1, 2, 4]), **inner))
    known = torch.from_numpy(np.flatnonzero(np.random.default_rng(1).random(1000) < seen))
    if len(known):
        miner.memory.update(known, torch.from_numpy(LOSSES).float()[known])
    return miner, sampler


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=6),
    st.floats(0.02, 1),
    st.floats(0.01, 1),
)
def test_probabilities_sum_to_the_budget(counts, keep, share):
    counts = np.array(counts, np.float64)
    if not counts.sum():
        return
    least = keep * share
    budget = keep * counts.sum()
    probability = keep_probabilities(counts, budget, least)
    assert (probability >= least * (1 - 1e-9)).all()
    assert (probability <= 1).all()
    np.testing.assert_allclose((counts * probability).sum(), budget, rtol=1e-9)
    # in a class, never seen before hard before easy
    assert (np.diff(probability, axis=1) <= 1e-12).all()


def test_positions_are_kept_as_often_as_they_should():
    """Systematic sampling over 2,000 offsets: each position's share is its probability."""
    kinds = np.random.default_rng(0).integers(0, 3, 60)
    probability = np.array([1.0, 0.37, 0.2])
    length = 30
    rest = (kinds == 1) * 0.37 + (kinds == 2) * 0.2
    probability[1:] *= (length - (kinds == 0).sum()) / rest.sum()
    offsets = (np.arange(2000) + 0.5) / 2000
    counts = np.zeros(60)
    for offset in offsets:
        kept = keep_positions(kinds, probability, length, offset)
        assert len(kept) == length
        assert (np.diff(kept) > 0).all()
        counts[kept] += 1
    np.testing.assert_allclose(counts / 2000, probability[kinds], atol=1e-3)


def test_mean_gradient_is_the_full_one():
    """Over 1,000 draws of an epoch, each component of the mean gradient is within 4.5 standard
    errors of the full one: with 5 components this fails by chance once in 30,000 times."""
    features = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0))
    slope = (features * torch.from_numpy(LOSSES)[:, None].float()).numpy()  # correlated with loss
    draws, unscaled = [], []
    for seed in range(100):
        miner, sampler = make(seen=0.9, keep=0.4, seed=seed, inner={"num_samples": 500})
        full = np.bincount(sampler.inner.indices(), minlength=1000)
        for trial in range(10):
            sampler._forget()
            sampler.seed = 1000 * seed + trial
            drawn = sampler.indices()
            assert len(drawn) == 200
            weight = miner.weight(torch.from_numpy(drawn)).numpy()[:, None]
            target = full @ slope / 500
            draws.append((slope[drawn] * weight).mean(0) - target)
            unscaled.append(slope[drawn].mean(0) - target)
    for name, errors in (("scaled", np.array(draws)), ("unscaled", np.array(unscaled))):
        z = np.abs(errors.mean(0)) / (errors.std(0) / np.sqrt(len(errors)))
        assert (z < 4.5).all() if name == "scaled" else (z > 4.5).any(), (name, z)


def test_loss_is_weighted_and_remembered():
    miner, sampler = make(keep=0.5)
    indices = torch.from_numpy(sampler.indices())
    losses = 3 * torch.from_numpy(LOSSES).float()[indices]
    losses.requires_grad_()
    value = miner(losses, torch.from_numpy(LABELS)[indices], indices)
    p = miner.inclusion_probability(indices)
    torch.testing.assert_close(value, (losses * 0.5 / p).mean())
    value.backward()
    torch.testing.assert_close(losses.grad, 0.5 / p / len(p))
    np.testing.assert_allclose(miner.memory.losses()[indices], losses.detach(), rtol=1e-3)


def test_hard_ones_stay_and_classes_keep_their_shares():
    miner, sampler = make(keep=0.5)
    drawn = np.bincount(LABELS[sampler.inner.indices()])
    indices = sampler.indices()
    kept = np.bincount(LABELS[indices])
    assert np.abs(kept - drawn / 2).max() <= 1.0 + 1e-9
    p = miner.inclusion_probability(torch.arange(1000)).numpy()
    means = np.bincount(LABELS, LOSSES) / np.bincount(LABELS)
    hard = means[LABELS] <= LOSSES
    assert (p[hard] == 1).all()
    assert (p[~hard] < 1).all()
    assert p.min() >= miner.least
    assert set(sampler.inner.indices()[hard[sampler.inner.indices()]]) <= set(indices)


def test_never_seen_examples_are_kept():
    miner, sampler = make(seen=0.7, keep=0.5)
    new = np.isnan(miner.memory.losses())
    drawn = sampler.inner.indices()
    assert 0.2 < new.mean() < 0.4
    assert set(drawn[new[drawn]]) <= set(sampler.indices())
    assert (miner.inclusion_probability(torch.from_numpy(np.flatnonzero(new))) == 1).all()
    # more of them than fit in: all have the same probability, and the mean weight stays 1
    miner, sampler = make(seen=0.1, keep=0.5)
    drawn = torch.from_numpy(sampler.inner.indices())
    p = miner.inclusion_probability(drawn).double()
    assert p.sum().item() == pytest.approx(500, rel=1e-6)
    assert p.min().item() == pytest.approx(0.1)
    miner, sampler = make(seen=0)
    assert (miner.weight(torch.arange(1000)) == 1).all()
    assert len(sampler.indices()) == 500


def test_warm_up_and_final_epochs():
    settings = dict(warm_up=1, final=1, num_epochs=4)
    for fixed, lengths in ((True, [500] * 4), (False, [1000, 500, 500, 1000])):
        miner, sampler = make(fixed_length=fixed, **settings)
        found = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            found.append(len(sampler))
            assert len(list(sampler)) == len(sampler)
            if epoch in (0, 3):
                assert (miner.weight(torch.arange(1000)) == 1).all()
        assert found == lengths


def test_asking_twice_gives_the_same_whatever_is_remembered_meanwhile():
    miner, sampler = make()
    first = sampler.indices()
    miner.memory.update(torch.arange(1000), torch.rand(1000))
    sampler.set_epoch(0)
    np.testing.assert_array_equal(sampler.indices(), first)
    assert list(sampler) == first.tolist()
    sampler.set_epoch(1)
    sampler.set_epoch(0)
    assert sampler.indices().tolist() != first.tolist()


@pytest.mark.parametrize("replicas", [1, 2])
def test_state_goes_on_in_the_middle_of_an_epoch(replicas):
    miner, sampler = make(inner=dict(num_replicas=replicas))
    sampler.set_epoch(3)
    iterator = iter(sampler)
    for i in range(101):
        index = next(iterator)
        if i % 2:  # losses move while the epoch runs
            miner.memory.update(torch.tensor([index]), torch.tensor([0.0]))
    state = saved({"sampler": sampler.state_dict(), "miner": miner.state_dict()})
    weight = miner.weight(torch.arange(1000))
    rest = list(iterator)
    other_miner, other = make(seen=0, inner=dict(num_replicas=replicas))
    other_miner.load_state_dict(state["miner"])
    other.load_state_dict(state["sampler"])
    other.set_epoch(3)  # as loops do at the start of every epoch
    assert list(other) == rest
    assert torch.equal(other_miner.weight(torch.arange(1000)), weight)
    sampler.set_epoch(4), other.set_epoch(4)
    assert list(other) == list(sampler)


def test_with_a_data_loader():
    data = [(torch.tensor([float(LOSSES[i])]), int(LABELS[i]), i) for i in range(1000)]
    miner, sampler = make(seen=0, keep=0.25)
    loader = DataLoader(data, batch_size=50, sampler=sampler)
    seen = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        assert len(loader) == 5
        for losses, labels, indices in loader:
            miner(losses[:, 0], labels, indices)
        seen.append(miner.memory.num_seen)
    # never-seen ones come first: at least four of five draws of the first three epochs were new
    assert seen[2] > 0.8 * 750
    assert seen == sorted(seen)
    row = miner.tally.summary()
    assert row["num_seen"] == 1500
    assert row["mean_loss_kept"] > LOSSES.mean()


def test_multi_hot_targets_are_one_class():
    miner = LossPruning(0.5)
    sampler = miner.over(InOrder(10, targets=np.eye(10, 3, dtype=int)))
    miner.memory.update(torch.arange(10), torch.arange(10.0))
    assert set(range(5, 10)) <= set(sampler.indices().tolist()) | {5}
    assert miner(torch.rand(5, 3), None, torch.arange(5)).ndim == 0


WITHOUT_TARGETS = ExampleWeightedSampler([1.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (LossPruning().state_dict, RuntimeError, r"over\(sampler\) to be called first"),
        (lambda: LossPruning().over(range(3), LABELS), TypeError, r"an equipoise\.samplers"),
        (lambda: LossPruning().over(WITHOUT_TARGETS), TypeError, "targets to be given"),
        (lambda: make()[0](torch.rand(3)), ValueError, "indices, the example ids of the batch"),
        (lambda: make()[0].inclusion_probability([-1]), ValueError, r"in \[0, 1000\), but got -1"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=f"Expected .*{message}"):
        call()
