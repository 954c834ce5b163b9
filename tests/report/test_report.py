"""The numbers of a report, what it says in words, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score

from equipoise import Balancer, Targets
from equipoise.decision import ClassDecision
from equipoise.report import Report, load, make_report
from equipoise.report.numbers import noise_floor, plain, still_improving
from equipoise.report.pictures import pictures
from equipoise.report.story import notes, story, warnings
from tests.report.runs import (
    NAMES,
    MadeBalancer,
    evaluation_set,
    label_data,
    of_classes,
    of_labels,
)


def told(report: Report) -> dict[str, str]:
    return dict(story(report))


def outcomes(report: Report) -> dict[str, dict]:
    return {row["name"]: row for row in report.outcomes}


def through_json(report: Report) -> Report:
    return Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


# ------------------------------------------------------------------------------------- numbers


def test_what_it_takes_of_a_balancer():
    balancer = of_classes(mining=True, names=NAMES)
    report = make_report(balancer)
    assert report.counts == balancer.targets.counts.tolist()
    np.testing.assert_allclose(report.draws, balancer.sampler.expected_draws(), atol=0.01)
    np.testing.assert_allclose(report.log_weight, balancer.log_weight, atol=1e-6)
    assert report.names == NAMES
    assert [row["epoch"] for row in report.epochs] == list(range(6))
    assert report.epochs[-1]["mining"] == balancer.history[-1]["mining"]
    names = [report.parts[key] for key in ("policy", "sampler", "mining", "decision")]
    assert names == ["InverseFrequency", "ClassShares", "HardestExamples", "fair"]
    assert report.parts["loss"] == "WeightedCrossEntropy"


def test_without_logits_the_last_epoch_is_compared_with_the_first():
    balancer = of_classes()
    report = make_report(balancer)
    assert [row["name"] for row in report.outcomes] == ["first epoch", "last epoch"]
    for row, i in zip(report.outcomes, (0, -1), strict=True):
        np.testing.assert_allclose(row["recalls"], balancer.history[i]["recalls"], atol=1e-6)
        assert row["mean"] == pytest.approx(balancer.history[i]["mean_recall"])
        assert row["price"] == pytest.approx(balancer.history[i]["price"], abs=1e-6)
    assert "training, not balancing" in " ".join(notes(report))
    assert [row["name"] for row in make_report(of_classes(epochs=1)).outcomes] == ["last epoch"]


def checked_recalls(outcome: dict, targets: torch.Tensor, predicted: torch.Tensor) -> np.ndarray:
    """Scikit-learn's recalls, which the outcome's are, as its precisions are scikit-learn's."""
    recalls = recall_score(targets, predicted, average=None)
    np.testing.assert_allclose(outcome["recalls"], recalls, atol=1e-6)
    precisions = precision_score(targets, predicted, average=None)
    np.testing.assert_allclose(outcome["precisions"], precisions, atol=1e-6)
    return recalls


def test_outcomes_are_scikit_learns():
    balancer = of_classes()
    logits, targets = evaluation_set(size=300)
    report = make_report(balancer, logits, targets)
    predictions = {
        "plain": balancer.correct(logits).argmax(1),
        "as trained": logits.argmax(1),
        "decided": balancer.decide(logits),
    }
    assert list(outcomes(report)) == list(predictions)
    plain_mean = recall_score(targets, predictions["plain"], average="macro")
    for name, predicted in predictions.items():
        found = outcomes(report)[name]
        recalls = checked_recalls(found, targets, predicted)
        assert found["predicted"] == np.bincount(predicted, minlength=10).tolist()
        assert found["price"] == pytest.approx(plain_mean - recalls.mean(), abs=2e-6)
        assert (found["lowest"], found["worst"]) == (recalls.min(), recalls.argmin())
        assert found["sd"] == pytest.approx(recalls.std())
        assert found["chance"] == noise_floor(recalls.mean(), [300] * 10)
    assert report.support == [300] * 10


