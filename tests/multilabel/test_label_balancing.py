"""Label-balancing weights: the link, its gradient, what is reached, limits kept, odd data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from equipoise.samplers import LabelBalancedSampler, label_balancing_weights
from equipoise.samplers.example_order import effective_size
from equipoise.samplers.label_balancing import LogLinearWeights, _Problem, mean_ir
from tests.multilabel.cases import LABELS, multi_hot

# Some cases have one label in every row, on purpose
pytestmark = pytest.mark.filterwarnings("ignore:Every row of labels")

KEEP = ("distribution", None)


def skewed(n=400, labels=8, seed=0):
    """Frequencies from .5 down, a rare label mostly with a frequent one."""
    rows = multi_hot(n, list(0.5 * 0.6 ** np.arange(labels)), seed)
    rows[rows[:, -1] == 1, 0] = 1
    return rows


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_weights_sum_to_one_under_the_cap_with_the_cardinality_kept(data):
    n, labels = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = (rng.random((n, labels)) < data.draw(st.floats(0.05, 0.95))).astype(np.uint8)
    rows[0, 0] = 1
    cap = data.draw(st.floats(1.01, 50))
    keep = data.draw(st.sampled_from(KEEP))
    links = LogLinearWeights(rows, max_repeat=cap, cardinality=keep)
    masses = links(links.scores(rng.normal(0, data.draw(st.floats(0.01, 50)), labels)))
    v = links.repeats(masses) / n
    assert links.size(masses) == pytest.approx(effective_size(v))
    lengths = rows.sum(1)
    assert v.sum() == pytest.approx(1)
    assert (v >= 0).all()
    assert v.max() * n <= cap * (1 + 1e-6)
    if keep == "distribution":
        shares = np.bincount(lengths, v)
        assert shares == pytest.approx(np.bincount(lengths) / n, abs=1e-9)


def test_weights_are_of_least_divergence():
    """Against a general solver: min KL(v ‖ uniform) with these frequencies and this cap."""
    rows = multi_hot(14, [0.5, 0.4, 0.3], seed=2)
    links = LogLinearWeights(rows, max_repeat=1.6, cardinality=None)
    v = links.repeats(links(links.scores(np.array([-1.0, 0.3, 1.5])))) / 14
    assert v.max() == pytest.approx(1.6 / 14)  # the cap is felt
    wanted = np.vstack([rows.T, np.ones(14)])

    found = minimize(
        lambda u: u @ np.log(14 * u),
        np.full(14, 1 / 14),
        jac=lambda u: np.log(14 * u) + 1,
        bounds=[(1e-9, 1.6 / 14)] * 14,
        constraints={"type": "eq", "fun": lambda u: wanted @ (u - v), "jac": lambda u: wanted},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    assert found.x == pytest.approx(v, abs=1e-5)


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("cap", [1.5, 5.0, 50.0])
def test_gradient_is_that_of_finite_differences(keep, cap):
    problem = _Problem(LogLinearWeights(skewed(), 0.3, 0.5, cap, keep))
    problem.links.matrix = problem.links.matrix.astype(np.float64)
    problem.links.scores = lambda x: problem.links.matrix @ x  # without rounding to float32
    problem.links.frequency = lambda v: problem.links.matrix.T @ v
    x = np.random.default_rng(1).normal(size=8)
    _, gradient = problem.value_and_gradient(x, 0.7)
    for j in range(8):
        step = 1e-5 * np.eye(8)[j]
        up, down = (problem.value_and_gradient(x + s, 0.7)[0] for s in (step, -step))
        assert gradient[j] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5)


def test_one_label_an_example_is_inverse_frequency():
    """Without overlap the answer is known: all labels equally often, weights 1 / count."""
    ids = np.repeat([0, 1, 2], [50, 30, 20])
    found = label_balancing_weights(np.eye(3)[ids], exponent=0, min_effective=0.1)
    assert found.frequency == pytest.approx(np.full(3, 1 / 3), rel=0.02)
    assert found.weight == pytest.approx((100 / 3 / np.bincount(ids))[ids], rel=0.02)
    assert found.shortfall.max() < 0.02
    found = label_balancing_weights(np.eye(2)[[0] * 81 + [1] * 9], exponent=0.5, min_effective=0.1)
    assert found.frequency[0] / found.frequency[1] == pytest.approx(3, rel=0.02)
    as_is = label_balancing_weights(np.eye(3)[ids], exponent=1)
    assert as_is.weight.tolist() == [1.0] * 100


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("floor", [0.3, 0.6, 0.9])
def test_limits_are_kept_and_imbalance_falls(keep, floor):
    rows = skewed()
    found = label_balancing_weights(
        rows, exponent=0, min_effective=floor, max_repeat=6, cardinality=keep
    )
    assert found.effective_size >= floor - 1e-5
    assert found.effective_size == pytest.approx(effective_size(found.weight))
    assert found.weight.max() <= 6 * (1 + 1e-6)
    assert found.weight.mean() == pytest.approx(1)
    assert found.frequency == pytest.approx(rows.T @ found.weight / len(rows))
    assert found.mean_ir == pytest.approx(mean_ir(found.frequency))
    assert found.mean_ir < 0.9 * found.mean_ir_before
    if keep is not None:
        assert found.cardinality == pytest.approx(found.cardinality_before, rel=1e-6)


def test_beats_label_weights_at_their_effective_size():
    """The reason it is there: less imbalance for the same loss of variety."""
    from equipoise.samplers import LabelWeightSampler, RepeatFactorSampler

    rows = skewed(1000, 10, seed=3)
    peers = (
        LabelWeightSampler(rows, reduce="max"),
        LabelWeightSampler(rows, reduce="mean"),
        RepeatFactorSampler(rows, 0.2),
    )
    for peer in peers:
        share = peer.repeats / peer.repeats.sum()
        ours = label_balancing_weights(
            rows, exponent=0, min_effective=peer.effective_size, max_repeat=100
        )
        assert ours.mean_ir < mean_ir(rows.T @ share)


def test_labels_of_no_or_all_examples_are_left_alone():
    rows = np.column_stack([skewed(), np.ones(400), np.zeros(400)]).astype(np.uint8)
    found = label_balancing_weights(rows, exponent=0)
    assert found.log_weight[-2:].tolist() == [0, 0]
    assert found.frequency[-2:] == pytest.approx([1, 0])
    assert found.shortfall[-2:].tolist() == [0, 0]
    alone = label_balancing_weights(np.ones((5, 2)), exponent=0)
    assert alone.weight == pytest.approx(np.ones(5))


def test_what_cannot_be_reached_is_said():
    """Two labels that always come together cannot be told apart by weights."""
    rows = np.repeat([[1, 0, 0], [0, 1, 1], [0, 0, 1]], [60, 20, 20], axis=0)
    rows = np.vstack([rows, [[1, 1, 1]] * 5])
    found = label_balancing_weights(rows, exponent=0, min_effective=0.95)
    assert found.effective_size == pytest.approx(0.95, abs=0.01)
    assert found.shortfall.max() > 0.1
    assert "below its target" in str(found)


def test_weights_are_log_linear():
    sampler = LabelBalancedSampler(LABELS, min_effective=0.4)
    sampler.set_log_weight(torch.tensor([0.0, 0.2, 0.0, 1.0, 1.5]))
    assert sampler.log_weight.tolist() == pytest.approx([0, 0.2, 0, 1, 1.5])
    assert sampler.repeats == pytest.approx(sampler.balance.weight)
    two = LABELS[LABELS.sum(1) == 2]
    weight = sampler.balance.weight[LABELS.sum(1) == 2]
    beyond = np.log(weight) - two @ sampler.log_weight
    assert beyond == pytest.approx(np.full(len(two), beyond[0]), abs=1e-5)


def test_a_log_weight_beyond_the_floor_is_scaled_down():
    sampler = LabelBalancedSampler(LABELS, min_effective=0.6)
    sampler.set_log_weight([0, 0, 0, 30, 60])
    assert sampler.balance.effective_size == pytest.approx(0.6, abs=1e-3)
    assert sampler.log_weight[4] == pytest.approx(2 * sampler.log_weight[3])


@pytest.mark.parametrize(
    ("targets", "settings", "words"),
    [
        (LABELS, {"exponent": -0.1}, "Expected exponent"),
        (LABELS, {"exponent": 2}, "Expected exponent"),
        (LABELS, {"min_effective": 0}, "Expected min_effective"),
        (LABELS, {"min_effective": 1.5}, "Expected min_effective"),
        (LABELS, {"max_repeat": 1}, "Expected max_repeat"),
        (LABELS, {"cardinality": "median"}, "Expected cardinality"),
        ([0, 1, 2], {}, "multi-hot"),
        (np.zeros((3, 2)), {}, "at least one positive"),
        ([[0, np.nan], [1, 0]], {}, "0 or 1"),
    ],
)
def test_bad_arguments_are_named(targets, settings, words):
    for make in (label_balancing_weights, LabelBalancedSampler):
        with pytest.raises(ValueError, match=words):
            make(targets, **settings)
