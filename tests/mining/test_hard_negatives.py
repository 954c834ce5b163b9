"""HardNegatives against a naive choice."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.mining import HardNegatives, hard_negatives


def naive_row(losses, positives, ratio, keep, trim, most):
    usable = [i for i, v in enumerate(losses) if math.isfinite(v)]
    chosen = {i for i in usable if positives[i]}
    negatives = sorted((i for i in usable if not positives[i]), key=lambda i: (-losses[i], i))
    wanted = keep * len(negatives) if ratio is None else ratio * len(chosen)
    wanted = min(max(math.ceil(wanted - 1e-6), 1), most or 99)
    skip = min(int(trim * len(negatives)), max(len(negatives) - wanted, 0))
    return chosen | set(negatives[skip : skip + wanted])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_equals_the_naive_choice(data):
    rows, labels = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    value = st.one_of(st.floats(0, 9, width=32), st.just(math.nan))
    losses = torch.tensor([[data.draw(value) for _ in range(labels)] for _ in range(rows)])
    positives = torch.tensor(
        [[data.draw(st.booleans()) for _ in range(labels)] for _ in range(rows)]
    )
    ratio = data.draw(st.sampled_from([None, 0.5, 1, 3]))
    keep = data.draw(st.sampled_from([0.25, 0.5, 1.0])) if ratio is None else None
    trim = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    per = data.draw(st.sampled_from(["example", "label"]))
    most = data.draw(st.sampled_from([None, 2, 5]))
    if most is not None:  # which of equal losses come first is not said then
        losses += torch.rand(rows, labels, generator=torch.Generator().manual_seed(0))
    options = dict(ratio=ratio, keep=keep, trim=trim, most=most)
    got = hard_negatives(losses, positives, per=per, **options)
    if per == "label":
        losses, positives, got = losses.T, positives.T, got.T
    for row, positive, chosen in zip(
        losses.tolist(), positives.tolist(), got.tolist(), strict=True
    ):
        expected = naive_row(row, positive, ratio, keep, trim, most)
        assert {i for i, on in enumerate(chosen) if on} == expected


def test_reductions():
    losses = torch.tensor([[0.5, 4.0, 3.0, 1.0], [2.0, 0.0, 0.0, 1.0]])
    targets = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])
    # chosen: .5 (positive) and 4 in the first row, 2 in the second, which has no positive
    for reduction, expected in (("mean", 6.5 / 3), ("positives", 6.5)):
        assert HardNegatives(1, reduction=reduction)(losses, targets).item() == pytest.approx(
            expected
        )


def test_ten_negatives_a_positive_by_default():
    losses = torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40)[None] < 2
    assert HardNegatives().select(losses, targets).sum() == 22
    assert hard_negatives(losses, targets).sum() == 22
