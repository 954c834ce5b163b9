"""Balancer(groups=): λ over class × group cells, or over groups alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from equipoise import Balancer
from equipoise.balancer.grouping import group_figures
from equipoise.rates import smoothed_recalls
from equipoise.weighting import Fair, InverseFrequency, RecallPower, TargetShares

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 600)
GROUPS = np.where(RNG.random(600) < 0.9, LABELS % 2, 1 - LABELS % 2)
PLACES = np.array(["land", "sea"])[GROUPS]
CELLS = 2 * LABELS + GROUPS


def guesses(seed=0):
    return (
        torch.from_numpy(np.random.default_rng(seed).normal(size=(600, 3)))
        + 2 * torch.eye(3)[torch.from_numpy(LABELS)] * torch.from_numpy(1.0 + GROUPS)[:, None]
    )


def test_cells_are_drawn_by_their_weights_and_the_loss_is_plain():
    balancer = Balancer(LABELS, groups=PLACES, names=["a", "b", "c"])
    drawn = np.bincount(CELLS[list(balancer.sampler)], minlength=6)
    assert drawn.tolist() == [100] * 6
    assert balancer.log_weight.shape == (3, 2)
    assert balancer.cells.names[:2] == ["a × land", "a × sea"]
    logits, targets = guesses()[:50].float(), torch.from_numpy(LABELS[:50])
    plain = torch.nn.functional.cross_entropy(logits, targets)
    assert torch.allclose(balancer.loss(logits, targets), plain)


@pytest.mark.parametrize("policy", [InverseFrequency(0.5), TargetShares([1, 2, 3, 4, 5, 6])])
def test_correct_removes_what_the_cells_do_to_the_classes(policy):
    balancer = Balancer(LABELS, policy, groups=GROUPS)
    shares = balancer.sampler.expected_draws().reshape(3, 2).sum(1) / np.bincount(LABELS)
    removed = -balancer.correct(torch.zeros(1, 3, dtype=torch.float64))[0].numpy()
    assert np.allclose(removed, np.log(shares) - np.log(shares).mean())


@pytest.mark.parametrize("form", [PLACES, PLACES.tolist(), GROUPS, torch.from_numpy(GROUPS)])
def test_recalls_of_cells_are_those_of_scikit_learn(form):
    balancer = Balancer(LABELS, groups=PLACES)
    logits, targets = guesses(), torch.from_numpy(LABELS)
    for part in (slice(0, 400), slice(400, 600)):
        balancer.observe(logits[part], targets[part], form[part])
    balancer.step()
    row, predicted = balancer.history[-1], logits.argmax(1).numpy()
    for g in (0, 1):
        expected = recall_score(LABELS[g == GROUPS], predicted[g == GROUPS], average=None)
        assert np.allclose(np.array(row["recalls"])[:, g], expected)
    recalls = np.array(row["recalls"])
    assert row["equal_opportunity_gap"] == pytest.approx(np.ptp(recalls, axis=1).max())
    right = predicted == LABELS
    worst = min(right[g == GROUPS].mean() for g in (0, 1))
    assert row["worst_group_accuracy"] == pytest.approx(worst)
    assert row["lowest_recall"] == pytest.approx(recalls.min())


def test_the_loop_raises_the_cell_that_lags():
    balancer = Balancer(LABELS, Fair(), groups=GROUPS)
    before = balancer.sampler.expected_draws().reshape(3, 2)
    for seed in range(3):
        balancer.observe(guesses(seed), torch.from_numpy(LABELS), GROUPS)
        balancer.step()
    after = balancer.sampler.expected_draws().reshape(3, 2)
    assert (after[:, 0] > 1.1 * before[:, 0]).all()  # it is recalled less
    assert (after[:, 1] < 0.9 * before[:, 1]).all()


def test_a_tiny_cell_is_drawn_towards_its_class_and_an_empty_one_left_alone():
    labels, groups = [0] * 50 + [1] * 51, [0, 1] * 25 + [0] * 51
    balancer = Balancer(labels, RecallPower(1), groups=groups)
    assert balancer.cells.counts.tolist() == [25, 25, 51, 0]
    right = torch.ones(121, dtype=torch.bool)
    right[:30] = right[60] = False  # half of cell (0, 0), and the only one of (0, 1)
    targets, group = torch.tensor([0] * 61 + [1] * 60), torch.tensor([0] * 60 + [1] + [0] * 60)
    balancer.observe(torch.eye(2)[torch.where(right, targets, 1 - targets)], targets, group)
    row = smoothed_recalls(torch.tensor([30, 0]), torch.tensor([60, 1]))
    found = balancer.grouping.recalls(balancer.rates.rates)
    assert torch.allclose(found, torch.cat([row, torch.ones(2, dtype=row.dtype)]))
    balancer.step()
    assert 0.1 < row[1] < 0.5
    assert balancer.log_weight[1, 1] == 0
    assert balancer.sampler.quotas[3] == 0
    unseen = Balancer(labels, groups=groups)
    unseen.observe(torch.eye(2)[[1, 1]], torch.tensor([1, 1]), [0, 0])
    assert unseen.grouping.recalls(unseen.rates.rates).tolist() == [1, 1, 1, 1]


def test_groups_alone():
    balancer = Balancer(None, groups=PLACES)
    logits, targets = guesses(), torch.from_numpy(LABELS)
    assert balancer.loss(logits, targets) == torch.nn.functional.cross_entropy(logits, targets)
    assert torch.equal(balancer.correct(logits), logits)
    assert np.allclose(balancer.sampler.expected_draws(), 300)
    balancer.observe(logits, targets, PLACES)
    balancer.step()
    right = (logits.argmax(1) == targets).numpy()
    expected = [right[g == GROUPS].mean() for g in (0, 1)]
    assert balancer.history[-1]["recalls"] == pytest.approx(expected)
    assert balancer.sampler.expected_draws()[0] > 310
    report = balancer.report(logits, targets, groups=GROUPS)
    assert report.outcomes[0]["recalls"] == pytest.approx(expected, abs=1e-6)


def test_the_report_shows_cells(capsys):
    balancer = Balancer(LABELS, groups=PLACES, mining="hardest-examples")
    logits, targets = guesses(), torch.from_numpy(LABELS)
    for ids in torch.tensor(list(balancer.sampler)).split(100):
        balancer.loss(logits[ids].requires_grad_(), targets[ids])
    assert balancer.position == 600
    balancer.observe(logits, targets, PLACES)
    balancer.step()
    balancer.fit_decision(logits, targets)
    report = balancer.report(logits, targets, groups=GROUPS)
    assert report.names[1] == "class 0 × sea"
    recalls = np.array(report.outcomes[-1]["recalls"]).reshape(3, 2)
    predicted = balancer.decide(logits).numpy()
    sea = GROUPS == 1
    assert recalls[:, 1] == pytest.approx(
        recall_score(LABELS[sea], predicted[sea], average=None), abs=1e-6
    )
    report.show()
    shown = " ".join(capsys.readouterr().out.split())
    figures = group_figures(recalls, np.bincount(CELLS).reshape(3, 2))
    assert f"differ by up to {figures['equal_opportunity_gap']:.3f}" in shown
    assert f"accuracy of a group is {figures['worst_group_accuracy']:.3f}" in shown


def test_bad_groups_are_named():
    balancer = Balancer(LABELS, groups=PLACES)
    logits, targets = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    for call, words in (
        (lambda: Balancer(LABELS, groups=GROUPS[:9]), "groups to be (N,), one for each of the 600"),
        (lambda: Balancer([[1, 1], [0, 1]], groups=[0, 1]), "targets of Balancer with groups"),
        (lambda: Balancer(LABELS, groups=GROUPS, sampler=None), 'sampler to be "class-balanced"'),
        (lambda: Balancer(LABELS, groups=GROUPS, sampler_share=0.5), "sampler to be"),
        (lambda: balancer.observe(logits, targets), "groups of the examples"),
        (
            lambda: balancer.observe(logits, targets, ["air"] * 4),
            "groups to be ids, or names that are known ('land', 'sea')",
        ),
        (lambda: balancer.observe(logits, targets, [0, 1]), "groups to be 4 group ids or names"),
        (lambda: Balancer(LABELS).observe(logits, targets, [0] * 4), "groups only of a Balancer"),
    ):
        with pytest.raises(ValueError, match=f"^Expected {re.escape(words)}"):
            call()
