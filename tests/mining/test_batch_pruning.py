"""Pruning batch by batch: unbiased, exact lengths, by the losses of the running epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.mining import LossPruning
from equipoise.mining.batch_pruning import scaled_to
from equipoise.samplers import ClassBalancedSampler, ExampleWeightedSampler
from tests.mining.test_contract import saved
from tests.mining.test_loss_pruning import LABELS, LOSSES, make

BATCH, AHEAD = 20, 3


def batches(sampler, first=0, drawn=()):
    """The epoch's batches from a position on; AHEAD are drawn when one is handed out: FFCV."""
    waiting, length = list(drawn), sampler.num_samples
    at = first + sum(map(len, waiting))
    for _ in range(-(-(length - first) // BATCH)):
        while len(waiting) < AHEAD and at < length:
            waiting.append(sampler.take(at, min(at + BATCH, length)))
            at = min(at + BATCH, length)
        sampler.hand_out()
        ids = waiting.pop(0)
        yield torch.from_numpy(ids), waiting


def remember(miner, ids, noise=0.0):
    losses = torch.from_numpy(LOSSES).float()[ids]
    miner(losses * (1 + noise), torch.from_numpy(LABELS)[ids], ids)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 9)), min_size=1, max_size=9),
    st.floats(0.01, 1),
)
def test_scaled_probabilities_sum_to_the_length(kinds, share):
    probability, counts = np.array(kinds).T
    if not counts.sum():
        return
    scaled = scaled_to(probability, counts, share * counts.sum())
    assert (scaled > 0).all()
    assert (scaled <= 1).all()
    np.testing.assert_allclose((scaled * counts).sum(), share * counts.sum(), rtol=1e-9)
    free = (scaled < 1) & (counts > 0)
    ratio = scaled[free] / probability[free]
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio)), rtol=1e-9)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.37])
@pytest.mark.parametrize("active", [True, False])
def test_length_weights_and_candidates(keep, active):
    miner, sampler = make(seen=0.9, keep=keep, warm_up=0 if active else 9)
    drawn = []
    for ids, _ in batches(sampler):
        probability = sampler.inclusion_probability(ids)
        assert (probability > 0).all()
        assert (probability <= 1).all()
        np.testing.assert_allclose(miner.weight(ids), sampler.share / probability)
        remember(miner, ids)
        drawn += ids.tolist()
    assert len(drawn) == sampler.num_samples == round(keep * 1000)
    few = np.bincount(drawn, minlength=1000) - np.bincount(sampler.inner.indices(), minlength=1000)
    assert few.max() <= 0, "every draw is one of the inner sampler's"
    if keep == 1:
        assert (miner.weight(torch.tensor(drawn)) == 1).all()


def test_mean_gradient_is_the_full_one():
    """Over 600 epochs whose losses move as they run, each component of the mean gradient is within
    4.5 standard errors of the full one: with 5 components this fails once in 30,000 times."""
    features = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0))
    slope = (features * torch.from_numpy(LOSSES)[:, None].float()).numpy()  # correlated with loss
    weighted, plain = [], []
    rng = np.random.default_rng(0)
    for seed in range(600):
        miner, sampler = make(seen=0.9, keep=0.37, seed=seed, inner={"num_samples": 300})
        full = np.bincount(sampler.inner.indices(), minlength=1000) @ slope / 300
        scaled, unscaled = np.zeros(5), np.zeros(5)
        for ids, _ in batches(sampler):
            scaled += (slope[ids] * miner.weight(ids).numpy()[:, None]).sum(0)
            unscaled += slope[ids].sum(0)
            remember(miner, ids, noise=rng.random())
        weighted.append(scaled / 111 - full)
        plain.append(unscaled / 111 - full)
    for name, errors in (("weighted", np.array(weighted)), ("plain", np.array(plain))):
        z = np.abs(errors.mean(0)) / (errors.std(0) / np.sqrt(len(errors)))
        assert (z < 4.5).all() if name == "weighted" else (z > 4.5).any(), (name, z)


def test_an_example_in_several_batches_at_once_has_each_batchs_own_weight():
    """One example comes again and again; its loss, and so its probability, changes on the way."""
    miner = LossPruning(0.5)
    sampler = miner.over(ExampleWeightedSampler([15.0, 1.0, 1.0], num_samples=320), [0, 0, 0])
    told, kept = [], []
    take = sampler.take

    def take_and_note(first, last):
        ids = take(first, last)
        kept.append(sampler._batches._waiting[-1][1].clone())
        return ids

    sampler.take = take_and_note
    for k, (ids, _) in enumerate(batches(sampler)):
        told.append(miner.inclusion_probability(ids))
        miner.memory.update(torch.arange(3), torch.tensor([float(k % 3), 1.0, 2.0]))
    assert len({round(float(p[0]), 4) for p in told}) > 2
    for one, other in zip(told, kept, strict=True):
        assert torch.equal(one, other)


