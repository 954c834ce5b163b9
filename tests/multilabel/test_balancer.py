from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from equipoise import Balancer
from equipoise.losses import AsymmetricLoss, SigmoidFocalLoss, WeightedBCE
from equipoise.samplers import LabelBalancedSampler
from equipoise.weighting import POLICIES, EqualRecall
from tests.test_balancer import observed

FOR_LABELS = [name for name, policy in POLICIES.items() if not policy.needs_training_recalls]
GENERATOR = np.random.default_rng(0)
LABELS = (GENERATOR.random((400, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.uint8)


def test_defaults():
    """λ = 0, and positives weighted by √(negatives / positives), which `correct` takes out."""
    balancer = Balancer(LABELS)
    counts = LABELS.sum(0)
    assert not balancer.log_weight.any()
    assert sorted(balancer.sampler) == list(range(len(LABELS)))
    assert isinstance(balancer.loss_function, WeightedBCE)
    assert not Balancer(LABELS, "equal-recall").log_weight.any()
    shift = -balancer.correct(torch.zeros(1, 4))[0].numpy()
    assert np.allclose(shift, 0.5 * np.log((400 - counts) / counts), atol=1e-5)


def test_shares_add_up():
    balancer = Balancer(LABELS, "inverse-frequency", sampler_share=0.25)
    assert np.allclose(balancer.sampler.log_weight, 0.25 * balancer.log_weight)
    assert np.allclose(balancer.loss_function.log_weight, 0.75 * balancer.log_weight, atol=1e-6)
    by_loss = Balancer(LABELS, "inverse-frequency", sampler=None)
    assert sorted(by_loss.sampler) == list(range(len(LABELS)))
    assert np.allclose(by_loss.loss_function.log_weight, by_loss.log_weight, atol=1e-6)


def test_the_loop_draws_the_labels_that_lag_behind_more_often():
    balancer = Balancer(csr_matrix(LABELS), EqualRecall())
    observed(balancer, [0.9, 0.7, 0.5, 0.3])
    balancer.step()
    assert (np.diff(balancer.log_weight) > 0).all()
    change = balancer.sampler.logit_shift()
    assert change[3] > 0 > change[0]
    assert 0.3 < balancer.history[0]["mean_average_precision"] < 0.9


def test_labels_that_none_or_all_have_are_left_alone():
    labels = LABELS.copy()
    labels[:, 0], labels[:, 1] = 0, 1
    for policy in FOR_LABELS:
        balancer = Balancer(labels, policy)
        for _ in range(2):
            observed(balancer, [0.9, 0.9, 0.5, 0.3])
            balancer.step()
        assert balancer.log_weight[:2].tolist() == [0, 0]
        assert balancer.log_weight.mean() == pytest.approx(0)
        assert np.isfinite(balancer.log_weight).all()


def test_a_label_the_holdout_lacks_stays_where_it_is():
    balancer = Balancer(LABELS, EqualRecall())
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(LABELS[:200].copy())
    targets[:, 2] = 0
    balancer.observe(logits, targets)
    balancer.step()
    row = balancer.history[0]
    assert np.isnan(row["recalls"]).tolist() == [False, False, True, False]
    assert np.isfinite([row["mean_recall"], row["mean_average_precision"]]).all()
    assert np.isfinite(balancer.log_weight).all()


@pytest.mark.parametrize("loss", [None, SigmoidFocalLoss(), AsymmetricLoss()])
def test_correct_restores_the_log_odds_of_the_data(loss):
    """Where the net is at the optimum of loss and sampling, for labels drawn independently."""
    generator = np.random.default_rng(1)
    labels = (generator.random((20_000, 3)) < [0.4, 0.2, 0.05]).astype(np.uint8)
    balancer = Balancer(labels, "inverse-frequency", loss=loss, sampler_share=0.5)
    drawn = torch.from_numpy(labels[balancer.sampler.indices()])
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], line_search_fn="strong_wolfe", max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = balancer.loss(logits.expand(len(drawn), 3), drawn)
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(closure)
    corrected = balancer.correct(logits.detach()).sigmoid()[0].numpy()
    assert np.allclose(corrected, labels.mean(0), rtol=0.02)


def test_decide_before_and_after_fitting():
    balancer = Balancer(LABELS, "plain", loss=WeightedBCE([5.0, 5.0, 5.0, 5.0]))
    generator = torch.Generator().manual_seed(0)
    log_odds = 2 * torch.randn(2000, 4, generator=generator) - torch.tensor([0.0, 1, 2, 3])
    targets = (torch.rand(2000, 4, generator=generator) < log_odds.sigmoid()).to(torch.uint8)
    logits = log_odds + np.log(5.0)  # as the weighted loss makes them
    predicted = balancer.decide(logits)
    assert predicted.dtype == torch.uint8
    assert torch.equal(predicted, (log_odds > 0).to(torch.uint8))
    balancer.fit_decision(logits, targets)
    ratio = balancer.decide(logits).sum(0) / targets.sum(0)
    assert torch.allclose(ratio, torch.ones(4), atol=0.05)
    balancer.fit_decision(logits, targets, "recall", at_least=0.9)
    recalls = (balancer.decide(logits) & targets).sum(0) / targets.sum(0)
    assert torch.allclose(recalls, torch.full((4,), 0.9), atol=0.05)


def test_a_solved_sampler_can_be_kept_as_it_is():
    sampler = LabelBalancedSampler(LABELS, exponent=0)
    balancer = Balancer(LABELS, "plain", sampler, loss=WeightedBCE(), sampler_share=0)
    assert np.allclose(balancer.correct(torch.zeros(1, 4))[0], -sampler.logit_shift(), atol=1e-6)
    assert sampler.logit_shift()[3] > 1
