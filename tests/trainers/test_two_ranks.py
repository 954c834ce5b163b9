"""Two processes over gloo in each trainer: every example comes once, and λ is the plain loop's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainers import loops
from tests.trainers.loops import BATCH, plain, start
from tests.trainers.two_ranks import EPOCHS, GLOBAL_BATCH, MODES, NUM_SAMPLES

ROOT = Path(__file__).resolve().parents[2]
CASES = [(trainer, mode) for trainer in MODES for mode in MODES[trainer]]


def package(trainer: str) -> str:
    return "lightning" if trainer == "fabric" else trainer


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two ranks wrote down of every case, of the trainers that are installed."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    installed = [trainer for trainer in MODES if importlib.util.find_spec(package(trainer))]
    done = subprocess.run(
        [*command, "-m", "tests.trainers.two_ranks", str(folder), *installed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(("trainer", "mode"), CASES, ids=[", ".join(case) for case in CASES])
def test_global_batches_and_log_weights_are_the_plain_loops(trainer, mode, ranks):
    loops.needed(package(trainer))
    seen = [rank[f"{trainer}, {mode}"] for rank in ranks]
    if mode == "wrapped":
        for rank in seen:
            assert "got DistributedSamplerWrapper. Lightning has wrapped it" in rank["error"]
        return
    expected = plain(start(num_samples=NUM_SAMPLES), EPOCHS, batch_size=GLOBAL_BATCH)
    assert len(expected.order) == NUM_SAMPLES * EPOCHS
    for step in range(NUM_SAMPLES * EPOCHS // GLOBAL_BATCH):
        mine = slice(step * BATCH, (step + 1) * BATCH)
        wanted = expected.order[step * GLOBAL_BATCH : (step + 1) * GLOBAL_BATCH]
        assert sorted(seen[0]["order"][mine] + seen[1]["order"][mine]) == sorted(wanted), step
    for rank in seen:
        assert len(rank["order"]) * 2 == len(expected.order)
        assert rank["log_weights"] == expected.log_weights
