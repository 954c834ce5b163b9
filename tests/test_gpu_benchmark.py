"""benchmarks/gpu.py without a GPU: it says so; its parts run on the CPU, at sizes of a toy."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import bandwidth, steps


def test_without_a_gpu_it_says_so_and_ends(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(["--results", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "benchmarks.gpu: no CUDA device here, nothing was measured."
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # the profiler's, about itself
def test_the_parts_and_their_tables(monkeypatch):
    """Every part but the compiled losses and the trainings."""
    monkeypatch.setattr(bandwidth, "ROUNDS", 1)
    record = {
        "command": "…",
        "machine": gpu.machine("cpu"),
        "failed": {"compiled": "boom"},
        "eager": list(bandwidth.bandwidth("cpu", "eager", [(2, 30)])),
        "fused": list(bandwidth.bandwidth("cpu", "fused", [(2, 30)])),
        "correctness": list(steps.correctness("cpu")),
        "steps": list(steps.added("cpu", gpu.tiny_net(), 64, 8, rounds=1)),
    }
    eager, fused = record["eager"], record["fused"]
    assert [row["loss"] for row in eager][:2] == ["torch's BCE", "weighted BCE"]
    assert all(row["share_of_copy"][1] > 0 for row in eager)
    assert len(fused) == 12
    assert all("fused to be False for logits on cpu" in row["left_out"] for row in fused)

    names = [row["what"] for row in record["correctness"]]
    assert len(names) == len(set(names)) == 20
    assert all(row["equal"] and row["largest_difference"] == 0 for row in record["correctness"])

    net, *added = record["steps"]
    assert net["net_step_ms"] > 0
    assert len(added) == 8
    assert all(row["waits"] == 0 and row["steps"] == 5 for row in added)

    text = gpu.markdown(json.loads(json.dumps(record)))
    for heading in ("## Bandwidth", "## Steps", "## Against the CPU", "Failed: compiled."):
        assert heading in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| loss memory")}
    assert widths == {7, 4}  # of a step, and against the CPU


def test_a_difference_is_seen(monkeypatch):
    """What is computed on the device is compared, not only called."""
    answers = iter([torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])] * 2)
    monkeypatch.setattr(steps, "checks", lambda: [("made up", lambda on: [next(answers)])])
    (row,) = steps.correctness("cpu")
    assert not row["equal"]
    assert row["largest_difference"] == pytest.approx(0.1 / 2.1)


def test_a_value_asked_for_is_counted():
    x = torch.arange(3)
    assert steps.waits_of(lambda: x.sum().item(), "cpu", 2)["asks"] == 2
    assert steps.waits_of(lambda: x.sum(), "cpu", 2)["asks"] == 0


def test_a_part_that_fails_says_why_and_one_that_runs_out_of_time_is_stopped():
    printed, why = gpu.run(100.0, "benchmarks.gpu", "--part", "nonsense")
    assert not printed
    assert "invalid choice: 'nonsense'" in why
    printed, why = gpu.run(1.0, "timeit", "-n", "1", "import time; print(1); time.sleep(60)")
    assert why == "stopped after 1 s"
