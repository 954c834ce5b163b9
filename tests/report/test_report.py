"""The numbers of a report, what it says in words, and what it refuses."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score, recall_score

from equipoise import Balancer
from equipoise.report import Report, make_report
from equipoise.report.spread import noise_floor, spread_of
from equipoise.report.telling import sources, story
from equipoise.samplers import LabelBalancedSampler
from tests.report.runs import NAMES, evaluation_set, label_data, of_classes, of_labels


def told(report: Report) -> dict[str, str]:
    return dict(story(report))


def through_json(report: Report) -> Report:
    return Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


# ------------------------------------------------------------------------------------- numbers


def test_recalls_and_draws_are_the_balancers():
    balancer = of_classes()
    report = make_report(balancer)
    np.testing.assert_allclose(report.before["recalls"], balancer.history[0]["recalls"], atol=1e-6)
    np.testing.assert_allclose(report.after["recalls"], balancer.history[-1]["recalls"], atol=1e-6)
    assert (report.before["source"], report.after["source"]) == ("first epoch", "last epoch")
    assert report.drawn == balancer.sampler.quotas.tolist()
    assert report.counts == balancer.targets.counts.tolist()
    np.testing.assert_allclose(report.log_weight, balancer.log_weight, atol=1e-6)
    assert len(report.epochs) == 6
    assert report.names[3] == "class 3"


def test_recalls_before_and_after_the_decision_are_scikit_learns():
    balancer = of_classes()
    logits, targets = evaluation_set(size=300)
    logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    balancer.fit_decision(logits, targets)
    report = make_report(balancer, logits, targets)
    found = report.evaluation
    for key, predicted in (("trained", logits.argmax(1)), ("decided", balancer.decide(logits))):
        expected = recall_score(targets, predicted, average=None)
        np.testing.assert_allclose(found[key]["recalls"], expected, atol=1e-6)
        assert found[key]["predicted"] == np.bincount(predicted, minlength=10).tolist()
    assert found["trained"] != found["decided"]
    assert report.after["recalls"] == found["decided"]["recalls"]
    assert report.after["support"] == [300] * 10
    assert "fitted offsets" in " ".join(sources(report))


def test_a_baseline_is_before():
    baseline = np.linspace(0.9, 0.4, 10)
    baseline[4] = np.nan
    report = make_report(of_classes(), baseline=torch.from_numpy(baseline))
    assert report.before["source"] == "baseline"
    assert report.before["recalls"][4] is None
    assert "In the plain run, 40% of class 9 was recalled" in told(report)["What was unbalanced"]
    assert "no baseline" not in " ".join(sources(report))


def test_without_a_baseline_it_says_so():
    report = make_report(of_classes())
    assert "no baseline was given" in " ".join(sources(report))
    assert "After the first epoch" in told(report)["What was unbalanced"]
    assert "plain run (baseline=…)" in told(report)["What it cost"]


def test_one_epoch_has_no_before():
    report = make_report(of_classes(epochs=1))
    assert report.before == {"recalls": None, "source": None}
    assert "went from" not in " ".join(told(report).values())
    with_logits = make_report(of_classes(epochs=1), *evaluation_set())
    assert with_logits.before["source"] == "first epoch"


def test_a_run_that_observed_nothing():
    balancer = Balancer([0, 0, 0, 1], "inverse-frequency")
    balancer.step()
    report = make_report(balancer)
    assert report.after["source"] is None
    assert "Not known" in told(report)["What it changed"]
    assert "drawn 3.0 times as often" in told(report)["What was done"]
    report = make_report(balancer, torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1]))
    assert report.before["source"] == "as trained"
    assert report.after["recalls"] == [1.0, 0.5]


def test_labels():
    balancer = of_labels()
    logits, targets = label_data(14, 600, 50)
    balancer.fit_decision(*label_data(14, 300, 51))
    report = make_report(balancer, logits, csr_matrix(targets.numpy()).toarray())
    found = report.evaluation
    expected = average_precision_score(targets, logits, average=None)
    np.testing.assert_allclose(found["average_precisions"], expected, atol=0.01)
    for label in range(14):  # the recall where as many are predicted as are true
        n = int(targets[:, label].sum())
        hits = int(targets[logits[:, label].argsort(descending=True)[:n], label].sum())
        assert abs(found["recalls"][label] - hits / n) < 0.03 + 1 / n
    assert found["trained"]["predicted"] == (logits > 0).sum(0).tolist()
    assert found["decided"]["predicted"] == balancer.decide(logits).sum(0).tolist()
    assert report.after["recalls"] == found["recalls"]
    assert isinstance(balancer.sampler, LabelBalancedSampler)
    drawn = balancer.targets.matrix.T @ balancer.sampler.repeats
    np.testing.assert_allclose(report.drawn, drawn, atol=0.01)
    ratio = (logits > 0).sum().item() / targets.sum().item()
    assert f"predicted {ratio:.2f} times" in told(report)["What it changed"]
    assert through_json(report) == report


def test_precision_recall_curves_are_of_the_lowest_the_rarest_and_the_best():
    balancer = of_labels()
    logits, targets = label_data(14, 600, 50)
    found = make_report(balancer, logits, targets).evaluation
    areas = np.array(found["average_precisions"])
    why = {curve["label"]: curve["why"] for curve in found["curves"]}
    assert why[int(areas.argmin())] == "lowest average precision"
    assert why[int(areas.argmax())] == "highest average precision"
    assert int(targets.sum(0).argmin()) in why
    for curve in found["curves"]:
        precision, recall = np.array(curve["precision"]), np.array(curve["recall"])
        assert len(recall) <= 81
        assert set(np.sign(np.diff(recall))) <= {-1.0, 0.0}
        steps = -np.diff(recall) * precision[:-1]
        assert abs(steps.sum() - areas[curve["label"]]) < 0.04


def test_reliability_of_logits_that_are_right_and_of_inflated_ones():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4000, 4, generator=generator)
    targets = (torch.rand(4000, 4, generator=generator) < logits.sigmoid()).long()
    balancer = Balancer(targets, sampler=None, loss="weighted-bce")
    balancer.observe(logits, targets)
    balancer.step()
    raw = make_report(balancer, logits, targets).evaluation["reliability"]["trained"]
    assert np.abs(np.array(raw["predicted"]) - np.array(raw["true"])).max() < 0.04
    assert sum(raw["sizes"]) == 16_000
    off = make_report(balancer, logits + 1, targets).evaluation["reliability"]["trained"]
    middle = np.abs(np.array(off["predicted"]) - 0.5).argmin()
    assert off["predicted"][middle] - off["true"][middle] > 0.15


def test_labels_without_positives_and_targets_not_known():
    logits, targets = label_data(5, 200, 0)
    targets[:, 4] = 0
    balancer = Balancer(targets, "plain")
    balancer.observe(logits, targets)
    balancer.step()
    given = targets.clone()
    given[0, 0], logits[1, 1] = -1, torch.nan
    report = make_report(balancer, logits, given)
    assert report.evaluation["num_left_out"] == 2
    assert report.evaluation["recalls"][4] is None
    assert report.evaluation["support"][0] == int((given[:, 0] == 1).sum())
    assert "2 of them had NaN" in " ".join(sources(report))
    assert through_json(report) == report


def test_nan_logits_are_left_out_and_told():
    logits, targets = evaluation_set()
    logits[3, 2] = torch.nan
    report = make_report(of_classes(), logits, targets)
    assert report.evaluation["num_left_out"] == 1
    assert report.evaluation["support"] == [39, *[40] * 9]


def test_the_noise_floor_is_what_equal_recalls_show():
    rng = np.random.default_rng(0)
    support = rng.integers(50, 400, 30)
    seen = [np.std(rng.binomial(support, 0.7) / support) for _ in range(400)]
    assert abs(noise_floor([0.7] * 30, support.tolist()) - np.mean(seen)) < 0.002
    assert noise_floor([0.7], None) is None
    assert noise_floor([None], [5]) is None
    assert spread_of([None, None]) is None


# --------------------------------------------------------------------------------------- words


def test_the_story_of_cat_and_car():
    labels = np.repeat(np.arange(2), 100)
    balancer = Balancer(labels, seed=0)
    targets = torch.arange(2).repeat_interleave(100)
    for first in (0.61, 0.75):
        hit = torch.cat(
            [torch.arange(100) < 100 * r for r in (first, 0.91 if first < 0.7 else 0.8)]
        )
        balancer.observe(torch.eye(2)[torch.where(hit, targets, 1 - targets)], targets)
        balancer.step()
    report = make_report(balancer, names=["cat", "car"], seconds={"training": 90, "hold-out": 10})
    said = told(report)
    assert said["What was unbalanced"] == (
        "Each of the 2 classes has about 100 training examples. After the first epoch, 61% of cat "
        "was recalled, and 91% of car."
    )
    ratio = balancer.sampler.quotas[0] / balancer.sampler.quotas[1]
    assert (
        f"after 2 epochs an example of cat is drawn {ratio:.2f} times as often as one of car. The "
        "loss lowers the logits of cat by 0.30 against those of car" in said["What was done"]
    )
    assert "Recalls now lie between 0.75 (cat) and 0.80 (car)" in said["What it changed"]
    assert "from 0.150 to 0.025" in said["What it changed"]
    assert "mean recall went from 0.760 to 0.775" in said["What it cost"]
    assert "training 90 s (90%), hold-out 10 s (10%)" in said["What it cost"]


def test_the_loss_is_named_where_it_carries_the_weights():
    balancer = Balancer([0, 0, 0, 1], "inverse-frequency", sampler=None, loss="focal")
    balancer.step()
    report = make_report(balancer)
    assert "the loss counts class 1 3.0 times as much as class 0" in told(report)["What was done"]
    assert "FocalLoss" in told(report)["What was done"]
    assert report.drawn == [3.0, 1.0]


def test_a_plain_run_did_nothing():
    balancer = Balancer([0, 1, 1], "plain")
    balancer.step()
    assert told(make_report(balancer))["What was done"].startswith("No class is drawn")


def test_mining_is_told():
    balancer = of_classes(mining="hardest-examples")
    report = make_report(balancer)
    mined = balancer.history[-1]["mining"]
    assert report.epochs[-1]["mining"] == mined
    share = f"{mined['share_kept']:.0%}"
    assert f"Mining (HardestExamples) learnt from {share}" in told(report)["What was done"]


def test_draws_under_loss_pruning_are_those_before_it():
    balancer = of_classes(mining=None)
    pruned = Balancer(balancer.targets, mining="loss-pruning", seed=0)
    pruned.observe(*evaluation_set())
    pruned.step()
    report = make_report(pruned)
    assert sum(report.drawn) == len(balancer.targets)
    assert report.parts["sampler"] == "ClassBalancedSampler"


# ------------------------------------------------------------------------------- JSON and errors


@pytest.mark.parametrize("epochs", [1, 6])
def test_it_goes_through_json(epochs: int):
    report = make_report(
        of_classes(epochs=epochs, mining="hardest-examples"),
        *evaluation_set(),
        names=NAMES,
        seconds={"all": np.float32(1.5)},
        title="t",
    )
    assert through_json(report) == report


def test_names_lose_control_characters_only():
    names = [*NAMES[:7], "a\x00b\x1b[31m\ud800", "two\nlines", ""]
    report = make_report(of_classes(), names=names)
    assert report.names[:7] == NAMES[:7]
    assert report.names[7:] == ["a�b�[31m�", "two lines", "(no name)"]


def test_no_epoch_is_refused():
    with pytest.raises(ValueError, match=r"Expected balancer to have been through an epoch.*empty"):
        make_report(Balancer([0, 1]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logits": torch.zeros(2, 10)}, "Expected logits and targets together.*no targets"),
        ({"targets": torch.zeros(2)}, "Expected logits and targets together.*no logits"),
        (
            {"logits": torch.zeros(2, 9), "targets": torch.zeros(2).long()},
            r"Expected logits to have shape \(B, 10\), but got \(2, 9\)",
        ),
        (
            {"logits": torch.zeros(2, 10), "targets": torch.zeros(3).long()},
            "Expected targets to be 2 class ids",
        ),
        (
            {"logits": torch.full((2, 10), torch.nan), "targets": torch.zeros(2).long()},
            "Expected logits and targets with at least one example that can be used",
        ),
        ({"baseline": [0.5] * 9}, "Expected baseline to be 10 recalls.*got shape"),
        ({"baseline": [0.5] * 9 + [1.5]}, "Expected baseline to be 10 recalls.*but got 1.5"),
        ({"baseline": [math.nan] * 10}, "Expected baseline to be 10 recalls"),
        ({"names": ["a"]}, "Expected names to be 10 names, but got 1"),
        ({"names": "abcdefghij"}, "Expected names to be 10 names"),
        ({"seconds": {"x": -1}}, "Expected seconds of 'x' to be at least 0, but got -1"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_report(of_classes(), **given)


def test_what_is_no_report_is_refused():
    saved = make_report(of_classes()).to_dict()
    for wrong, message in (
        ([], "Expected saved to be the dict of Report.to_dict.*but got list"),
        ({"a": 1}, "but got dict without"),
        (saved | {"equipoise_report": 7}, "of version 1, but got 7"),
        ({k: v for k, v in saved.items() if k != "counts"}, "Expected saved to have counts"),
        (saved | {"counts": [1]}, "Expected counts to be 10 numbers, one a class, but got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Report.from_dict(wrong)


def test_the_terminal_shows_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    report = make_report(of_classes(), *evaluation_set(), names=NAMES)
    report.show()
    out = capsys.readouterr().out
    assert "What was unbalanced" in out
    assert "[bold]not markup[/]" in out
    assert "<img src=x onerror=alert" in out
    table = [line for line in out.splitlines() if line.startswith("│")]
    assert len(table) == 10
    assert {len(re.findall("│", line)) for line in table} == {len(re.findall("│", table[0]))}
    assert all(re.search(r"\d\.\d{3}", line) for line in table)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_terminal(width: int, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    make_report(of_classes(40, 3), *evaluation_set(40)).show(most=8)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == 8
    assert not any("…" in row for row in rows)
    assert any("32 more classes" in line for line in lines)
