"""Labels of which some entries are unknown: left out everywhere, by any value that marks them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise import Balancer
from equipoise.decision import label_thresholds
from equipoise.mining import MINERS
from equipoise.targets import Targets

UNKNOWN = [-1.0, 2.0, float("nan")]


def made(n: int, labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Calibrated logits, truths, and a mask in which 40% are unknown."""
    draw = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(n, labels, generator=draw) - torch.linspace(0, 3, labels)
    y = (torch.rand(n, labels, generator=draw) < z.sigmoid()).float()
    return z, y, torch.rand(n, labels, generator=draw) < 0.4


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("mining", [None, *(m for m in MINERS if m != "selective-backprop")])
@pytest.mark.parametrize("loss", ["weighted-bce", "asymmetric", "focal"])
@pytest.mark.filterwarnings("error")
def test_a_balancer_leaves_them_out(unknown, mining, loss):
    """No loss, no gradient, no warning; the rates are those of the known entries."""
    z, y, hidden = made(64, 5)
    marked = torch.where(hidden, unknown, y)
    balancer = Balancer(Targets(marked.numpy(), unknown=unknown), mining=mining, loss=loss)
    z.requires_grad_()
    value = balancer.loss(z, marked, torch.arange(64))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()
    assert not z.grad[hidden].any()
    assert z.grad[~hidden].any()
    balancer.observe(z.detach(), marked)
    balancer.step()
    assert balancer.history[0]["support"] == y.where(~hidden, 0).sum(0).tolist()


def test_weights_come_from_the_known():
    marked = np.array([[1.0, -1], [0, -1], [0, 1], [0, 0]])
    loss = Balancer(Targets(marked, unknown=-1)).loss_function
    np.testing.assert_allclose(loss.pos_weight, np.sqrt([3, 1]))


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("objective", ["prevalence", "f1", "recall", "precision", "equal-recall"])
def test_thresholds_are_about_those_of_all(objective, unknown):
    """40% hidden at random move no threshold by more than three standard errors of about .08."""
    z, y, hidden = made(20_000, 4)
    least = {"at_least": 0.6} if objective in ("recall", "precision") else {}
    all_known = label_thresholds(z, y, objective, **least)
    found = label_thresholds(
        z, torch.where(hidden, unknown, y), objective, unknown=unknown, **least
    )
    assert (found - all_known).abs().max() < 0.25
    nothing_hidden = label_thresholds(z, y, objective, unknown=unknown, **least)
    torch.testing.assert_close(nothing_hidden, all_known)


def test_a_balancer_decides_by_the_known_where_taking_them_for_negatives_would_be_wrong():
    z, y, hidden = made(4000, 4)
    marked = torch.where(hidden, -1, y)
    balancer = Balancer(Targets(marked.numpy(), unknown=-1), loss="asymmetric")
    balancer.fit_decision(z, marked)
    assert ((balancer.decide(z).sum(0) / y.sum(0) - 1).abs() < 0.15).all()
    naive = label_thresholds(z, y.where(~hidden, 0))
    assert ((z > naive).sum(0) / y.sum(0) < 0.7).all()
