from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from equipoise.rates import LabelRates


def scored(examples=3000, labels=12, scale=1.0, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prevalence = torch.logspace(-2, -0.3, labels)
    targets = (torch.rand(examples, labels, generator=generator) < prevalence).to(torch.uint8)
    noise = torch.randn(examples, labels, generator=generator)
    return (noise + 1.5 * targets) * scale + shift, targets


def rates_of(logits, targets, batch=257):
    rates = LabelRates(logits.shape[1])
    for part in zip(logits.split(batch), targets.split(batch), strict=True):
        rates.update(*part)
    return rates


def naive_recalls(logits, targets):
    """Of the n best-scored examples of a label with n positives, the share that are positive."""
    best = [z.topk(int(y.sum())).indices for z, y in zip(logits.T, targets.T, strict=True)]
    return np.array([y[i].double().mean() for i, y in zip(best, targets.T, strict=True)])


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (3, -4), (5, 0), (1, -6)])
def test_equals_scikit_learn(scale, shift):
    logits, targets = scored(scale=scale, shift=shift)
    rates = rates_of(logits, targets)
    exact = average_precision_score(targets, logits, average=None)
    assert np.abs(rates.average_precisions().numpy() - exact).max() < 0.005
    assert np.abs(rates.average_precisions().numpy() - exact).mean() < 0.001
    off = np.abs(rates.recalls().numpy() - naive_recalls(logits, targets))
    assert (off * targets.sum(0).numpy()).max() < 2.5  # hits
    assert off.mean() < 0.004
    assert rates.support.tolist() == targets.sum(0).tolist()


def test_a_shift_of_the_logits_changes_nothing():
    """Predicting more is not rewarded."""
    logits, targets = scored()
    plain, shifted = rates_of(logits, targets), rates_of(logits + 3.0, targets)
    assert torch.allclose(plain.recalls(), shifted.recalls(), atol=0.02)
    assert torch.allclose(plain.average_precisions(), shifted.average_precisions(), atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32, "sparse"])
def test_takes_every_dtype_of_logits_and_targets(dtype, kind):
    logits = torch.tensor([[2, -1], [1, -9], [-100, -3]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[1, 1], [0, 0], [0, 0]])
    rates = LabelRates(2)
    rates.update(logits, targets.float().to_sparse() if kind == "sparse" else targets.to(kind))
    assert rates.recalls().tolist() == [1, 1]
    assert rates.average_precisions().tolist() == [1, 1]


def test_infinite_logits_are_the_highest_and_lowest():
    rates = LabelRates(1)
    rates.update(torch.tensor([[torch.inf], [0.0], [-torch.inf]]), torch.tensor([[1], [0], [0]]))
    assert rates.recalls().tolist() == [1]


def test_nan_and_unknown_targets_are_counted_never_averaged_in():
    nan = float("nan")
    rates = LabelRates(2)
    rates.update(
        torch.tensor([[1.0, 1.0], [nan, 0.0], [nan, nan], [9.0, 0.5], [0.0, 9.0]]),
        torch.tensor([[1, 1], [1, 0], [1, 1], [0, -1], [0, -1]]),
    )
    assert rates.support.tolist() == [1, 1]
    assert rates.recalls().tolist() == [0, 1]
    assert (rates.num_nan, rates.num_invalid) == (2, 2)


def test_labels_without_positives():
    rates = LabelRates(3)
    rates.update(torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert rates.recalls().tolist() == [1, 0, 0.5]  # the mean of the others
    assert rates.average_precisions().isnan().tolist() == [False, False, True]
    assert LabelRates(2).recalls().tolist() == [0, 0]


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="Expected num_labels"):
        LabelRates(0)
    with pytest.raises(ValueError, match="Expected num_bins"):
        LabelRates(2, num_bins=0)


@pytest.mark.parametrize(("scale", "shift"), [(0.02, 0.0), (0.002, 0.0), (0.02, -12.0)])
def test_average_precision_of_concentrated_scores_says_that_it_is_unsure(scale, shift):
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(3000, 4, generator=generator) < 0.1
    scores = torch.randn(3000, 4, generator=generator) + 1.5 * targets
    rates = LabelRates(4)
    rates.update(scale * scores + shift, targets)
    with pytest.warns(UserWarning, match="The scores lie so close together"):
        rates.average_precisions()
    spread = LabelRates(4)
    spread.update(scores, targets)
    exact = average_precision_score(targets, scores, average=None)
    assert np.allclose(spread.average_precisions(), exact, atol=0.005)