def test_the_same_prediction_is_not_shown_twice():
    balancer = of_classes(decided=False)
    balancer.shift = np.zeros(10)
    report = make_report(balancer, *evaluation_set())
    assert [row["name"] for row in report.outcomes] == ["as trained"]
    assert report.decision is None
    assert report.outcomes[0]["price"] == 0


def test_pixels_are_examples_of_their_own():
    balancer = of_classes()
    logits, targets = evaluation_set(size=4)
    targets[5] = -100
    flat = make_report(balancer, logits, targets)
    images = logits.reshape(4, 5, 2, 10).movedim(-1, 1)
    assert make_report(balancer, images, targets.reshape(4, 5, 2)) == flat
    assert flat.evaluation == {"num_examples": 39, "num_left_out": 1}


def test_a_class_without_test_examples_is_named():
    logits, targets = evaluation_set()
    report = make_report(of_classes(names=NAMES), logits[targets != 3], targets[targets != 3])
    assert report.outcomes[0]["recalls"][3] is None
    assert report.support[3] == 0
    assert "There was no test example of $x^2$ {y} \\alpha" in " ".join(warnings(report))
    assert through_json(report) == report


def test_the_front_and_the_point_that_was_chosen():
    report = make_report(of_classes())
    found = report.decision
    assert [row["chosen"] for row in found["front"]] == [False] * 3 + [True] + [False] * 2
    assert [row["alpha"] for row in found["front"]] == [0, 1, 2, 4, 8, None]
    assert (found["objective"], found["price"], found["equality_price"]) == ("fair", 0.008, 0.06)
    assert "equal would cost about 0.060" in told(report)["What it cost"]
    balancer = of_classes()
    balancer.decision = ClassDecision("accuracy", torch.zeros(10))
    found = make_report(balancer).decision
    assert (found["front"], found["price"], found["equality_price"]) == ([], None, None)


def test_a_baseline_comes_first():
    baseline = np.linspace(0.9, 0.4, 10)
    baseline[4] = np.nan
    report = make_report(of_classes(), *evaluation_set(), baseline=torch.from_numpy(baseline))
    assert report.outcomes[0]["name"] == "baseline"
    assert report.outcomes[0]["recalls"][4] is None
    assert "(baseline) range from 40% of class 9" in told(report)["What was unbalanced"]
    assert "training, not balancing" not in " ".join(notes(report))


def test_a_run_that_observed_nothing():
    held = Targets.from_class_counts([3, 1])
    balancer = MadeBalancer(held, np.zeros(2), history=[{"epoch": 0, "log_weight": [0.0, 0.0]}])
    report = make_report(balancer)
    assert (report.outcomes, report.support) == ([], None)
    assert "Not known" in told(report)["What it changed"]
    assert through_json(report) == report


def test_labels():
    balancer = of_labels()
    logits, targets = label_data(14, 600, 50)
    report = make_report(balancer, logits, targets)
    found = outcomes(report)
    assert list(found) == ["plain", "as trained", "as many as true", "decided"]
    expected = average_precision_score(targets, logits, average=None)
    np.testing.assert_allclose(report.evaluation["average_precisions"], expected, atol=0.01)
    for label in range(14):  # the recall where as many are predicted as are true
        n = int(targets[:, label].sum())
        hits = int(targets[logits[:, label].argsort(descending=True)[:n], label].sum())
        assert abs(found["as many as true"]["recalls"][label] - hits / n) < 0.03 + 1 / n
    for name, predicted in (("as trained", logits > 0), ("decided", balancer.decide(logits))):
        checked_recalls(found[name], targets, predicted.int())
    times = balancer.decide(logits).sum().item() / targets.sum().item()
    assert f"predicted {times:.2f} times" in told(report)["What it changed"]
    assert make_report(balancer, logits, targets.to_sparse()) == report
    assert through_json(report) == report


