"""A Balancer and FFCV, stopped in mid-epoch and made anew: the batches that would have come."""

from __future__ import annotations

import pytest
import torch

from equipoise import Balancer, checkpoint
from tests.ffcv.conftest import LABELS

pytestmark = pytest.mark.ffcv

BATCH, EPOCHS = 8, 3


def made(beton):
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader

    balancer = Balancer(LABELS)
    return balancer, BalancedLoader(
        Loader(str(beton), BATCH, num_workers=1, os_cache=True, order=balancer.order),
        with_indices=True,
    )


def rest(balancer, loader):
    """What is trained on until the end."""
    seen = []
    while balancer.epoch < EPOCHS:
        for *_, ids in loader:
            seen.append((balancer.epoch, ids.tolist()))
            balancer.loss(torch.zeros(len(ids), 4, requires_grad=True), LABELS[ids]).backward()
        hold_out = torch.eye(4)[[0, 1, 1, 3]]
        balancer.observe(hold_out, torch.arange(4))
        balancer.step()
    return seen


@pytest.mark.parametrize("steps", [1, 8, 13])
def test_the_rest_is_what_would_have_come(beton, steps, tmp_path):
    balancer, loader = made(beton)
    whole = rest(balancer, loader)
    assert len(whole) == EPOCHS * len(LABELS) // BATCH
    assert balancer.history[0]["log_weight"] != balancer.history[1]["log_weight"]

    class Killed(Exception):
        pass

    balancer, loader = made(beton)
    loss, done = balancer.loss, []

    def stop_after(*args):
        value = loss(*args)
        done.append(1)
        if len(done) == steps:
            checkpoint.save(tmp_path / "last.pt", balancer=balancer, loader=loader)
            raise Killed
        return value

    balancer.loss = stop_after
    with pytest.raises(Killed):
        rest(balancer, loader)

    again, other = made(beton)
    states = checkpoint.load(tmp_path / "last.pt")
    again.load_state_dict(states["balancer"])
    other.load_state_dict(states["loader"])
    assert rest(again, other) == whole[steps:]