def test_losses_of_the_running_epoch_act_after_the_batches_drawn_ahead():
    """Once examples with odd ids are known as hard, they are preferred, not before."""
    miner, sampler = make(seen=0, keep=0.25, least=0.01)
    odd = torch.arange(1000) % 2
    miner.memory.update(torch.arange(1000), torch.ones(1000))
    shares = []
    for k, (ids, _) in enumerate(batches(sampler)):
        shares.append(float(odd[ids].float().mean()))
        if k == 3:
            miner.memory.update(torch.arange(1000), odd + 0.5)
    at = 3 + AHEAD
    assert max(shares[:at]) < 0.8 < min(shares[at:])


def test_classes_keep_their_shares():
    """Of 40 epochs of 500 draws each class's share is within .01 of the inner sampler's."""
    miner, sampler = make(keep=0.5)
    counts, inner = np.zeros(4), np.zeros(4)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        inner += sampler.inner.quotas
        for ids, _ in batches(sampler):
            counts += np.bincount(LABELS[ids], minlength=4)
            remember(miner, ids)
    np.testing.assert_allclose(counts / counts.sum(), inner / inner.sum(), atol=0.01)


def test_new_class_weights_act_in_the_running_epoch():
    _, sampler = make(keep=0.5)
    seen = []
    for k, (ids, _) in enumerate(batches(sampler)):
        seen.append(LABELS[ids])
        if k == 5:
            sampler.set_log_weight([0, 0, 0, 30.0])
    assert set(np.concatenate(seen[5 + AHEAD :])) == {3}
    assert set(np.concatenate(seen[: 5 + AHEAD])) == {0, 1, 2, 3}


@pytest.mark.parametrize("at", [0, 7, 23])
def test_state_goes_on_in_mid_epoch(at):
    def run(miner, sampler, first=0, drawn=()):
        for ids, waiting in batches(sampler, first, drawn):
            weight = miner.weight(ids)
            remember(miner, ids, noise=float(ids[0]) / 1000)
            yield torch.stack([ids.double(), weight.double()]), waiting

    def begun():
        miner, sampler = make(seen=0.5, keep=0.5)
        for _ in run(miner, sampler):
            pass
        sampler.set_epoch(1)
        return miner, sampler

    whole = torch.cat([seen for seen, _ in run(*begun())], 1)
    miner, sampler = begun()
    epoch = run(miner, sampler)
    first, waiting = [], []
    for _ in range(at + 1):
        seen, waiting = next(epoch)
        first.append(seen)
    state = saved({"sampler": sampler.state_dict(), "miner": miner.state_dict()})
    miner, sampler = make(seen=0, keep=0.5)
    miner.load_state_dict(state["miner"])
    sampler.load_state_dict(state["sampler"])
    sampler.set_epoch(1)
    rest = [seen for seen, _ in run(miner, sampler, (at + 1) * BATCH, waiting)]
    assert torch.equal(torch.cat(first + rest, 1), whole)


def test_an_epoch_drawn_at_once_after_one_drawn_by_batch():
    miner, sampler = make(keep=0.5)
    expected = sampler.indices()
    weight = miner.weight(torch.from_numpy(expected))
    for ids, _ in batches(sampler):
        assert miner.weight(ids).isfinite().all()
    assert sampler.indices().tolist() == expected.tolist()
    assert torch.equal(miner.weight(torch.from_numpy(expected)), weight)


def test_multi_hot_targets_are_one_class():
    targets = np.eye(10, 3, dtype=int)[:, [0, 1, 2]]
    miner = LossPruning(0.5)
    sampler = miner.over(ExampleWeightedSampler(np.ones(10)), targets)
    miner.memory.update(torch.arange(10), torch.arange(10.0))
    ids = sampler.take(0, 5)
    assert set(ids.tolist()) == {5, 6, 7, 8, 9}


def test_a_class_balanced_sampler_alone_is_exact():
    inner = ClassBalancedSampler(LABELS)
    sampler = LossPruning(1.0).over(inner)
    drawn = np.concatenate([ids for ids, _ in batches(sampler)])
    assert np.bincount(LABELS[drawn]).tolist() == inner.quotas.tolist()
