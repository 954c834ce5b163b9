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


def naive_recalls(logits, targets):
    """Of the n best-scored examples of a label with n positives, the share that are positive."""
    columns = zip(logits.T, targets.T, strict=True)
    return np.array([y[z.topk(int(y.sum())).indices].double().mean() for z, y in columns])


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (3, -4), (5, 0), (1, -6)])
def test_equals_scikit_learn(scale, shift):
    """Whatever the logits' scale and shift: predicting more is not rewarded."""
    logits, targets = scored(scale=scale, shift=shift)
    rates = LabelRates(12)
    for part in zip(logits.split(257), targets.split(257), strict=True):
        rates.update(*part)
    exact = average_precision_score(targets, logits, average=None)
    off = np.abs(rates.average_precisions().numpy() - exact)
    assert off.max() < 0.005
    assert off.mean() < 0.001
    off = np.abs(rates.recalls().numpy() - naive_recalls(logits, targets))
    assert (off * targets.sum(0).numpy()).max() < 2.5  # hits
    assert off.mean() < 0.004
    assert rates.support.tolist() == targets.sum(0).tolist()


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
    rates = LabelRates(12)
    rates.update(*scored(scale=scale, shift=shift))
    with pytest.warns(UserWarning, match="The scores lie so close together"):
        rates.average_precisions()
