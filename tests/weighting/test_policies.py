from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from equipoise import Balancer
from equipoise.weighting import (
    POLICIES,
    ClassDifficulty,
    Deferred,
    EqualRecall,
    Fair,
    InverseFrequency,
    RecallPower,
    TargetShares,
    WorstClass,
    class_difficulty,
    inverse_frequency,
    log_weight_of,
    recall_power,
)

COUNTS = np.array([100, 50, 10])


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]()


def run(policy, recalls, log_weight=None):
    log_weight = policy.start(COUNTS) if log_weight is None else log_weight
    for row in recalls:
        log_weight = policy.step(log_weight, np.array(row))
    return log_weight


SEEN = [[0.9, 0.8, 0.3], [0.9, 0.7, 0.5], [0.0, 1.0, 0.5]]


def test_log_weights_are_finite_and_centred(policy):
    assert policy.start(COUNTS).mean() == pytest.approx(0)
    log_weight = run(policy, SEEN)
    assert log_weight.shape == (3,)
    assert np.isfinite(log_weight).all()
    assert log_weight.mean() == pytest.approx(0)


def test_equal_recalls_on_equal_counts_ask_for_nothing(policy):
    log_weight = policy.start(np.array([7, 7, 7]))
    for _ in range(3):
        log_weight = policy.step(log_weight, np.array([0.6, 0.6, 0.6]))
    assert np.allclose(log_weight, 0)


@pytest.mark.parametrize(
    "make", [*POLICIES.values(), lambda: Deferred(InverseFrequency(), epochs=8)]
)
def test_state_goes_on_bit_for_bit(make):
    policy, other = make(), make()
    log_weight = run(policy, [[0.9, 0.8, 0.0]] * 7)  # the last does not respond
    other.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    recalls = np.array([0.9, 0.7, 0.0])
    assert np.array_equal(policy.step(log_weight, recalls), other.step(log_weight, recalls))


def test_a_class_that_lags_is_raised(policy):
    if policy.needs_recalls:
        log_weight = run(policy, [[0.9, 0.8, 0.3]] * 2)
        assert log_weight.argmax() == 2
        assert log_weight.argmin() == 0


def test_two_pass_flow_is_a_setting_of_recall_power():
    policy = RecallPower(4, after=2)
    assert run(policy, SEEN[:1]).tolist() == [0, 0, 0]
    fixed = log_weight_of(recall_power(SEEN[1], 4))
    assert policy.needs_recalls
    assert np.allclose(policy.step(np.zeros(3), np.array(SEEN[1])), fixed)
    assert not policy.needs_recalls
    assert np.array_equal(policy.step(fixed, np.array(SEEN[2])), fixed)
    known = RecallPower(4, recalls=SEEN[1])
    assert np.allclose(known.start(COUNTS), fixed)
    assert not known.needs_recalls
    assert np.allclose(run(known, SEEN), fixed)


def test_a_class_never_right_does_not_take_all_draws(policy):
    policy.start(np.full(10, 500))
    if policy.needs_recalls:
        weights = np.exp(policy.step(np.zeros(10), np.array([0.0] + [0.6] * 9)))
        assert (weights / weights.sum()).max() < 0.6


def test_start_forgets_an_earlier_run(policy):
    fresh = copy.deepcopy(policy)
    run(policy, SEEN)
    assert np.array_equal(run(policy, SEEN[:2]), run(fresh, SEEN[:2]))


def test_class_difficulty_follows_each_epoch():
    assert np.allclose(run(ClassDifficulty(), SEEN[:2]), log_weight_of(class_difficulty(SEEN[1])))


def test_equal_recall_after_its_formula():
    policy = EqualRecall(gain=2, max_step=9, start=0)
    first, second = np.array(SEEN[:2])
    λ = 2 * (first.mean() - first)
    assert np.allclose(run(policy, SEEN[:1]), λ)
    assert np.allclose(policy.step(λ, second), λ + 2 * (second.mean() - second))


def test_equal_recall_is_limited():
    log_weight = run(EqualRecall(gain=100, max_step=0.5, limit=1.0), [[1.0, 0.5, 0.0]] * 20)
    assert np.ptp(log_weight) <= 2.0 + 1e-9


def test_worst_class_bounds_every_share_from_below():
    policy = WorstClass(rate=50, mix=0.5)
    weights = np.exp(run(policy, [[1.0, 1.0, 0.0]] * 5))
    assert (weights / weights.sum()).min() == pytest.approx(0.5 / 3)


