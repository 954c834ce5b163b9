"""The k best labels: against a search over all choices, and what an exponent does."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from equipoise import Balancer
from equipoise.decision import fit_label_decision, top_k, top_k_front

SHARES = torch.tensor([0.6, 0.4, 0.2, 0.05, 0.02])


def sample(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, 5, generator=generator) < SHARES).to(torch.uint8)
    return torch.randn(n, 5, generator=generator) + 2 * y + torch.logit(SHARES) - 1, y


@pytest.mark.parametrize("rate", [0.0, 0.7, 5.0, float("inf")])
def test_no_other_choice_of_k_has_a_higher_expected_utility(rate):
    z, _ = sample(20, 0)
    eta, shares = z.double().sigmoid().numpy(), SHARES.double().numpy()
    for k in (1, 2, 3):
        of_hits = (1 / shares if rate == np.inf else 1 / k + rate / (5 * shares)) / len(z)
        chosen = top_k(z, k, SHARES, rate)
        for row, ids in zip(eta * of_hits, chosen.numpy(), strict=True):
            best = max(sum(row[list(some)]) for some in combinations(range(5), k))
            assert sum(row[ids]) == pytest.approx(best, rel=1e-5)
            assert (np.diff(row[ids]) <= 1e-9).all()  # the best first
    assert torch.equal(top_k(z, 2), z.topk(2).indices)


def test_a_rate_raises_macro_recall_and_its_price_holds_on_other_data():
    z, y = sample(4000, 1)
    prior, rows = top_k_front(z, y, 2)
    assert torch.allclose(prior, SHARES, rtol=0.25)
    assert rows[0]["price"] == 0
    assert rows[-1]["macro_recall"] > rows[0]["macro_recall"] + 0.1
    decision = fit_label_decision(z, y, "top-k", k=2, max_price=0.02)
    assert decision.rate > 0
    assert [r["price"] for r in rows if r["rate"] <= decision.rate][-1] <= 0.02
    fresh, truth = sample(4000, 2)
    plain = truth.gather(1, top_k(fresh, 2)).double().mean()
    decided = truth.gather(1, decision.top(fresh)).double().mean()
    assert plain - decided < 0.02 + 3 * (0.25 / 8000) ** 0.5
    assert torch.equal(decision.top(fresh), top_k(fresh, 2, prior, decision.rate))
    assert fit_label_decision(z, y, "top-k", k=2, max_price=None).rate == np.inf


def test_a_balancer_decides_and_resumes():
    z, y = sample(1000, 3)
    balancer = Balancer(y)
    values = balancer.fit_decision(z, y, "top-k", k=2)
    assert values.shape == (5,)
    predicted = balancer.decide(z)
    assert (predicted.sum(1) == 2).all()
    again = Balancer(y)
    again.load_state_dict(balancer.state_dict())
    assert torch.equal(again.decide(z), predicted)


def test_what_is_refused():
    z, y = sample(50, 4)
    for k in (0, 6, 1.5):
        with pytest.raises(ValueError, match="k from 1 to C"):
            top_k(z, k)
    with pytest.raises(ValueError, match="5 frequencies above 0"):
        top_k(z, 1, torch.zeros(5))
    for objective, k in (("top-k", None), ("f1", 2)):
        with pytest.raises(ValueError, match='Expected k for objective="top-k"'):
            fit_label_decision(z, y, objective, k=k)
    with pytest.raises(ValueError, match="max_price to be at least 0"):
        fit_label_decision(z, y, "top-k", k=1, max_price=-1.0)
    with pytest.raises(ValueError, match="k for labels only"):
        Balancer(torch.arange(9) % 3).fit_decision(torch.eye(3), torch.arange(3), k=1)
    with pytest.raises(ValueError, match='of the objective "top-k"'):
        fit_label_decision(z, y).top(z)
