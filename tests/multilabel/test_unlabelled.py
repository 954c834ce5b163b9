"""thresholds_at_prevalence against counting, and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.decision import thresholds_at_prevalence


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_predicted_share_is_the_prevalence(data):
    examples, labels = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    ranks = torch.rand(examples, labels, generator=generator).argsort(0)  # no two are equal
    logits = ranks.to(data.draw(st.sampled_from([torch.float64, torch.float32, torch.float16])))
    share = [data.draw(st.floats(0, 1)) for _ in range(labels)]
    cut = thresholds_at_prevalence(logits, torch.tensor(share, dtype=torch.float64))
    assert cut.dtype == torch.float32
    assert (logits.float() > cut).sum(0).tolist() == [math.floor(p * examples + 0.5) for p in share]


def test_a_drift_of_scores_changes_no_prediction():
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    share = torch.tensor([0.0, 0.01, 0.5, 1.0])
    before = logits > thresholds_at_prevalence(logits, share)
    drifted = 0.5 * logits + torch.tensor([3.0, -2.0, 1.0, 5.0])
    assert torch.equal(drifted > thresholds_at_prevalence(drifted, share), before)
    assert before.sum(0).tolist() == [0, 5, 250, 500]


def test_equal_logits_fall_on_one_side():
    logits = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    assert (logits > thresholds_at_prevalence(logits, torch.tensor([0.5]))).sum() == 2
    assert (logits > thresholds_at_prevalence(logits, torch.tensor([0.25]))).sum() == 0


def test_many_labels_are_done_in_parts(monkeypatch):
    monkeypatch.setattr("equipoise.decision.thresholds._AT_A_TIME", 300)
    logits = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0.05, 0.5, 10)
    cut = thresholds_at_prevalence(logits, share)
    assert (logits > cut).sum(0).tolist() == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]


@pytest.mark.parametrize(
    ("logits", "prevalence", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"Expected logits to be \(N, C\) with N above 0"),
        (torch.zeros(0, 3), torch.zeros(3), r"got \(0, 3\) and \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2), r"got \(2, 3\) and \(2,\)"),
        (torch.full((2, 1), torch.inf), torch.zeros(1), "logits to be finite, but got inf"),
        (torch.full((2, 1), torch.nan), torch.zeros(1), "logits to be finite, but got nan"),
        (torch.zeros(2, 1), torch.tensor([1.5]), r"shares in \[0, 1\], but got 1.5"),
        (torch.zeros(2, 1), torch.tensor([torch.nan]), r"shares in \[0, 1\], but got nan"),
    ],
)
def test_errors(logits, prevalence, message):
    with pytest.raises(ValueError, match=message):
        thresholds_at_prevalence(logits, prevalence)