def test_equal_recall_closes_the_loop_on_a_simulated_learner():
    """Recall of class c is sigmoid(skill_c + λ_c): the loop must find equal recalls."""
    skill = np.array([3.0, 1.0, -1.0, 0.5])
    policy = EqualRecall()
    log_weight = policy.start(np.ones(4))
    for _ in range(60):
        log_weight = policy.step(log_weight, 1 / (1 + np.exp(-(skill + log_weight))))
    recalls = 1 / (1 + np.exp(-(skill + log_weight)))
    assert recalls.std() < 0.005


def test_fair_weighs_each_class_by_what_its_recall_is_worth():
    """Far below κ and `max_step`, at full rate: the founding formula with γ = α."""
    policy = Fair(alpha=4, kappa=1e9, rate=1, max_step=99)
    log_weight = policy.step(policy.start(COUNTS), np.array(SEEN[0]))
    expected = log_weight_of(inverse_frequency(COUNTS)) + log_weight_of(recall_power(SEEN[0], 4))
    assert np.allclose(log_weight, expected)


@pytest.mark.parametrize("policy", [Fair(), EqualRecall(), Fair(start=0), Fair(rate=1)])
def test_no_step_of_a_loop_is_larger_than_max_step(policy):
    generator = np.random.default_rng(0)
    log_weight = policy.start(np.array([500, 50, 5, 5, 5]))
    for _ in range(30):
        before = log_weight
        log_weight = policy.step(before, (generator.random(5) > 0.3) * generator.random(5))
        assert np.abs(log_weight - before).max() <= 0.3 + 1e-9
        assert abs(log_weight.mean()) < 1e-9


@pytest.mark.parametrize("kind", [Fair, EqualRecall])
@pytest.mark.parametrize("hopeless", [1, 3])
def test_classes_that_do_not_respond_do_not_take_the_draws(kind, hopeless):
    """Ten classes of which some cannot be had: their share of the draws goes back."""
    policy = kind()
    log_weight = policy.start(np.full(10, 100))
    skill = np.linspace(0.5, 2, 10)
    shares = []
    for _ in range(25):
        recalls = 1 / (1 + np.exp(-(skill + log_weight)))
        recalls[:hopeless] = 0.02
        log_weight = policy.step(log_weight, recalls)
        shares.append(np.exp(log_weight[:hopeless]).sum() / np.exp(log_weight).sum())
    assert max(shares) > 0.15 * hopeless  # it was tried
    assert shares[-1] < 0.13 * hopeless
    assert policy.unresponsive.nonzero()[0].tolist() == list(range(hopeless))
    answering = 1 / (1 + np.exp(-(skill + log_weight)))[hopeless:]
    before = 1 / (1 + np.exp(-skill))[hopeless:]
    assert answering.std() < 0.8 * before.std()  # the others are still balanced


def test_a_class_that_begins_to_respond_is_let_go():
    policy = Fair()
    log_weight = policy.start(np.full(4, 100))
    for recall in [0.0] * 12 + [0.5] * 6:
        log_weight = policy.step(log_weight, np.array([0.9, 0.9, 0.9, recall]))
    assert not policy.unresponsive.any()
    assert log_weight[3] > 0.5


def test_group_dro_cannot_reach_nan():
    log_weight = run(WorstClass(rate=100.0, mix=0), [[1.0, 0.5, 0.0]] * 200)
    assert np.isfinite(log_weight).all()
    assert log_weight.argmax() == 2


ANIMALS = ["bird"] * 10 + ["cat"] * 70 + ["dog"] * 20


def test_shares_by_name():
    balancer = Balancer(ANIMALS, {"cat": 0.5, "dog": 0.25, "bird": 0.25})
    assert balancer.sampler.quotas.tolist() == [25, 50, 25]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Balancer([0, 1], "equal-recal"), "policy to be one of 'plain'"),
        (lambda: Balancer([0, 1], 3), "policy"),
        (lambda: Balancer(ANIMALS, {"cat": 0.5}), ".* a share to each of 'bird', 'cat', 'dog'"),
        (lambda: Balancer(ANIMALS, TargetShares([0.5, 0.5])), "shares for 3 classes, but got 2"),
        (lambda: TargetShares([0.5, 0.0]), ".*numbers above 0"),
        (lambda: EqualRecall(gain=0), "gain"),
        (lambda: EqualRecall(limit=float("nan")), "limit"),
        (lambda: WorstClass(mix=1), "mix"),
        (lambda: RecallPower(after=0), "after"),
        (lambda: RecallPower(limit=0), "limit"),
        (lambda: RecallPower(recalls=[0.5]).start(COUNTS), "recalls of 3 classes"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        make()
