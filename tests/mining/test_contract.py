"""What every miner of losses promises, checked on each of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from equipoise import Balancer
from equipoise.mining import HardestExamples, HardNegatives, LossMemory, LossPruning, SamplerMiner
from equipoise.mining import SelectiveBackprop as Selective
from tests.mining.cases import CASES, batch
from tests.states import global_random_state, saved
from tests.waiting import NoWaiting


@pytest.fixture(params=CASES)
def make(request):
    return CASES[request.param]


def run(miner, batches, first=0):
    values = []
    for seed in range(first, first + batches):
        losses, targets, indices = batch(miner, seed=seed)
        values.append(miner(losses, targets, indices).item())
    return values


def test_the_seed_alone_decides_and_a_state_goes_on(make):
    values = run(make(seed=3), 8)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    before = global_random_state()
    assert values == run(make(seed=3), 8)
    assert before == global_random_state()
    begun = make(seed=3)
    assert run(begun, 5) == values[:5]
    resumed = make(seed=3)
    resumed.load_state_dict(saved(begun.state_dict()))
    if isinstance(begun, SamplerMiner):  # the running epoch's choice is the sampler's
        resumed.sampler.load_state_dict(saved(begun.sampler.state_dict()))
    assert run(resumed, 3, first=5) == values[5:]
    whole = make(seed=3)
    run(whole, 8)
    assert resumed.tally.summary() == whole.tally.summary()


def test_warm_up_and_final_epochs_use_all(make):
    miner = make(warm_up=1, final=2, num_epochs=5)
    active = []
    for epoch in range(5):
        miner.set_epoch(epoch)
        active.append(miner.active)
        losses, targets, indices = batch(miner)
        if not miner.active:
            torch.testing.assert_close(miner(losses, targets, indices), losses.mean())
    assert active == [False, True, True, False, False]


def test_nothing_waits_for_a_device(make, monkeypatch):
    monkeypatch.setattr(LossMemory, "check_indices", lambda self, indices, shape=None: indices)
    miner = make()
    losses, targets, indices = batch(miner)
    losses.requires_grad_()
    miner(losses, targets, indices).backward()  # plans the epoch
    with NoWaiting():
        miner(losses, targets, indices).backward()


def test_a_nan_is_never_chosen_and_is_counted(make):
    miner = make()
    losses, targets, indices = batch(miner)
    losses[3] = torch.nan
    losses[5] = torch.inf
    losses.requires_grad_()
    value = miner(losses, targets, indices)
    value.backward()
    assert torch.isfinite(value)
    assert losses.grad.isfinite().all()
    assert not losses.grad[[3, 5]].any()
    assert miner.tally.num_nonfinite == (14 if miner.multilabel else 2)


@pytest.mark.parametrize("size", [1, 20])
def test_the_loss_is_finite_and_zero_where_all_is_nan(make, size):
    miner = make()
    losses, targets, indices = batch(miner, size)
    assert torch.isfinite(miner(losses, targets, indices))
    assert miner(torch.full_like(losses, torch.nan), targets, indices).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(make, dtype):
    miner = make()
    losses, targets, indices = batch(miner)
    value = miner(losses.to(dtype), targets, indices)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(
        value.double(), make()(losses, targets, indices).double(), rtol=0.1, atol=0
    )


def test_tally_by_class():
    miner = HardestExamples(keep=0.5, num_classes=3)
    losses, targets, _ = batch(miner)
    miner(losses, targets)
    row = miner.tally.summary()
    assert row["seen_by_class"] == torch.bincount(targets, minlength=3).tolist()
    assert sum(row["kept_by_class"]) == row["num_kept"] == 10
    assert row["mean_loss_kept"] > row["mean_loss_dropped"]
    miner.tally.reset()
    assert miner.tally.summary()["num_seen"] == 0
    multilabel = HardNegatives(num_classes=7)
    losses, targets, _ = batch(multilabel)
    multilabel(losses, targets)
    assert multilabel.tally.summary()["seen_by_class"] == [20] * 7


KEEPS = [HardestExamples, Selective, LossPruning, lambda keep: HardNegatives(keep=keep)]


@pytest.mark.parametrize("keep", [0, 0.0, -0.5, 1.1, 2, float("nan"), True, "half"])
@pytest.mark.parametrize("miner", KEEPS)
def test_keep_out_of_range(miner, keep):
    with pytest.raises(ValueError, match=r"Expected keep to be a share in \(0, 1\], but got"):
        miner(keep=keep)


THREE = torch.zeros(3)
PAIRS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HardestExamples(keep=None), "Expected keep or threshold to be given"),
        (lambda: HardestExamples(0.9, trim=0.2), r"Expected keep \+ trim to be at most 1"),
        (lambda: HardestExamples(threshold=float("nan")), "Expected threshold to be a number"),
        (lambda: HardestExamples(final=1), "Expected num_epochs to be given with final=1"),
        (lambda: HardestExamples(warm_up=3, num_epochs=2), "Expected num_epochs to be at least"),
        (lambda: HardestExamples(warm_up=-1), "Expected warm_up to be at least 0"),
        (lambda: HardestExamples(num_classes=0), "Expected num_classes to be at least 1"),
        (lambda: HardestExamples().set_epoch(-1), "Expected epoch to be at least 0"),
        (lambda: HardestExamples()(torch.tensor(1.0)), r"Expected losses to be unreduced"),
        (lambda: HardestExamples()(torch.zeros(0)), "Expected losses of at least one example"),
        (lambda: HardestExamples()(THREE), "Expected targets to be 3 class ids"),
        (lambda: HardestExamples()(THREE, THREE), "but got torch.float32 of shape"),
        (lambda: HardNegatives(ratio=1, keep=0.5), "Expected ratio or keep, but got both"),
        (lambda: HardNegatives(ratio=0), "Expected ratio to be a finite number above 0"),
        (lambda: HardNegatives(per="batch"), "Expected per to be one of"),
        (lambda: HardNegatives(most=0), "Expected most to be at least 1"),
        (lambda: HardNegatives(reduction="total"), "Expected reduction to be one of"),
        (lambda: HardNegatives()(THREE, THREE), r"of shape \(B, C\), but got"),
        (lambda: HardNegatives()(PAIRS, PAIRS.T), r"Expected targets to be of shape \(3, 2\)"),
        (lambda: LossPruning(0.5, least=0.6), "Expected least to be at most keep=0.5"),
        (lambda: Selective(resolution=0), "Expected resolution to be a share"),
        (lambda: Selective(batch_size=0), "Expected batch_size to be at least 1"),
        (lambda: Selective(keep=0.8, trim=0.3), r"Expected keep \+ trim to be at most 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_estimated_cost_counts_passes():
    """A forward pass 1, a backward pass 2; measured: benchmarks/README.md, "Mining"."""
    labels = np.arange(400) % 4
    costs = {}
    for name in ("hardest-examples", "selective-backprop", "loss-pruning"):
        balancer = Balancer(labels, "plain", mining=name)
        model = torch.nn.Linear(4, 4)
        data = TensorDataset(torch.randn(400, 4), torch.as_tensor(labels), torch.arange(400))
        loader = DataLoader(data, batch_size=40, sampler=balancer.sampler)
        for inputs, targets, ids in balancer.mine(loader, model):
            balancer.loss(model(inputs), targets, ids)
        balancer.step()
        costs[name] = balancer.history[-1]["mining"]["estimated_cost"]
    expected = {"hardest-examples": 1, "selective-backprop": 1 / 3 + 1 / 2, "loss-pruning": 1 / 2}
    assert costs == pytest.approx(expected)
