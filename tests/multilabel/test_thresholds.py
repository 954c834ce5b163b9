"""Thresholds of labels: fitted, against naive searches, and those at a known prevalence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_curve, precision_score, recall_score

from equipoise.decision import (
    OBJECTIVES,
    calibrate_labels,
    label_thresholds,
    thresholds_at_prevalence,
)

FLOORS = {"recall": 0.8, "precision": 0.7}


def scored(examples, labels=40, seed=0, slope=1.0, rarest=-6.0):
    """Log-odds of a learner that is too sure of itself by `slope`, and targets drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.linspace(rarest, -1, labels)
    log_odds = common + 1.5 * torch.randn(examples, labels, generator=generator)
    targets = torch.rand(examples, labels, generator=generator) < torch.sigmoid(log_odds)
    return slope * log_odds, targets.to(torch.uint8)


def test_without_smoothing_it_is_the_best_point_of_scikit_learns_curve():
    logits, targets = scored(80, labels=6, rarest=-3)
    cuts = [
        label_thresholds(logits, targets, objective, at_least=at_least, prior=0)
        for objective, at_least in (("f1", None), ("recall", 0.8), ("precision", 0.7))
    ]
    for z, y, *cut in zip(logits.T, targets.T, *cuts, strict=True):
        precision, recall, _ = precision_recall_curve(y, z)
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is found
            best = np.nanmax(2 * precision * recall / (precision + recall))
        assert f1_score(y, z > cut[0]) == pytest.approx(best)
        fewest = np.flatnonzero(recall >= 0.8)[-1]
        assert recall_score(y, z > cut[1]) == pytest.approx(recall[fewest])
        assert precision_score(y, z > cut[1]) == pytest.approx(precision[fewest])
        most = recall[precision >= 0.7].max()
        assert recall_score(y, z > cut[2]) == pytest.approx(most)


def plain_threshold(z, y, expected, objective, at_least=0.0, prior=20.0):
    """The docstring's rule for one label: a stable sort, and every number of examples tried."""
    order = np.argsort(-z, kind="stable")
    z, y, expected = z[order].astype(float), y[order], expected[order].astype(float)
    weight = y.sum() / (y.sum() + prior) if prior else 1.0
    found = np.cumsum(weight * y + (1 - weight) * expected)
    counts = np.arange(1, len(z) + 1)
    exists = np.append(z[:-1] > z[1:], True)  # no cut falls among equal scores
    if objective == "prevalence":
        count = found[-1]
        last = int(np.clip(np.ceil(count) - 1, 0, len(z) - 1))
        split = count < len(z) and not exists[last]
        split |= count % 1 != 0 and last > 0 and z[last] == z[last - 1]
        if split:
            before, through = (z > z[last]).sum(), (z >= z[last]).sum()
            count = before if count - before < through - count else through
    elif objective == "f1":
        count = counts[exists][(2 * found / (counts + found[-1]))[exists].argmax()]
    elif objective == "recall":
        enough = (found >= at_least * found[-1] * (1 - 1e-12)) & exists
        count = counts[enough][0] if found[-1] else 0
    else:
        reached = counts[(found >= at_least * counts) & exists]
        if not len(reached):
            return np.inf
        count = reached[-1]
    place = np.clip(count - 0.5, 0, len(z) - 1)  # a rank between two examples, from 0
    above, below = z[int(place)], z[min(int(place) + 1, len(z) - 1)]
    cut = above + (place - int(place)) * (below - above)
    return cut - np.log(np.clip(count, 1e-9, 0.5) / 0.5) - 2 * max(count - len(z) + 0.5, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("prior", [0, 20])
def test_equals_the_rule_for_one_label(dtype, prior, monkeypatch):
    """Also with ties (half precision, zeros of both signs), and in blocks of labels."""
    monkeypatch.setattr("equipoise.decision.thresholds._AT_A_TIME", 300 * 4)
    logits, targets = scored(300, labels=13, rarest=-4)
    logits[::5, ::2], logits[1::5, ::2] = 0.0, -0.0
    targets[:, 3], targets[:, 4] = 0, 1
    logits[:, 5], logits[:, 7] = 0.7, (logits[:, 7] > -2).float()  # constant, two values
    logits[:, 9] = torch.where(logits[:, 9] > logits[:, 9].quantile(0.6), 1.0, logits[:, 9] - 9)
    logits = logits.to(dtype)
    expected = calibrate_labels(logits.float(), targets)(logits.float()).T.numpy()
    columns = list(zip(logits.float().T.numpy(), targets.T.numpy(), expected, strict=True))
    for objective in [o for o in OBJECTIVES if o != "equal-recall"]:
        floor = {"at_least": FLOORS[objective]} if objective in FLOORS else {}
        found = label_thresholds(logits, targets, objective, prior=prior, **floor)
        plain = [plain_threshold(*c, objective, prior=prior, **floor) for c in columns]
        assert np.allclose(found, plain, atol=1e-5), objective


def test_equal_recall_gives_one_recall_and_the_true_number_of_positives():
    logits, targets = scored(20_000, labels=10, rarest=-3)
    predicted = logits > label_thresholds(logits, targets, "equal-recall")
    recalls = recall_score(targets, predicted, average=None)
    assert recalls.std() < 0.01
    assert predicted.sum() == pytest.approx(int(targets.sum()), rel=0.01)
    plain = recall_score(targets, logits > label_thresholds(logits, targets), average=None)
    assert plain.std() > 0.05


def log_ratio(predicted, targets):
    ratio = predicted.sum(0) / targets.sum(0).clamp_min(1)
    return float(ratio.clamp_min(0.02).log().square().mean().sqrt())


def test_smoothing_helps_rare_labels_on_fresh_data():
    """300 hold-out examples, labels with from one positive up; means over five hold-outs."""
    fresh, truth = scored(20_000, seed=100, slope=1.5)
    off, f1 = {0: 0.0, 20: 0.0}, {0: 0.0, 20: 0.0}
    for prior in off:
        for seed in range(5):
            held = scored(300, seed=seed, slope=1.5)
            cut = label_thresholds(*held, prior=prior)
            off[prior] += log_ratio(fresh > cut, truth) / 5
            predicted = fresh > label_thresholds(*held, "f1", prior=prior)
            f1[prior] += f1_score(truth, predicted, average="macro", zero_division=0) / 5
    assert off[20] < 0.7 * off[0]
    assert f1[20] > f1[0] + 0.005


def test_floors_hold_on_fresh_data_on_average():
    held, fresh = scored(4000, labels=10, rarest=-3), scored(20_000, labels=10, rarest=-3, seed=1)
    for objective, measure in (("recall", recall_score), ("precision", precision_score)):
        cut = label_thresholds(*held, objective, at_least=0.6)
        reached = measure(fresh[1], fresh[0] > cut, average=None)
        assert reached.mean() == pytest.approx(0.6, abs=0.03)


def test_labels_without_positives_and_of_every_example():
    logits, targets = scored(300, labels=4, rarest=-2)
    targets[:, 0], targets[:, 1] = 0, 1
    logits[:, 0] -= 8
    logits[:, 1] += 10
    assert not label_thresholds(logits, targets, "equal-recall").isnan().any()
    predicted = logits > label_thresholds(logits, targets)
    assert predicted[:, 0].sum() <= 1
    assert predicted[:, 1].sum() >= 295


def test_calibration_finds_slope_and_intercepts():
    logits, targets = scored(20_000, labels=6, slope=2.0, rarest=-2)
    shift = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5, -0.5])
    found = calibrate_labels(logits + shift, targets)
    assert found.slope == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(found.intercept, -found.slope * shift, atol=0.15)
    assert torch.allclose(found(logits + shift).mean(0), targets.float().mean(0), atol=0.01)


