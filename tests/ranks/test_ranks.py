"""One, two, three and four processes train on the same global batches, with the same λ."""

from __future__ import annotations

import pytest
import torch

from equipoise import Balancer
from equipoise._ranks import rank_and_replicas, require_same, sum_over_ranks
from tests.ranks import programs
from tests.ranks.worlds import run_world

EPOCHS = 3


def global_batches(ranks: list) -> list[list[int]]:
    """The ids of each step, in the order of the global positions."""
    for result in ranks:
        if isinstance(result, BaseException):
            raise result
    steps = zip(*(result["steps"] for result in ranks), strict=True)
    return [[i for together in zip(*step, strict=True) for i in together] for step in steps]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    kinds = ["closed loop", "plain shuffling", "pruning", "multilabel"]
    return {kind: programs.train(0, 1, kind, EPOCHS) for kind in kinds}


@pytest.mark.parametrize("kind", ["closed loop", "plain shuffling", "pruning", "multilabel"])
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
    ("what", "message"), [("seed", "seed"), ("targets", "checksum of targets")]
)
def test_ranks_that_differ_are_told_so_at_the_start(what, message, tmp_path):
    results = run_world(2, programs.differ, what, folder=tmp_path)
    for error in results:
        assert isinstance(error, ValueError)
        assert f"Expected {message} to be the same on all ranks" in str(error)
        assert "rank 0: " in str(error)


def test_a_balancer_made_before_the_process_group_is_told_its_rank(tmp_path):
    streams = run_world(2, programs.made_before_the_group, folder=tmp_path)
    whole = list(Balancer(programs.LABELS).sampler)
    assert streams == [whole[0::2], whole[1::2]]


def test_without_a_process_group_nothing_is_exchanged():
    assert rank_and_replicas(None, None) == (0, 1)
    counts = torch.tensor([1, 2])
    assert sum_over_ranks(counts) is counts
    require_same({"seed": 1})


@pytest.mark.parametrize("given", [{"rank": 1}, {"num_replicas": 2}])
def test_rank_and_number_of_ranks_come_together(given):
    with pytest.raises(ValueError, match="rank and num_replicas to be given together"):
        Balancer([0, 1], **given)


def test_set_ranks_is_checked():
    with pytest.raises(ValueError, match="rank to be below num_replicas=2, but got 2"):
        Balancer([0, 1]).set_ranks(2, 2)


def test_ranks_are_equally_long():
    labels = [0, 1] * 5
    for size in (1, 3, 4, 5):
        lengths = {len(Balancer(labels, rank=r, num_replicas=size).sampler) for r in range(size)}
        assert lengths == {10 // size}


def test_a_balancer_made_before_the_process_group_is_warned_of(tmp_path):
    for said in run_world(2, programs.never_told_its_rank, folder=tmp_path):
        assert len(said) == 1, said
        assert "Call balancer.set_ranks()" in said[0]


def test_a_state_loaded_on_one_rank_only_is_refused(tmp_path):
    for error in run_world(2, programs.loaded_on_one_rank, folder=tmp_path):
        assert isinstance(error, ValueError)
        assert "Expected number of loaded states to be the same on all ranks" in str(error)
