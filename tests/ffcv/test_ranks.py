"""FFCV in two real processes: the ranks' batches make up the global batches of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equipoise import Balancer
from tests.ffcv.conftest import LABELS
from tests.ranks.worlds import run_world

pytestmark = pytest.mark.ffcv

GLOBAL_BATCH, EPOCHS = 16, 3


def train(rank: int, size: int, path: str) -> dict[str, Any]:
    """Ids that the images of each step say, and λ of each epoch."""
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader

    balancer = Balancer(LABELS)
    loader = BalancedLoader(
        Loader(
            path,
            GLOBAL_BATCH // size,
            num_workers=1,
            os_cache=True,
            order=balancer.order,
            distributed=size > 1,
        )
    )
    steps = []
    for _ in range(EPOCHS):
        for images, labels, _ in loader:
            steps.append(images[:, 0, 0, 0].tolist())
            logits = torch.zeros(len(labels), 4, requires_grad=True)
            balancer.loss(logits, labels.ravel()).backward()
        mine = torch.arange(40)[rank::size]
        balancer.observe(torch.eye(4)[(mine * mine) % 4], mine % 4)
        balancer.step()
    return {"steps": steps, "log_weight": [row["log_weight"] for row in balancer.history]}


def test_two_processes_read_the_batches_of_one(beton, tmp_path):
    alone = train(0, 1, str(beton))
    ranks = run_world(2, train, str(beton), folder=tmp_path)
    for result in ranks:
        if isinstance(result, BaseException):
            raise result
        assert result["log_weight"] == alone["log_weight"]
    together = [
        [i for pair in zip(*step, strict=True) for i in pair]
        for step in zip(*(result["steps"] for result in ranks), strict=True)
    ]
    assert together == alone["steps"]
    assert alone["log_weight"][0] != alone["log_weight"][2]
