from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_score, recall_score

from equipoise import ClassRates
from equipoise.rates import LabelRates, smoothed_recalls

LOGITS = torch.randn(165, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(4, (165,), generator=torch.Generator().manual_seed(1))


def test_equals_scikit_learn():
    rates = ClassRates(4)
    for batch in zip(LOGITS.split(33), TARGETS.split(33), strict=True):
        rates.update(*batch)
    predicted = LOGITS.argmax(1)
    assert np.allclose(rates.recalls(), recall_score(TARGETS, predicted, average=None))
    assert np.allclose(rates.precisions(), precision_score(TARGETS, predicted, average=None))
    assert rates.support.tolist() == torch.bincount(TARGETS).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_every_floating_dtype_and_keeps_no_graph(dtype):
    rates = ClassRates(2)
    rates.update(
        torch.eye(2, dtype=dtype, requires_grad=True), torch.tensor([0, 0], dtype=torch.int32)
    )
    assert rates.recalls()[0] == 0.5


def test_nan_and_invalid_targets_are_counted_never_averaged_in():
    rates = ClassRates(2)
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rates.update(logits, torch.tensor([0, 0, -100, 7, 1]))
    assert rates.recalls().tolist() == [1.0, 1.0]
    assert rates.support.tolist() == [1, 1]
    assert (rates.num_nan, rates.num_invalid) == (1, 1)  # −100 is left out without a word


@pytest.mark.parametrize("make", [ClassRates, LabelRates])
def test_state_reset_and_bad_shapes(make):
    rates, other = make(4), make(4)
    logits, targets = LOGITS, TARGETS
    if make is LabelRates:
        targets = torch.nn.functional.one_hot(targets, 4)
    for z, y, words in (
        (torch.zeros(2, 3), targets[:2], "logits"),
        (torch.zeros(2), targets[:2], "logits"),
        (torch.zeros(2, 4), targets[:1], "targets"),
        (torch.zeros(2, 4), torch.zeros(2), "targets"),
    ):
        with pytest.raises(ValueError, match=f"Expected {words}"):
            rates.update(z, y)
    assert rates.support.sum() == 0
    rates.update(logits, targets)
    other.load_state_dict(rates.state_dict())
    rates.reset()
    assert rates.support.sum() == 0
    rates.update(logits, targets)
    assert torch.equal(rates.recalls(), other.recalls())
    with pytest.raises(ValueError, match=f"Expected state of {make.__name__} of as many classes"):
        make(3).load_state_dict(other.state_dict())


def test_smoothing_is_better_than_raw_recalls():
    """Mean squared error to the true recalls, 2,000 draws: lower by theory, here by far."""
    rng = np.random.default_rng(0)
    raw_error, smooth_error = 0.0, 0.0
    for _ in range(2000):
        true = rng.uniform(0.6, 0.9, 10)
        hits = rng.binomial(20, true)
        smooth = smoothed_recalls(torch.tensor(hits), torch.full((10,), 20)).numpy()
        raw_error += ((hits / 20 - true) ** 2).mean()
        smooth_error += ((smooth - true) ** 2).mean()
    assert smooth_error < 0.75 * raw_error


def test_unseen_classes_get_the_mean():
    smooth = smoothed_recalls(torch.tensor([90, 0, 30]), torch.tensor([100, 0, 100]))
    assert smooth[1] == pytest.approx(0.6)
    assert smoothed_recalls(torch.tensor([0, 0]), torch.tensor([0, 0])).tolist() == [0, 0]


def test_a_class_of_one_example_does_not_hide_the_spread_of_the_others():
    hits = torch.tensor([390, 440, 325, 310, 385, 350, 425, 420, 445, 1])
    support = torch.tensor([500] * 9 + [1])
    smooth = smoothed_recalls(hits, support)
    assert torch.allclose(smooth[:9], hits[:9].double() / 500, atol=0.02, rtol=0)
    assert abs(float(smooth[9]) - 0.8) < 0.05
