"""The examples train, save and go on."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.trainers import loops

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [  # see test_lightning and test_transformers
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings(
        "ignore:You're resuming from a checkpoint that ended before the epoch"
    ),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator"),
]


@pytest.mark.parametrize("trainer", ["lightning", "transformers"])
def test_an_example_trains_and_goes_on(trainer, tmp_path, monkeypatch, capsys):
    loops.needed(trainer)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # which Lightning sets, restored afterwards
    for options in (["--epochs", "6"], ["--epochs", "8", "--resume"]):
        program = str(EXAMPLES / f"{trainer}_cifar.py")
        monkeypatch.setattr("sys.argv", [program, "--out", str(tmp_path), *options])
        runpy.run_path(program, run_name="__main__")
    means = re.findall(r"test recalls: mean (\d*\.\d+)", capsys.readouterr().out)
    assert len(means) == 2
    assert float(means[1]) > 0.6
