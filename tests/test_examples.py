"""The examples run from the command line and leave what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("loader", ["torch", pytest.param("ffcv", marks=pytest.mark.ffcv)])
def test_cifar_on_an_npz(loader, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    images = (
        rng.integers(0, 120, (150, 16, 16, 3), np.uint8)
        + (40 * labels).astype(np.uint8)[:, None, None, None]
    )
    data = tmp_path / "blocks.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images[:60], y_test=labels[:60])
    out = tmp_path / "run"
    printed = run(
        *("examples/cifar.py", "--data", str(data), "--loader", loader, "--epochs", "2"),
        *("--method", "equal-recall", "recall-power-sampling", "--jobs", "1", "--out", str(out)),
    )
    record = json.loads((out / "results.json").read_text())
    assert [r["method"] for r in record["results"]] == [
        "plain",
        "equal-recall",
        "recall-power-sampling",
    ]
    for result in record["results"]:
        assert len(result["recalls"]) == len(result["recalls_decided"]) == 3
        assert len(result["history"]) == 2
        assert result["method"] in printed
    assert (out / "recalls.png").read_bytes().startswith(b"\x89PNG")
    assert "Sampling noise alone leaves" in printed
