"""HardestExamples against a naive choice, and what its shares are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.losses import WeightedCrossEntropy
from equipoise.mining import HardestExamples, hardest_examples
from equipoise.mining.hardest_examples import hardest

finite_or_not = st.one_of(st.floats(0, 9, width=32), st.just(math.nan), st.just(math.inf))


def naive(losses, share, groups, offset):
    """Group by group: the largest finite losses, by the difference of rounded-down shares."""
    chosen, start = set(), 0
    for group in sorted(set(groups)):
        members = [i for i, g in enumerate(groups) if g == group and math.isfinite(losses[i])]
        end = start + len(members)
        quota = math.floor(share * end + offset + 1e-9) - math.floor(share * start + offset + 1e-9)
        chosen |= set(sorted(members, key=lambda i: (-losses[i], i))[:quota])
        start = end
    return [i in chosen for i in range(len(losses))]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(finite_or_not, st.integers(0, 3)), min_size=1, max_size=30),
    st.floats(0.01, 1),
    st.floats(0, 0.99),
)
def test_equals_the_naive_choice(pairs, share, offset):
    losses, groups = zip(*pairs, strict=True)
    got = hardest(torch.tensor(losses), share, torch.tensor(groups), offset=offset)
    assert got.tolist() == naive(losses, share, groups, offset)


def test_at_least_one_of_a_batch_and_those_above_the_threshold():
    losses = torch.tensor([0.3, 0.1, 0.9, 0.5, 0.7])
    assert hardest_examples(losses, 0.01).tolist() == [False, False, True, False, False]
    assert hardest_examples(losses, 0.2, threshold=0.5).tolist() == [False, False, True, True, True]
    assert hardest_examples(losses, None, threshold=5.0).tolist() == [False] * 5


@pytest.mark.parametrize("share", [0.29, 0.57, 0.58, 0.1, 0.3, 0.7, 1.0])
def test_a_whole_number_is_not_rounded_down(share):
    assert int(hardest(torch.rand(100), share).sum()) == round(100 * share)


@pytest.mark.parametrize("settings", [{}, {"trim": 0.1}])
def test_class_shares_stay_within_one_percent(settings):
    """A long-tailed stream in batches: each class keeps `keep` of its examples within 1%."""
    share = torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01])
    generator = torch.Generator().manual_seed(0)
    # the rare classes are much harder, so that plain top-k would take them nearly alone
    miner = HardestExamples(keep=0.3, num_classes=5, **settings)
    unequal = HardestExamples(keep=0.3, num_classes=5, per_class=False)
    on_average, rough = HardestExamples(keep=0.3, **settings), []
    for _ in range(1000):
        targets = torch.multinomial(share, 64, replacement=True, generator=generator)
        losses = torch.rand(64, generator=generator) + targets
        miner(losses, targets)
        unequal(losses, targets)
        rough.append((targets, targets[on_average.select(losses, targets)]))
    row = miner.tally.summary()
    seen, kept = (torch.tensor(row[k]).double() for k in ("seen_by_class", "kept_by_class"))
    assert (kept - 0.3 * seen).abs().max() <= 1
    moved = (kept / kept.sum()) / (seen / seen.sum()) - 1
    assert moved.abs().max() < 0.01
    # without num_classes only on average: rounding in a batch has an sd of at most 1/2
    seen, kept = (torch.bincount(torch.cat(c), minlength=5) for c in zip(*rough, strict=True))
    assert (kept / kept.sum() - seen / seen.sum()).abs().max() < 0.01
    assert (kept - 0.3 * seen).abs().max() < 4 * 0.5 * 1000**0.5
    kept = torch.tensor(unequal.tally.summary()["kept_by_class"]).double()
    assert (kept / kept.sum() - seen / seen.sum()).abs().max() > 0.3


def test_gradient_reaches_the_hardest_alone():
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = torch.arange(12) % 3
    losses = WeightedCrossEntropy(torch.tensor([1.0, 2.0, 3.0])).unreduced(logits, targets)
    value = HardestExamples(keep=0.5, per_class=False)(losses, targets)
    top = losses.topk(6)
    torch.testing.assert_close(value, top.values.mean())
    value.backward()
    touched = logits.grad.abs().sum(1) > 0
    assert set(touched.nonzero().squeeze(1).tolist()) == set(top.indices.tolist())


def test_losses_of_labels_are_averaged():
    losses = torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    assert HardestExamples(0.5, per_class=False)(losses).item() == 2.0
