"""benchmarks/evidence.py on made-up images: every method trains, runs are read back, a report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import evidence, sampler_scale
from benchmarks.evidence_methods import Late, WorstOfBalanced, method_of
from benchmarks.evidence_report import apart, front, half_width, noise_floor
from equipoise.weighting import InverseFrequency

SETTINGS = dict(
    evidence.SETS["digits"], set="digits", lr=0.05, net="small", bf16=False, device="cpu",
    pilot=False, width=2, epochs=2, batch_size=16,
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


@pytest.mark.parametrize("method", evidence.METHODS)
def test_every_method_trains(method, data):
    result = evidence.train(method, 0, data, SETTINGS, [0.9, 0.5, 0.2])
    for key in ("recalls", "recalls_decided", "holdout_recalls"):
        recalls = np.array(result[key])
        assert recalls.shape == (3,)
        assert ((recalls >= 0) & (recalls <= 1)).all()
    assert np.isfinite(result["log_weight"]).all()
    again = evidence.train(method, 0, data, SETTINGS, [0.9, 0.5, 0.2])
    assert again["recalls"] == result["recalls"]


def test_the_bigger_net_takes_a_step(data):
    settings = SETTINGS | {"net": "resnet9", "width": 2, "epochs": 1, "batch_size": 34}
    one = dict(data)
    assert len(evidence.train("LDAM", 0, one, settings, None)["recalls"]) == 3


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


def test_the_noise_floor_and_how_far_chance_takes_it():
    """Ten classes: n·sd²/σ² is χ² with nine degrees of freedom."""
    from scipy.stats import chi2

    result = {"recalls_decided": [0.6] * 10}
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


def test_augmented_images_are_shifts_and_mirror_images():
    image = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 8, 8, 1).expand(200, 8, 8, 3)
    out = evidence.augment(image, torch.Generator().manual_seed(0), flip=True)
    padded = np.pad(image[0, :, :, 0].numpy(), 1, constant_values=128)
    crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    possible = {c.tobytes() for c in crops} | {c[:, ::-1].tobytes() for c in crops}
    assert {o[:, :, 0].contiguous().numpy().tobytes() for o in out} == possible


def test_runs_are_read_back_and_reported(tmp_path, monkeypatch, capsys):
    command = ["evidence", "--method", "plain", "Balancer", "--seeds", "2", "--epochs", "1"]
    command += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", command)
    evidence.main()
    assert "seed 1  Balancer" in capsys.readouterr().out
    evidence.main()  # finished already
    told = capsys.readouterr().out
    assert "seed 1  Balancer" not in told
    assert "| **Balancer**: " in told
    record = json.loads((tmp_path / "results" / "evidence_digits.json").read_text())
    assert len(record["results"]) == 4
    assert (tmp_path / "results" / "evidence_digits.png").stat().st_size > 10_000


def test_front_and_intervals():
    points = {"best": [[0.8, 0.02]], "even": [[0.7, 0.01]], "worse": [[0.75, 0.03]]}
    assert front({k: np.array(v) for k, v in points.items()}) == ["best", "even"]
    assert np.diff(apart(np.array([0.5, 0.5, 0.51, 0.9]), 0, 1)).min() >= 1 / 26 - 1e-12
    # t of 2 degrees of freedom is 4.3027
    np.testing.assert_allclose(half_width(np.array([1.0, 2.0, 3.0])), 4.3027 / 3**0.5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ours", "ours, array", "WeightedRandomSampler", "choice(p=)"])
def test_a_sampler_is_measured(name, tmp_path):
    path = tmp_path / "labels.npy"
    sampler_scale.write_labels(path, 3000, 200)
    assert len(np.unique(np.load(path))) == 200
    row = sampler_scale.measure(name, str(path), 200)
    assert all(row[q] > 0 for q in ("construct", "first batch", "epoch", "update"))
    if name == "ours":
        assert row["index"] == 4 * 3000 + 8 * 201


def test_left_out_by_what_the_size_before_took():
    row = {"construct": 1.0, "first batch": 1.0, "epoch": 1.0, "update": 1.0, "memory": 1e9}
    assert sampler_scale.expected_too_much([row], 2, 180) is None
    assert sampler_scale.expected_too_much([row], 10, 180) == "would take 10 GB"
    assert sampler_scale.expected_too_much([row], 90, 180) == "would take 360 s"
    assert sampler_scale.expected_too_much([{"why": "no"}], 10, 180) == "no"