def test_reliability_of_logits_that_are_right_and_of_inflated_ones():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4000, 4, generator=generator)
    targets = (torch.rand(4000, 4, generator=generator) < logits.sigmoid()).long()
    balancer = of_labels(4)
    found = make_report(balancer, logits, targets).evaluation["reliability"]["as trained"]
    assert np.abs(np.array(found["predicted"]) - np.array(found["true"])).max() < 0.04
    assert (sum(found["sizes"]), found["gap"] < 0.01) == (16_000, True)
    off = make_report(balancer, logits + 1, targets).evaluation["reliability"]["as trained"]
    assert off["gap"] > 0.15


def test_labels_without_positives_and_unknown_targets():
    logits, targets = label_data(5, 200, 0)
    targets[:, 4] = 0
    targets[0, 0], logits[1, 1] = -1, torch.nan
    report = make_report(of_labels(5), logits, targets)
    assert report.evaluation["num_left_out"] == 2
    assert all(row["recalls"][4] is None for row in report.outcomes)
    assert report.support[0] == int((targets[:, 0] == 1).sum())
    assert "2 had NaN" in " ".join(notes(report))
    assert through_json(report) == report


# ------------------------------------------------------------------------- chance and progress


def test_the_noise_floor_is_what_equal_recalls_show():
    rng = np.random.default_rng(0)
    support = rng.integers(50, 400, 30)
    seen = [np.std(rng.binomial(support, 0.7) / support) for _ in range(400)]
    assert abs(noise_floor(0.7, support) - np.mean(seen)) < 0.002
    assert noise_floor(0.7, [0, 0]) is None


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=8))
def test_plain_numbers_survive_json(values: list[float]):
    again = json.loads(json.dumps(plain(values), allow_nan=False))
    for value, found in zip(values, again, strict=True):
        expected = pytest.approx(value, abs=1e-6) if math.isfinite(value) else None
        assert found == expected


@pytest.mark.parametrize(
    ("means", "prices", "expected"),
    [
        ([0.5], [None], None),
        ([0.5, 0.6, 0.7, 0.8], [None] * 4, True),
        ([0.5, 0.8, 0.8, 0.8], [0.0] * 4, False),
        ([0.5, 0.8, 0.8, 0.8005], [0.0] * 4, False),  # within chance
        ([0.7, 0.7, 0.7, 0.7], [0.0, 0.0, 0.0, 0.1], True),  # better, but paid away
    ],
)
def test_still_improving(means: list[float], prices: list, expected: bool | None):
    rows = [
        {"mean_recall": mean, "price": price, "support": [100] * 10}
        for mean, price in zip(means, prices, strict=True)
    ]
    assert still_improving(rows) is expected
    report = make_report(of_classes())
    warned = "Do not judge yet" in " ".join(warnings(report))
    assert warned is still_improving(report.epochs)


# --------------------------------------------------------------------------------------- words


def test_the_story_of_a_raised_class():
    report = make_report(of_classes(3, names=["cat", "car", "cup"]), *evaluation_set(3, 200))
    said = told(report)
    first, now = report.outcomes[0], report.outcomes[-1]
    cat = "cat has 2,000 training examples, 100 times as many as cup (20)"
    assert cat in said["What was unbalanced"]
    drawn = "draws each example of cup 37 times on average, and each of cat 0.37 times"
    assert drawn in said["What was done"]
    assert f"from {first['lowest']:.3f} of cup to {now['lowest']:.3f}" in said["What it changed"]
    assert "Raised most was cup" in said["What it changed"]
    precisions = [row["precisions"][2] for row in (first, now)]
    assert f"from {precisions[0]:.2f} to {precisions[1]:.2f}." in said["What it changed"]
    assert f"{abs(now['price']):.3f}" in said["What it cost"]