def test_calibration_leaves_noise_alone():
    """Intercepts of labels with a few positives hardly differ, where the truth does not."""
    logits, targets = scored(200, labels=50, rarest=-5)
    assert calibrate_labels(logits, targets).intercept.std() < 0.2


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_targets_and_half_precision():
    logits, targets = scored(200, labels=5, rarest=-2)
    dense = label_thresholds(logits.half(), targets)
    for sparse in (targets.float().to_sparse(), targets.int().to_sparse_csr()):
        assert torch.equal(label_thresholds(logits.half(), sparse), dense)
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1, 1], targets.shape, check_invariants=True)
    with pytest.raises(ValueError, match="targets to be 0 or 1, but got 2"):
        label_thresholds(logits, twice)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": torch.zeros(3)}, "logits"),
        ({"targets": torch.zeros(3)}, "logits"),
        ({"logits": torch.zeros(0, 2), "targets": torch.zeros(0, 2)}, "logits of at least one"),
        ({"logits": torch.full((3, 2), float("nan"))}, "logits to be finite"),
        ({"targets": torch.full((3, 2), 2)}, r"targets to be 0 or 1, but got 2 \(6 of them"),
        ({"targets": torch.eye(3)[:, :2].to_sparse() * 3}, "targets to be 0 or 1, but got 3"),
        ({"logits": torch.tensor([[0, 1.0], [0, 0], [-torch.inf, 0]])}, "logits to be finite"),
        ({"targets": torch.full((3, 2), float("nan"))}, "targets to be 0 or 1"),
        ({"objective": "f2"}, "objective"),
        ({"objective": "recall"}, "at_least to be the recall"),
        ({"objective": "precision", "at_least": 1.0}, "at_least to be the precision"),
        ({"objective": "f1", "at_least": 0.5}, "at_least for"),
    ],
)
def test_bad_input_is_named(change, words):
    given_all = {"logits": torch.zeros(3, 2), "targets": torch.zeros(3, 2)} | change
    with pytest.raises(ValueError, match=f"Expected {words}"):
        label_thresholds(**given_all)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), at_a_time=st.sampled_from([1, 30, 1 << 22]))
def test_the_predicted_share_is_a_known_prevalence(data, at_a_time):
    """Also where labels are done in parts. So a drift of all scores changes no prediction."""
    examples, labels = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    ranks = torch.rand(examples, labels, generator=generator).argsort(0)  # no two are equal
    logits = ranks.to(data.draw(st.sampled_from([torch.float64, torch.float32, torch.float16])))
    share = [data.draw(st.floats(0, 1)) for _ in range(labels)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("equipoise.decision.thresholds._AT_A_TIME", at_a_time)
        cut = thresholds_at_prevalence(logits, torch.tensor(share, dtype=torch.float64))
    assert cut.dtype == torch.float32
    assert (logits.float() > cut).sum(0).tolist() == [math.floor(p * examples + 0.5) for p in share]


def test_equal_logits_fall_on_one_side_of_a_known_prevalence():
    logits = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    assert (logits > thresholds_at_prevalence(logits, torch.tensor([0.5]))).sum() == 2
    assert (logits > thresholds_at_prevalence(logits, torch.tensor([0.25]))).sum() == 0


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
def test_bad_prevalences_are_named(logits, prevalence, message):
    with pytest.raises(ValueError, match=message):
        thresholds_at_prevalence(logits, prevalence)
