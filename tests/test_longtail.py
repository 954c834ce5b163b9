"""benchmarks.longtail: the protocol's numbers, and a run that goes on where it was stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import longtail


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