def test_the_story_divides_by_the_known_examples():
    report = make_report(of_labels(3, 1))
    known = replace(report, num_examples=100, counts=[30, 5, 10], known=[40, 100, 50])
    said = told(known)["What was unbalanced"]
    assert "label 0 is on 75% of the 100 training examples, label 1 on 5%." in said
    assert "Examples in which a label is unknown are left out of its share." in said
    assert "unknown" not in told(report)["What was unbalanced"]


def test_names_lose_control_characters_only():
    names = [*NAMES[:7], "a\x00b\x1b[31m\ud800", "two\nlines", ""]
    report = make_report(of_classes(), names=names)
    assert report.names[:7] == NAMES[:7]
    assert report.names[7:] == ["a�b�[31m�", "two lines", "(no name)"]
    assert make_report(of_classes()).names[3] == "class 3"


# ------------------------------------------------------------------------------ JSON and errors


@pytest.mark.parametrize("name", ["run.json", "a/new/folder"])
def test_it_is_saved_and_loaded(name: str, tmp_path):
    report = make_report(of_classes(mining=True), *evaluation_set(), names=NAMES)
    path = report.save(tmp_path / name)
    assert path.suffix == ".json"
    assert load(tmp_path / name) == report == load(path)


def test_what_is_no_report_is_refused(tmp_path):
    saved = make_report(of_classes()).to_dict()
    for wrong, message in (
        ([], "Expected saved to be the dict of Report.to_dict.*but got a list"),
        ({"a": 1}, "but got a dict without"),
        (saved | {"equipoise_report": 7}, "of version 2, but got version 7"),
        ({k: v for k, v in saved.items() if k != "counts"}, "Expected saved to have counts"),
    ):
        with pytest.raises(ValueError, match=message):
            Report.from_dict(wrong)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json to be JSON"):
        load(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"Expected balancer to have been through an epoch.*empty"):
        make_report(of_classes(epochs=0))


Z, Y = torch.zeros(2, 10), torch.zeros(2).long()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logits": Z}, "logits and targets together.*no targets"),
        ({"targets": Y}, "logits and targets together.*no logits"),
        ({"logits": Z[:, :9], "targets": Y}, r"logits to have shape \(N, 10\).*but got \(2, 9\)"),
        ({"logits": Z, "targets": Y[:1]}, r"targets to have shape \(2,\), but got \(1,\)"),
        ({"logits": Z + torch.nan, "targets": Y}, "at least one example that can be used"),
        ({"baseline": [0.5] * 9}, "baseline to be 10 recalls.*got shape"),
        ({"baseline": [0.5] * 9 + [1.5]}, "baseline to be 10 recalls.*but got 1.5"),
        ({"baseline": [math.nan] * 10}, "baseline to be 10 recalls"),
        ({"names": ["a"]}, "names to be 10 names, but got 1"),
        ({"names": "abcdefghij"}, "names to be 10 names"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str):
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        make_report(of_classes(), **given)


@pytest.mark.filterwarnings("ignore:The hold-out has")
def test_elements_are_not_called_examples_and_the_front_is_of_classes():
    targets = torch.arange(96).view(2, 6, 8) % 3
    logits = 3.0 * torch.nn.functional.one_hot(targets, 3).movedim(-1, 1)
    balancer = Balancer(Targets.from_counts([[9, 2, 1], [8, 4, 2]]))
    balancer.loss(logits, targets)
    balancer.step()
    report = make_report(balancer, logits, targets)
    assert report.counted == "elements"
    assert "17 training elements" in str(story(report))
    assert "96 elements given" in notes(report)[0]

    labels, sites = np.arange(80) % 2, np.arange(80) // 40
    balancer = Balancer(labels, groups=sites)
    shown = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)), torch.from_numpy(labels)
    balancer.observe(*shown, sites)
    balancer.step()
    balancer.fit_decision(*shown, alpha=1.0)
    report = make_report(balancer, *shown, groups=sites)
    assert report.counted == "examples"
    front = next(picture for picture in pictures(report) if picture.name == "front")
    assert "of the classes, whatever the group" in front.note
