from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from equipoise import Balancer
from equipoise.decision import (
    ClassDecision,
    Fairness,
    equal_recall_offset,
    fair_offset,
    fit_class_decision,
    front,
    price_of_equality,
    strongest_below,
)
from equipoise.rates import reliabilities


def sample(n, seed, shift):
    """Logits of a learner that favours class c by `shift[c]`, balanced classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = len(shift)
    targets = torch.arange(n) % classes
    signal = 1.5 * torch.eye(classes)[targets]
    return torch.randn(n, classes, generator=generator) + signal + torch.tensor(shift), targets


def recalls(logits, targets):
    hit = logits.argmax(1) == targets
    return np.array([hit[targets == c].double().mean() for c in range(logits.shape[1])])


def test_recalls_become_equal_on_fresh_data():
    shift = [1.0, 0.0, -1.0, 0.3]
    offset = equal_recall_offset(*sample(8000, 0, shift))
    fresh, targets = sample(8000, 1, shift)
    before, after = recalls(fresh, targets), recalls(fresh + offset, targets)
    noise = np.sqrt(0.25 * 2 / 2000)
    assert before.std() > 0.2
    assert after.std() < 2 * noise
    assert offset.mean().abs() < 1e-9


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3))
def test_offsets_scale_with_the_logits(scale):
    logits, targets = sample(2000, 2, [1.0, 0.0, -0.5])
    offset = equal_recall_offset(logits, targets)
    assert torch.allclose(equal_recall_offset(logits * scale, targets) / scale, offset, atol=1e-3)


def plain_offset(logits, targets, temperature=0.25, ridge=0.01):
    """The docstring's objective on all examples at once, its gradient from autograd."""
    z, classes = logits.double(), logits.shape[1]
    scale = (z - z.mean(1, keepdim=True)).std(correction=0)
    hot = torch.nn.functional.one_hot(targets, classes).double()
    support = hot.sum(0)
    seen = support > 0

    def spread(offset, t):
        b = torch.from_numpy(offset).requires_grad_()
        soft = torch.softmax((z / scale + b) / t, 1)
        recalls = (soft * hot).sum(0)[seen] / support[seen]
        value = (recalls - recalls.mean()).square().sum() + ridge * b.square().mean()
        value.backward()
        return value.item(), (b.grad * seen).numpy()

    offset = np.zeros(classes)
    for t in (temperature, temperature / 5):
        options = {"maxiter": 60, "ftol": 1e-7}
        offset = minimize(spread, offset, (t,), "L-BFGS-B", jac=True, options=options).x
    hits = (hot[logits.argmax(1) == targets]).sum(0)
    shrunk = reliabilities(hits, support) * torch.from_numpy(offset)
    return torch.where(torch.from_numpy(seen.numpy()), shrunk - shrunk[seen].mean(), 0.0) * scale


@pytest.mark.parametrize("classes", [3, 12])
def test_blocks_change_nothing_and_a_class_without_examples_gets_no_offset(classes, monkeypatch):
    monkeypatch.setattr("equipoise.decision.soft_recalls._AT_A_TIME", 37 * classes)
    logits, targets = sample(1500, 5, np.linspace(-1, 1, classes).tolist())
    targets[targets == 2] = 1
    with pytest.warns(UserWarning, match=rf"get no offset: \[2\] \(1 of {classes}\)"):
        offset = equal_recall_offset(logits, targets)
    assert torch.allclose(offset, plain_offset(logits, targets), atol=1e-5)


def test_nothing_is_done_about_noise():
    """Recalls that differ by less than sampling explains are left alone, most of the time."""
    untouched = 0
    for seed in range(20):
        untouched += not equal_recall_offset(*sample(60, seed, [0.0, 0.0, 0.0])).any()
    assert untouched >= 8


