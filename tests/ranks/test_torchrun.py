"""Under torchrun itself: the example, and what happens when one rank fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FAILS = """
import os, torch, torch.distributed as dist
from equipoise import Balancer
dist.init_process_group("gloo")
balancer = Balancer([0, 0, 1, 1])
balancer.observe(torch.eye(2), torch.tensor([0, 1]))
if dist.get_rank() == 1:
    raise OSError("this rank's data set is gone")
balancer.step()
print("rank 0 went on", flush=True)
"""


def torchrun(size: int, *arguments: str, limit: float = 240) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, f"--nproc-per-node={size}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit,
    )


def test_the_example_trains_and_goes_on_with_another_number_of_processes(tmp_path):
    out = ["examples/distributed.py", "--out", str(tmp_path)]
    first = torchrun(2, *out, "--epochs", "2")
    assert first.returncode == 0, first.stderr
    assert "epoch 1: mean recall" in first.stdout
    second = torchrun(1, *out, "--epochs", "3")
    assert second.returncode == 0, second.stderr
    assert "going on in epoch 2, after 0 examples" in second.stdout
    assert "epoch 2: mean recall" in second.stdout
    assert "epoch 1" not in second.stdout


def test_when_one_rank_fails_the_others_stop(tmp_path):
    program = tmp_path / "fails.py"
    program.write_text(FAILS)
    done = torchrun(2, str(program))
    assert done.returncode != 0
    assert "this rank's data set is gone" in done.stderr
    assert "rank 0 went on" not in done.stdout
