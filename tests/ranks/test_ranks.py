"""One, two, three and four processes train on the same global batches, with the same λ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise import Balancer
from equipoise._ranks import rank_and_replicas, require_same, sum_over_ranks
from tests.ranks import programs
from tests.ranks.worlds import run_world

EPOCHS = 3
ROUNDS = 4  # between which the remembered losses are merged
KINDS = ["closed loop", "plain shuffling", "pruning", "multilabel", "groups", "groups, pruning"]


def global_batches(ranks: list) -> list[list[int]]:
    """The ids of each step, in the order of the global positions."""
    for result in ranks:
        if isinstance(result, BaseException):
            raise result
    steps = zip(*(result["steps"] for result in ranks), strict=True)
    return [[i for together in zip(*step, strict=True) for i in together] for step in steps]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return {kind: programs.train(0, 1, kind, EPOCHS) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(kind, size, alone, tmp_path):
    ranks = run_world(size, programs.train, kind, EPOCHS, folder=tmp_path)
    batches = global_batches(ranks)
    assert batches == alone[kind]["steps"]
    for result in ranks:
        assert result["history"] == alone[kind]["history"]
        assert result["log_weight"] == alone[kind]["log_weight"]
    assert any(alone[kind]["log_weight"])


@pytest.mark.parametrize(
    ("program", "what", "message"),
    [
        (programs.differ, ["seed"], "seed"),
        (programs.differ, ["targets"], "checksum of targets"),
        (programs.loaded_on_one_rank, [], "number of loaded states"),
    ],
)
def test_ranks_that_differ_are_told_so(program, what, message, tmp_path):
    for error in run_world(2, program, *what, folder=tmp_path):
        assert isinstance(error, ValueError)
        assert f"Expected {message} to be the same on all ranks" in str(error)
        assert "rank 0: " in str(error)


def test_a_balancer_made_before_the_process_group_is_warned_of_and_told_its_rank(tmp_path):
    results = run_world(2, programs.made_before_the_group, folder=tmp_path)
    whole = list(Balancer(programs.LABELS).sampler)
    assert [drawn for _, drawn in results] == [whole[0::2], whole[1::2]]
    for said, _ in results:
        assert len(said) == 1, said
        assert "Call balancer.set_ranks()" in said[0]


def test_without_a_process_group_nothing_is_exchanged():
    assert rank_and_replicas(None, None) == (0, 1)
    counts = torch.tensor([1, 2])
    assert sum_over_ranks(counts) is counts
    require_same({"seed": 1})


def test_ranks_are_checked():
    for given in ({"rank": 1}, {"num_replicas": 2}):
        with pytest.raises(ValueError, match="rank and num_replicas to be given together"):
            Balancer([0, 1], **given)
    with pytest.raises(ValueError, match="rank to be below num_replicas=2, but got 2"):
        Balancer([0, 1]).set_ranks(2, 2)


def by_hand(size: int) -> list[list[float]]:
    """After each merge, what all ranks remember: the mean over those that wrote an example."""
    agreed, after = {}, []
    for round_ in range(ROUNDS):
        found: dict[int, list[float]] = {}
        for rank in range(size):
            mine = dict(agreed)
            for ids, losses in programs.losses_of(rank, round_):
                for i, new in zip(ids.tolist(), losses, strict=True):
                    mine[i] = np.float16(new)
            for i in {i for ids, _ in programs.losses_of(rank, round_) for i in ids.tolist()}:
                found.setdefault(i, []).append(np.float32(mine[i]))
        agreed |= {i: np.float16(np.mean(values)) for i, values in found.items()}
        after.append([float(agreed.get(i, np.nan)) for i in range(programs.REMEMBERED)])
    return after


@pytest.mark.parametrize("size", [2, 3])
def test_merged_memories_are_the_mean_of_what_was_written(size, tmp_path):
    ranks = run_world(size, programs.remember, ROUNDS, folder=tmp_path)
    expected = by_hand(size)
    for found in ranks:
        np.testing.assert_array_equal(found, ranks[0])
        np.testing.assert_allclose(found, expected, rtol=1e-3)  # the mean's last digit
    # some have been seen by all, by one and by none
    assert np.isnan(expected[0]).any()
    assert np.isnan(expected[-1]).sum() < np.isnan(expected[0]).sum()


def test_the_example_goes_on_under_torchrun_with_another_number_of_processes(tmp_path):
    def torchrun(size: int, epochs: int) -> str:
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        command += ["examples/distributed.py", "--out", str(tmp_path), "--epochs", str(epochs)]
        command, root = [sys.executable, *command], Path(__file__).resolve().parents[2]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "epoch 1: mean recall" in torchrun(2, 2)
    said = torchrun(1, 3)
    assert "going on in epoch 2, after 0 examples" in said
    assert "epoch 2: mean recall" in said
    assert "epoch 1" not in said
