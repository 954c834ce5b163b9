"""Rates of one's own move λ, and a Balancer needs class counts only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise import Balancer, Targets
from equipoise.rates import GivenRates, smoothed_recalls
from equipoise.weighting import DoReMi, Fair, TargetShares, WorstClass
from tests.test_balancer import LABELS, observed, saved

NAN = float("nan")


@pytest.mark.parametrize("support", [None, [200, 200, 200]])
def test_rates_given_move_the_weights_as_recalls_observed_do(support):
    seen, given = Balancer(LABELS), Balancer(LABELS)
    for recalls in ([0.9, 0.6, 0.3], [0.8, 0.6, 0.5]):
        observed(seen, recalls)
        given.observe_rates(torch.tensor(recalls, dtype=torch.float64), support)
        state, given = saved(given.state_dict()), Balancer(LABELS)
        given.load_state_dict(state)  # which has the rates given
        seen.step()
        given.step()
    assert np.allclose(seen.log_weight, given.log_weight, atol=0.02 if support is None else 1e-12)
    assert given.history[-1]["rates"] == pytest.approx([0.8, 0.6, 0.5])
    assert given.report().outcomes == []


def test_rates_without_support_are_taken_as_they_are():
    balancer = Balancer(LABELS, WorstClass(rate=2, mix=0))
    balancer.observe_rates([0.5, 0.45, NAN])
    balancer.step()  # of the last class nothing is known
    assert balancer.log_weight[1] - balancer.log_weight[0] == pytest.approx(0.1)
    noisy = Balancer(LABELS, WorstClass(rate=2, mix=0))
    noisy.observe_rates([0.5, 0.45, 0.5], support=[20, 20, 20])
    noisy.step()
    assert np.allclose(noisy.log_weight, 0)


def test_calls_are_averaged_by_their_support():
    rates = GivenRates(3)
    rates.update([0.5, 1.0, NAN], [30, 10, 0])
    rates.update(np.array([0.9, 0.0, NAN]), torch.tensor([10, 10, 7]))
    pooled = smoothed_recalls(torch.tensor([24, 10, 0]), torch.tensor([40, 20, 0]))
    assert torch.allclose(rates.recalls(None), pooled)
    rates.update([0.0, 0.0, 0.0])  # alike, and not to be drawn together
    assert rates.recalls(None).tolist() == pytest.approx([24 / 41, 10 / 21, 0])
    rates.reset()
    assert not rates.support.any()


COUNTS = Targets.from_class_counts([60, 30, 10])
RATES = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Balancer(LABELS).observe_rates([0.5, 0.5]), "rates to be 3 numbers in"),
        (lambda: Balancer(LABELS).observe_rates([0.5, 0.5, 1.5]), "rates to be 3 numbers in"),
        (lambda: Balancer(LABELS).observe_rates(RATES, [1, 2]), "support to be 3 numbers"),
        (lambda: Balancer(LABELS).observe_rates(RATES, [1, 2, -1]), "support to be 3 numbers"),
        (lambda: DoReMi(mix=0), "rate to be above 0 and mix"),
        (lambda: Balancer(LABELS, DoReMi(reference=[1.0])), "reference to be losses of 3"),
        (lambda: list(Balancer(COUNTS).sampler), "targets of balancer.sampler to hold the labels"),
        (
            lambda: Balancer(Targets.from_class_counts([60, 30, 10], num_examples=80)),
            "sampler to be None for Targets",
        ),
    ],
)
def test_what_cannot_be_is_named(call, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        call()


def test_doremi_is_algorithm_1():
    counts, reference = np.array([50, 30, 20]), np.array([1.0, 2.0, 3.0])
    balancer = Balancer(np.repeat(np.arange(3), counts), DoReMi(0.5, 0.1, reference))
    α, shares = np.full(3, 1 / 3), []
    assert np.allclose(balancer.sampler.expected_draws(), 100 / 3)
    for losses in ([1.5, 5.0, 2.0], [1.5, 4.0, 9.0]):
        balancer.observe_rates(losses)
        balancer.step()
        α = α * np.exp(0.5 * np.maximum(np.array(losses) - reference, 0))
        α = 0.9 * α / α.sum() + 0.1 / 3
        shares.append(α)
        assert np.allclose(balancer.sampler.expected_draws(), 100 * α)
    assert np.allclose(balancer.policy.mean_shares, np.mean(shares, 0))
    other = DoReMi(0.5, 0.1, reference)
    other.start(counts)
    other.load_state_dict(balancer.policy.state_dict())
    assert np.array_equal(
        other.step(None, reference + 1), balancer.policy.step(None, reference + 1)
    )


def test_doremi_asks_for_losses_and_survives_large_ones():
    balancer = Balancer(LABELS, DoReMi(mix=0.3))
    observed(balancer, [0.9, 0.8, 0.7])
    with pytest.raises(RuntimeError, match="Expected observe_rates"):
        balancer.step()
    balancer.observe_rates([1e4, 0.0, 0.0])
    balancer.step()
    assert balancer.sampler.expected_draws() == pytest.approx([80, 10, 10])


def test_class_counts_are_enough_for_weights_and_losses():
    whole, counts = Balancer(LABELS, Fair()), Balancer(COUNTS, Fair())
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(8) % 3
    for balancer in (whole, counts):
        balancer.observe_rates([0.9, 0.6, 0.3])
        balancer.step()
    assert np.array_equal(whole.log_weight, counts.log_weight)
    assert whole.loss(logits, targets) == counts.loss(logits.requires_grad_(), targets)
    assert torch.equal(whole.correct(logits), counts.correct(logits))
    assert np.allclose(whole.sampler.expected_draws(), counts.sampler.expected_draws())
    assert counts.position == 8
    other = Balancer(COUNTS, Fair())
    other.load_state_dict(saved(counts.state_dict()))
    assert np.array_equal(other.sampler.expected_draws(), counts.sampler.expected_draws())
    assert other.position == 8


def test_labels_without_an_index_leave_all_to_the_loss():
    targets = Targets.from_class_counts([60, 30, 10], num_examples=80)
    balancer = Balancer(targets, "inverse-frequency", sampler=None)
    assert balancer.sampler_share == 0
    assert balancer.sampler.expected_draws().tolist() == [60, 30, 10]
    single = Balancer(COUNTS, TargetShares([0.2, 0.3, 0.5]))
    assert single.sampler.expected_draws() == pytest.approx([20, 30, 50])