def decided(**settings):
    """A call that fits a decision with these settings."""
    return lambda: fit_class_decision(*graded(20, 0), **settings)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *(
            (partial(equal_recall_offset, torch.zeros(*shape), torch.tensor(targets)), words)
            for shape, targets, words in (
                ((4, 2), [0, 1, 1], "logits"),
                ((4,), [0, 1, 1, 0], "logits"),
                ((2, 2), [0.0, 1.0], "logits"),
                ((2, 2), [0, 2], "targets to be class ids"),
                ((2, 2), [0, -1], "targets to be class ids"),
                ((0, 2), np.zeros(0, int), "targets to be class ids"),
            )
        ),
        (
            partial(equal_recall_offset, torch.full((1, 2), float("nan")), torch.tensor([0])),
            "logits to be finite",
        ),
        (decided(alpha=-1), "alpha"),
        (decided(alpha=float("inf")), "alpha"),
        (decided(kappa=0.5), "kappa"),
        (decided(max_price=-0.1), "max_price"),
        (decided(objective="f1"), "objective"),
        (
            lambda: decided()().under_prior(torch.ones(10), torch.zeros(10)),
            "after to be 10 frequencies above 0",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        call()


# ---------------------------------------------------------------------------- levelling up


def noise(n, seed, classes, spread=1.0):
    """Class ids, n of each, logits of noise, and the generator of more."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(classes).repeat_interleave(n)
    return targets, spread * torch.randn(n * classes, classes, generator=generator), generator


def graded(n, seed):
    """Ten classes of graded difficulty, n examples of each."""
    targets, logits, _ = noise(n, seed, 10)
    logits[torch.arange(len(targets)), targets] += torch.linspace(1.2, 4.0, 10)[targets]
    return logits, targets


def with_a_dead_class(n, seed):
    """One class of 40 that is always taken for another."""
    targets, logits, _ = noise(n, seed, 40, spread=1.5)
    logits[torch.arange(len(targets)), targets] += 5
    logits[targets == 7, 7] -= 6
    logits[targets == 7, 8] += 5
    return logits, targets


def with_synonyms(n, seed, classes=100):
    """Two of the classes are one thing under two names."""
    targets, logits, generator = noise(n, seed, classes)
    logits += 4.5 * torch.eye(classes)[targets.clamp_max(classes - 2)]
    logits[:, -1] = logits[:, -2] + 0.1 * torch.randn(len(targets), generator=generator)
    return logits, targets


def test_utility_is_that_of_alpha_fairness():
    """u' = (R / r̄)^−α up to κ, u its integral: against sums over a fine grid."""
    grid = torch.linspace(1e-4, 1, 20001, dtype=torch.float64)
    for alpha in (0.0, 0.5, 1.0, 4.0):
        fairness = Fairness(alpha, kappa=20, mean=0.7)
        worth = np.minimum((grid.numpy() / 0.7) ** -alpha, 20)
        for low, high in ((0, 8000), (3000, 20000), (12000, 19000)):
            area = np.trapezoid(worth[low : high + 1], grid[low : high + 1].numpy())
            value = [float(fairness(grid[at : at + 1])[0]) for at in (high, low)]
            assert value[0] - value[1] == pytest.approx(area, rel=1e-3)
        recalls = torch.tensor([0.1, 0.5, 0.8, 0.95], dtype=torch.float64, requires_grad=True)
        value, slope = fairness(recalls)
        assert torch.allclose(torch.autograd.grad(value, recalls)[0], slope.detach())


def test_low_recalls_are_raised_at_nearly_no_price():
    logits, targets = graded(500, 0)
    decision = fit_class_decision(logits, targets)
    fresh, truth = graded(1000, 1)
    before, after = recalls(fresh, truth), recalls(fresh + decision.values, truth)
    assert after.min() > before.min() + 0.1
    assert after.mean() > before.mean() - 0.01
    assert 0 < decision.price <= 0.01
    equal = recalls(fresh + equal_recall_offset(logits, targets), truth)
    assert equal.mean() < after.mean() - 0.03


@pytest.mark.parametrize(
    ("make", "n"), [(with_synonyms, 50), *((with_a_dead_class, n) for n in (10, 50, 500))]
)
def test_what_cannot_be_had_costs_nothing(make, n):
    """Equal recalls would take .09, .35 and .44 of mean recall from the first three."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decision = fit_class_decision(*make(n, 0))
    said = [str(each.message) for each in caught]
    assert n > 10 or said[0].startswith("The hold-out has 10 examples of a class")
    fresh, truth = make(100, 1)
    before, after = recalls(fresh, truth), recalls(fresh + decision.values, truth)
    assert after.mean() > before.mean() - 0.01
    assert decision.equality_price > 0


def test_equal_recall_says_its_price_and_for_whom():
    names = [f"kind {c}" for c in range(10)]
    balancer = Balancer(np.arange(10).repeat(10), names=names)
    with pytest.warns(UserWarning, match=r"Equal recalls cost 0\.\d+.*'kind 0'"):
        balancer.fit_decision(*graded(500, 0), objective="equal-recall")


def test_the_front_runs_from_the_mean_to_equal_recalls():
    rows = front(*graded(500, 0))
    assert rows[0]["alpha"] == 0
    assert rows[-1]["alpha"] == float("inf")
    assert rows[0]["price"] == 0
    assert rows[-1]["lowest"] > rows[0]["lowest"] + 0.1
    assert rows[-1]["sd"] < rows[0]["sd"] / 3
    for row in rows:
        assert row["price"] == pytest.approx(rows[0]["mean"] - row["mean"])
        assert row["mean_interval"][0] < row["mean"] < row["mean_interval"][1]
        assert row["offset"].mean().abs() < 1e-9
    chosen = strongest_below(rows, 0.01)
    assert chosen["price"] <= 0.01
    assert strongest_below(rows, 1.0)["alpha"] == 16
    assert strongest_below(rows, None) is strongest_below(rows, 1.0)
    assert strongest_below(rows, 0.0)["price"] <= 0


def test_the_front_holds_on_other_data():
    """Cross-fitted means and those on fresh data differ by chance: 3 standard errors."""
    rows = front(*graded(60, 0))
    fresh, truth = graded(2000, 1)
    error = 3 * np.sqrt(0.2 / 600)
    for row in rows:
        assert abs(recalls(fresh + row["offset"], truth).mean() - row["mean"]) < error


def test_alpha_fixes_the_point():
    logits, targets = graded(200, 0)
    balancer = Balancer(np.arange(10).repeat(10))
    balancer.fit_decision(logits, targets, alpha=5.0)
    assert balancer.decision.alpha == 5.0
    strong = fair_offset(logits, targets, alpha=16)
    assert recalls(logits + strong, targets).min() > recalls(logits, targets).min() + 0.15


def test_many_classes_are_fitted_on_their_nearest(monkeypatch):
    """As high a utility as with all logits; the optimum is flat, so offsets differ a little."""
    logits, targets = with_synonyms(40, 3, classes=70)
    near = fair_offset(logits, targets)
    monkeypatch.setattr("equipoise.decision.soft_recalls.DENSE", 100)
    dense = fair_offset(logits, targets)
    assert np.corrcoef(near, dense)[0, 1] > 0.98
    utility = Fairness(4.0, 20.0, float(recalls(logits, targets).mean()))
    reached = [
        float(utility(torch.from_numpy(recalls(logits + offset, targets)))[0])
        for offset in (near, dense, torch.zeros(70))
    ]
    assert abs(reached[0] - reached[1]) < 0.001 < 0.005 < reached[0] - reached[2]


def test_the_price_of_equality_is_known_beforehand():
    """Gaussian classes of which two are close: logits are their log-densities."""

    def drawn(n, seed):
        generator = torch.Generator().manual_seed(seed)
        centres = torch.tensor([[3.0, 0.0], [0.0, 0.7], [0.0, -0.7], [-2.0, 0.0]])
        targets = torch.arange(n) % 4
        points = centres[targets] + torch.randn(n, 2, generator=generator)
        return -0.5 * (points[:, None] - centres).square().sum(2), targets

    fresh, truth = drawn(20000, 1)
    equal = recalls(fresh + equal_recall_offset(*drawn(4000, 0)), truth)
    predicted = price_of_equality(*drawn(4000, 0))
    assert predicted > 0.02
    assert predicted == pytest.approx(recalls(fresh, truth).mean() - equal.mean(), abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:The hold-out has")
def test_constant_and_rounded_logits_move_nothing_that_does_not_help(dtype):
    targets = torch.arange(400) % 4
    for logits in (torch.zeros(400, 4), 2 * torch.eye(4)[targets] + torch.randn(400, 4)):
        decision = fit_class_decision(logits.to(dtype), targets)
        after = recalls(logits.to(dtype).double() + decision.values, targets)
        assert after.mean() >= recalls(logits.to(dtype), targets).mean() - 0.02
    assert equal_recall_offset(torch.zeros(1, 1, dtype=dtype), torch.tensor([0])).tolist() == [0]


def test_offsets_can_leave(tmp_path):
    logits, targets = graded(200, 0)
    decision = fit_class_decision(logits, targets)
    decision.save(tmp_path / "offsets.json", names=[str(c) for c in range(10)])
    read = ClassDecision.load(tmp_path / "offsets.json")
    assert torch.equal(read(logits), decision(logits))
    layer = torch.nn.Linear(10, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(10))
        layer.bias.copy_(decision.values)
    assert (layer(logits).argmax(1) == decision(logits)).float().mean() > 0.999
    shifted = decision.under_prior(torch.ones(10), torch.arange(1, 11))
    log_prior = torch.arange(1, 11).double().log()
    assert torch.allclose(shifted.values - decision.values, log_prior - log_prior.mean())


def test_a_class_whose_hold_out_cannot_be_trusted_is_left_out():
    """The hold-out's class 3 is really classes 4 to 9: its recall must not be given away."""
    logits, targets = graded(500, 0)
    wrong = (targets == 3).nonzero()[:, 0]
    logits[wrong] = graded(500, 5)[0][(4 + torch.arange(len(wrong)) % 6) * 500]
    fresh, truth = graded(1000, 1)
    plain = recalls(fresh, truth)
    for leave_out, least in ((None, -1.0), (np.arange(10) == 3, -0.1)):
        decision = fit_class_decision(logits, targets, leave_out=leave_out)
        after = recalls(fresh + decision.values, truth)
        assert leave_out is None or after.mean() > plain.mean() - 0.01
        assert after[3] - plain[3] > least
    assert decision.values[3] == 0
    assert decision.values.mean().abs() < 1e-6


@pytest.mark.filterwarnings("ignore:The hold-out has")
def test_a_small_hold_out_stays_near_the_better_start():
    """Thirty classes, ten held out each, and λ in the logits that only costs: it comes out."""
    generator = torch.Generator().manual_seed(0)
    shift = 1.2 * torch.randn(30, generator=generator).double()

    def draw(n):
        targets = torch.arange(30).repeat_interleave(n)
        logits = 2.2 * torch.eye(30)[targets] + torch.randn(30 * n, 30, generator=generator)
        return logits.double() + shift, targets

    held, fresh = draw(10), draw(300)
    means = {}
    for name, start in (("none", None), ("removed", -shift), ("worse", shift)):
        decision = fit_class_decision(*held, start=start)
        means[name] = float(recalls(fresh[0] + decision.values, fresh[1]).mean())
        assert decision.values.mean().abs() < 1e-9
    assert means["worse"] == means["none"]
    assert means["removed"] > means["none"] + 0.005
    balanced = float(recalls(fresh[0] - shift, fresh[1]).mean())
    assert means["removed"] > balanced - 0.01
