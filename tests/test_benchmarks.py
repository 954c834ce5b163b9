"""benchmarks.evidence and benchmarks.longtail on made-up images."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import longtail
from benchmarks.evidence import __main__ as command
from benchmarks.evidence import decisions, training
from benchmarks.evidence.methods import METHODS, Late, WorstOfBalanced, method_of
from benchmarks.evidence.report import apart, differences, half_width, noise_floor, table
from equipoise.weighting import InverseFrequency
from examples import harness

SETTINGS = dict(
    training.SETS["digits"], set="digits", lr=0.05, net="small", bf16=False, device="cpu",
    pilot=False, head="linear", scale=16.0, width=2, epochs=2, batch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)

    def images(counts):
        labels = np.repeat(np.arange(3), counts)
        noise = rng.integers(0, 100, (len(labels), 8, 8, 3))
        return (noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels

    parts = {"train": images([40, 20, 8]), "holdout": images([9] * 3), "test": images([9] * 3)}
    return parts | {"classes": ["a", "b", "c"]}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, data):
    arrays, result = training.train(method, 0, data, SETTINGS, [0.9, 0.5, 0.2])
    assert arrays["held"].shape == arrays["test"].shape == (27, 3)
    assert arrays["held"].dtype == np.float32
    assert arrays["shift"].shape == (3,)
    assert (arrays["test_y"] == data["test"][1]).all()
    assert np.isfinite(result["log_weight"]).all()
    predicted = torch.from_numpy(arrays["test"]).argmax(1)
    assert result["recalls"] == harness.recalls_of(predicted, data["test"][1], 3)
    again, _ = training.train(method, 0, data, SETTINGS, [0.9, 0.5, 0.2])
    assert (again["test"] == arrays["test"]).all()


def test_the_bigger_net_takes_a_step(data):
    settings = SETTINGS | {"net": "resnet9", "width": 2, "epochs": 1, "batch_size": 34}
    arrays, _ = training.train("LDAM", 0, data, settings, None)
    assert np.abs(arrays["test"]).max() <= 1 + 1e-6  # cosines


def test_deferred_weights_come_late_with_mean_one():
    counts = np.array([90, 10])
    late = Late(InverseFrequency(), epochs=5)
    log_weight = late.start(counts)
    seen = []
    for _ in range(5):
        seen.append(log_weight.tolist())
        log_weight = late.step(log_weight, None)
    assert seen[:4] == [[0, 0]] * 4
    np.testing.assert_allclose(np.exp(seen[4]), [100 / 180, 5])


def test_settings_of_the_loop_by_name():
    parts = method_of("Balancer:max_step=1,start=0,share=.25").balancer(None)
    assert (parts["policy"].max_step, parts["policy"].exponent) == (1, 0)
    assert parts["sampler_share"] == 0.25
    with pytest.raises(ValueError, match=r"Expected one of 'plain', .*, but got 'recall'"):
        method_of("recall")
    with pytest.raises(TypeError, match="steps"):
        method_of("Balancer:steps=3")
    parts = method_of("Balancer:policy=worst-class,mix=0").balancer(None)
    assert parts["policy"].mix == 0


def test_the_noise_floor_and_how_far_chance_takes_it():
    """Ten classes: n·sd²/σ² is χ² with nine degrees of freedom."""
    from scipy.stats import chi2

    result = {"recalls": {"equal": [0.6] * 10}}
    support = {"holdout": [500] * 10, "test": [1000] * 10}
    floor, span = noise_floor({"results": [result], "support": support})
    assert floor == pytest.approx((0.24 * 0.003) ** 0.5)
    expected = floor * np.sqrt(chi2.ppf([0.025, 0.975], 9) / 10)
    assert np.allclose(span, expected, rtol=0.03)


def test_worst_class_starts_from_balanced_classes():
    counts = np.array([90, 10])
    policy = WorstOfBalanced(1.0, mix=0)
    np.testing.assert_allclose(np.diff(policy.start(counts)), np.log(9))
    moved = policy.step(policy.start(counts), np.array([0.5, 1.0]))
    np.testing.assert_allclose(np.diff(moved), np.log(9) - 0.5)


def test_decisions_are_made_from_the_logits_alone(tmp_path):
    """Class 1 is hardly ever chosen as trained, and as good as class 0 once its offset is found."""
    rng = np.random.default_rng(0)

    def part(n):
        y = np.arange(n) % 2
        z = rng.normal(size=(n, 2)) + 2 * np.eye(2)[y] + [4.0, 0.0]
        return z.astype(np.float32), y

    (held, held_y), (test, test_y) = part(2000), part(2000)
    path = tmp_path / "run.npz"
    np.savez(path, held=held, test=test, held_y=held_y, test_y=test_y, shift=np.array([-4.0, 0.0]))
    for scale_ in (1.0, 30.0):  # what the loss multiplies logits by changes no decision
        found = decisions.decided(path, scale_)
        trained, fair, equal = (np.array(found["recalls"][d]) for d in decisions.DECISIONS)
        assert trained[1] < 0.1
        assert fair.min() > 0.85
        assert abs(equal[0] - equal[1]) < 0.04
        assert found["tenth"]["trained"] == pytest.approx(trained[1])
        assert found["tenth"]["fair"] == pytest.approx(fair[1])
        alphas, means = np.array(found["front"]).T[:2]
        assert (alphas[0], alphas[-1]) == (0, np.inf)
        assert means.min() > 0.85
    assert decisions.decided(path)["price"] == pytest.approx(0, abs=0.01)


def record_of(runs):
    more = {"price": 0.0, "cpu_seconds": 1.0}
    results = [
        {"method": m, "seed": s, "recalls": dict.fromkeys(decisions.DECISIONS, r)} | more
        for m, s, r in runs
    ]
    return {"results": results, "methods": {"plain": "a", "Balancer": "b"}, "classes": ["x", "y"]}


def test_tables_pair_runs_of_one_seed():
    record = record_of([("plain", 0, [0.9, 0.5]), ("plain", 1, [0.7, 0.3]),
                        ("Balancer", 1, [0.6, 0.6]), ("Balancer", 0, [0.8, 0.6])])  # fmt: skip
    rows = table(record, "Balancer")
    assert len({row.count("|") for row in rows}) == 1
    assert "| plain: a | 2 | 0.600 ± 1.271 | 0.200 ± 0.000 | 0.400 ± 1.271 |" in rows[2]
    rows = differences(record, "Balancer")
    assert len({row.count("|") for row in rows}) == 1
    assert "| Balancer | +0.050 ± 0.635 | +0.200 ± 1.271 |" in rows[3]


def test_runs_are_read_back_and_reported(tmp_path, monkeypatch, capsys):
    arguments = ["evidence", "--method", "plain", "Balancer", "--seeds", "2", "--epochs", "1"]
    arguments += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    assert "seed 1  Balancer" in capsys.readouterr().out
    assert (tmp_path / "runs" / "digits" / "Balancer-1.npz").exists()
    decided = tmp_path / "runs" / "digits" / "Balancer-1.decided.json"
    before = decided.stat().st_mtime_ns
    command.main()
    assert decided.stat().st_mtime_ns == before
    told = capsys.readouterr().out
    assert "seed 1  Balancer" not in told
    assert "| **Balancer**: " in told
    record = json.loads((tmp_path / "results" / "evidence_digits.json").read_text())
    assert len(record["results"]) == 4
    assert {*record["results"][0]["recalls"]} == {"trained", "fair", "equal"}

    decided.with_name("Balancer-1.npz").unlink()  # its row stays, as it was written down
    monkeypatch.setattr(sys, "argv", [*arguments, "--table"])
    command.main()
    again = json.loads((tmp_path / "results" / "evidence_digits.json").read_text())
    assert again == record
    assert (tmp_path / "results" / "evidence_digits.png").stat().st_size > 10_000


def test_intervals_and_labels():
    assert np.diff(apart(np.array([0.5, 0.5, 0.51, 0.9]), 0, 1)).min() >= 1 / 26 - 1e-12
    # t of 2 degrees of freedom is 4.3027
    np.testing.assert_allclose(half_width(np.array([1.0, 2.0, 3.0])), 4.3027 / 3**0.5, rtol=1e-4)


def test_the_long_tail_is_the_usual_one():
    labels = np.arange(50_000) % 10
    kept, held = longtail.thinned(labels, holdout=False)
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert np.bincount(labels[kept]).tolist() == counts
    assert not len(held)
    learnt, held = longtail.thinned(labels, holdout=True)
    assert np.bincount(labels[held]).tolist() == [50] * 6 + [46, 27, 16, 10]
    assert sorted([*learnt, *held]) == sorted(kept)


@pytest.mark.filterwarnings("ignore:The hold-out")  # of one image a class
def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    parts = {
        f"x_{part}": rng.integers(0, 255, (60, 8, 8, 3), np.uint8) for part in ("train", "test")
    }
    parts |= {f"y_{part}": np.arange(60) % 10 for part in ("train", "test")}
    np.savez(tmp_path / "data.npz", **parts)

    def train(out: str, epochs: int) -> dict:
        monkeypatch.setattr(longtail, "EPOCHS", epochs)
        given = ["--data", f"{tmp_path}/data.npz", "--head", "cosine", "--out", f"{tmp_path}/{out}"]
        longtail.main([*given, "--results", f"{tmp_path}/{out}.json"])
        (row,) = json.loads((tmp_path / f"{out}.json").read_text()).values()
        return {key: row[key] for key in ("as trained", "decided")}

    train("stopped", 1)
    assert train("stopped", 2) == train("whole", 2)
