"""One, two, three and four processes train on the same global batches, with the same λ."""

from __future__ import annotations

import pytest
import torch

from equipoise import Balancer
from equipoise._ranks import rank_and_replicas, require_same, sum_over_ranks
from tests.ranks import programs
from tests.ranks.worlds import run_world

EPOCHS = 3
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
