"""A Balancer and FFCV: stopped in mid-epoch, or in two processes, the batches are the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from equipoise import Balancer, checkpoint
from tests.ffcv.conftest import LABELS
from tests.ranks.worlds import run_world

with suppress(Exception):  # without a sound FFCV these tests are skipped, or fail
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader

pytestmark = pytest.mark.ffcv

GLOBAL_BATCH, EPOCHS = 8, 3


def made(beton, size: int = 1) -> tuple[Balancer, Any]:
    balancer = Balancer(LABELS)
    settings = {"os_cache": True, "order": balancer.order, "distributed": size > 1}
    loader = Loader(str(beton), GLOBAL_BATCH // size, num_workers=1, **settings)
    return balancer, BalancedLoader(loader, with_indices=True)


def batches(balancer: Balancer, loader: Any, rank: int = 0, size: int = 1) -> Iterator[list[int]]:
    """Train until the end; the ids of each batch that was trained on."""
    while balancer.epoch < EPOCHS:
        for images, *_, ids in loader:
            logits = torch.zeros(len(ids), 4, requires_grad=True)
            balancer.loss(logits, LABELS[ids]).backward()
            assert images[:, 0, 0, 0].tolist() == ids.tolist()
            yield ids.tolist()
        mine = torch.arange(40)[rank::size]
        balancer.observe(torch.eye(4)[(mine * mine) % 4], mine % 4)
        balancer.step()


def train(rank: int, size: int, path: str) -> tuple[list[list[int]], list[Any]]:
    balancer, loader = made(path, size)
    steps = list(batches(balancer, loader, rank, size))
    return steps, [row["log_weight"] for row in balancer.history]


@pytest.fixture(scope="module")
def whole(beton):
    steps, log_weights = train(0, 1, beton)
    assert len(steps) == EPOCHS * len(LABELS) // GLOBAL_BATCH
    assert log_weights[0] != log_weights[1] != log_weights[2]
    return steps, log_weights


@pytest.mark.parametrize("steps", [1, 8, 13])
def test_the_rest_is_what_would_have_come(beton, whole, steps, tmp_path):
    balancer, loader = made(beton)
    stopped = batches(balancer, loader)
    begun = list(itertools.islice(stopped, steps))
    checkpoint.save(tmp_path / "last.pt", balancer=balancer, loader=loader)
    stopped.close()

    again, other = made(beton)
    states = checkpoint.load(tmp_path / "last.pt")
    again.load_state_dict(states["balancer"])
    other.load_state_dict(states["loader"])
    assert begun + list(batches(again, other)) == whole[0]


def test_two_processes_read_the_batches_of_one(beton, whole, tmp_path):
    ranks = run_world(2, train, str(beton), folder=tmp_path)
    for result in ranks:
        if isinstance(result, BaseException):
            raise result
        assert result[1] == whole[1]
    together = [
        [i for pair in zip(*step, strict=True) for i in pair]
        for step in zip(ranks[0][0], ranks[1][0], strict=True)
    ]
    assert together == whole[0]
