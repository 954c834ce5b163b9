"""Batches drawn just in time: right images, changes act exactly when they should, no hang."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch

from equipoise.samplers import ClassBalancedSampler, OrderSampler
from tests.ffcv.conftest import LABELS, SIZE, ids_seen

pytestmark = [pytest.mark.ffcv, pytest.mark.usefixtures("no_thread_left")]

EPOCH, BATCH = 103, 4
BATCHES = -(-EPOCH // BATCH)
LATER = [0, 0, 0, 30.0]  # log-weights with which nothing but class 3 is drawn


@pytest.fixture(scope="module", params=[1, 3], ids="batches_ahead={}".format)
def inner(request, beton):
    from ffcv.loader import Loader

    return Loader(beton, BATCH, num_workers=1, drop_last=False, batches_ahead=request.param)


@pytest.fixture
def make(inner):
    from equipoise.ffcv import BalancedLoader, attach

    def make(sampler, **settings):
        inner.next_epoch = 0
        attach(inner, sampler, **settings)
        return BalancedLoader(inner, with_indices=True, just_in_time=True)

    return make


class Numbers(OrderSampler):
    """Draws (5 t + epoch) mod 64 plus what `shift` is at the time."""

    def __init__(self, **settings) -> None:
        super().__init__(EPOCH, **settings)
        self.shift, self.fail = 0, None

    def draw(self, positions):
        drawn = (positions * 5 + self.epoch + self.shift) % SIZE
        return drawn if self.fail is None else self.fail(drawn)


def test_every_image_has_its_label_and_its_id(make):
    """240 of 240 and more, while weights change at every batch."""
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    loader = make(sampler)
    count = 0
    for _ in range(4):
        for images, labels, ids, numbers in loader:
            at = images[:, 0, 0, 0].long()
            assert (images == at[:, None, None, None]).all()
            assert at.tolist() == ids.flatten().tolist() == numbers.tolist()
            assert labels.flatten().tolist() == LABELS[at].tolist()
            count += len(at)
            time.sleep(0.001 * (count % 3))
            sampler.set_log_weight(np.sin(np.arange(4) + count))
    assert count == 4 * EPOCH


def test_without_a_change_it_is_the_samplers_order(make):
    sampler = Numbers()
    loader = make(sampler)
    for epoch in range(2):
        assert ids_seen(loader).tolist() == ((np.arange(EPOCH) * 5 + epoch) % SIZE).tolist()
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    loader = make(sampler)
    for epoch in range(3):
        seen = ids_seen(loader)
        sampler.set_epoch(epoch)
        assert LABELS[seen].tolist() == LABELS[sampler.indices()].tolist()
        assert sorted(seen) == sorted(sampler.indices())


@pytest.mark.parametrize("pause", [0, 0.02], ids=["loading waits", "training waits"])
@pytest.mark.parametrize("at", [0, 5, BATCHES - 1])
def test_a_change_acts_exactly_batches_ahead_and_two_later(make, inner, at, pause):
    sampler = Numbers()
    seen = []
    for k, batch in enumerate(make(sampler)):
        if k == at:
            sampler.shift = 32
        seen += batch[3].tolist()
        time.sleep(pause if k < 8 else 0)
    expected = np.arange(EPOCH) * 5
    expected[BATCH * (at + inner.batches_ahead + 2) :] += 32
    assert seen == (expected % SIZE).tolist()


def test_class_weights_act_in_the_running_epoch(make, inner):
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    loader, seen = make(sampler), []
    for k, batch in enumerate(loader):
        if k == 4:
            sampler.set_log_weight(LATER)
        seen += batch[3].tolist()
    acts = BATCH * (4 + inner.batches_ahead + 2)
    assert (LABELS[seen[acts:]] == 3).all()
    assert set(LABELS[seen[acts - BATCH : acts]]) != {3}
    seen += ids_seen(loader).tolist()
    mine = [i for i in seen if LABELS[i] == 3]
    members = np.flatnonzero(LABELS == 3).tolist()
    for first in range(0, len(mine) // 28 * 28, 28):
        assert sorted(mine[first : first + 28]) == members, "pass after pass, over the change"


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_share_the_global_order_over_a_change(beton, rank):
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader, order

    part = np.arange(SIZE)[::-2]

    def sampler(**settings):
        return ClassBalancedSampler(LABELS[part], num_samples=EPOCH, **settings)

    mine, whole = sampler(rank=rank, num_replicas=3), sampler()
    inner = Loader(beton, BATCH, num_workers=1, indices=part, order=order(mine), drop_last=False)
    seen, expected = [], []
    for k, batch in enumerate(BalancedLoader(inner, with_indices=True, just_in_time=True)):
        assert part[batch[3]].tolist() == batch[2].flatten().tolist()
        if k == 1:
            mine.set_log_weight([1, 0, 0, 0])
        seen += batch[3].tolist()
    change = 3 * BATCH * (1 + inner.batches_ahead + 2)
    expected += whole.take(0, change).tolist()
    whole.set_log_weight([1, 0, 0, 0])
    expected += whole.take(change, EPOCH // 3 * 3).tolist()
    assert seen == expected[rank::3]


def test_dropped_last_batch(beton):
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader, order

    loader = Loader(beton, BATCH, num_workers=1, order=order(Numbers()))
    for epoch in range(2):
        seen = ids_seen(BalancedLoader(loader, with_indices=True, just_in_time=True))
        assert seen.tolist() == ((np.arange(EPOCH // BATCH * BATCH) * 5 + epoch) % SIZE).tolist()


@pytest.mark.parametrize("at", [0, 1, 6, BATCHES - 3, BATCHES - 1])
def test_state_goes_on_in_mid_epoch(make, at):
    def run(sampler, loader, start, left=False):
        seen = []
        for k, batch in enumerate(loader, start):
            seen += batch[3].tolist()
            if k % 4 == 0:
                sampler.set_log_weight(np.sin(np.arange(4) + k))
            if left and k == at:
                return seen
        return seen

    def begun():
        sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
        loader = make(sampler)
        ids_seen(loader)
        return sampler, loader

    sampler, loader = begun()
    whole = run(sampler, loader, 0) + run(sampler, loader, 0)
    sampler, loader = begun()
    seen = run(sampler, loader, 0, left=True)
    file = io.BytesIO()
    torch.save({"sampler": sampler.state_dict(), "loader": loader.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    loader = make(sampler)
    sampler.load_state_dict(state["sampler"])
    loader.load_state_dict(state["loader"])
    seen += run(sampler, loader, at + 1)
    assert loader.state_dict()["epoch"] == 2
    assert loader.state_dict()["batch"] == 0
    seen += run(sampler, loader, 0)
    assert seen == whole


@pytest.mark.parametrize("after", [0, 9])
@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (lambda drawn: 1 / 0, ZeroDivisionError),
        (lambda drawn: drawn + SIZE, ValueError),
        (lambda drawn: drawn.astype(float), ValueError),
        (lambda drawn: drawn[:-1], ValueError),
    ],
    ids=["raises", "out of range", "floats", "too few"],
)
def test_an_error_while_drawing_is_raised_in_the_loop(make, in_time, fail, error, after):
    sampler = Numbers()
    loader = make(sampler)

    def loop():
        for k, _ in enumerate(loader):
            sampler.fail = fail if k >= after else None

    if not after:
        sampler.fail = fail
    with pytest.raises(error):
        in_time(loop)
    sampler.fail = None
    assert len(in_time(ids_seen, loader)) == EPOCH, "the loader is still good"


@pytest.mark.parametrize("after", [1, 2, 5, BATCHES - 2, BATCHES])
@pytest.mark.parametrize("wait", [0, 0.05])
def test_leaving_early(make, in_time, after, wait):
    sampler = Numbers()
    loader = make(sampler)

    def leave():
        for k, _ in enumerate(loader, 1):
            if k == after:
                time.sleep(wait)
                break

    in_time(leave)
    assert in_time(ids_seen, loader).tolist() == ((np.arange(EPOCH) * 5 + 1) % SIZE).tolist()


def test_ffcvs_own_close_is_safe_where_no_batch_is_drawn_yet(make, inner, in_time):
    from equipoise.ffcv.just_in_time import JustInTime

    make(Numbers())
    order = inner.traversal_order
    order.prepare(JustInTime(order, 0, 0, np.empty(0, np.int64)).ids)
    batches = iter(inner)
    next(batches)
    batches.close()
    in_time(batches.join)


def test_another_epoch_while_one_is_drawn_is_an_error(make):
    for sampler in (Numbers(), ClassBalancedSampler(LABELS, num_samples=EPOCH)):
        loader = make(sampler, follow_epoch=False)
        batches = iter(loader)
        next(batches)
        sampler.set_epoch(1)
        with pytest.raises(ValueError, match=r"stay at epoch 0 .* but got 1: .* between epochs"):
            next(batches)
        assert len(ids_seen(loader)) == EPOCH


def test_where_it_is_refused(beton, make):
    from ffcv.loader import Loader, OrderOption

    from equipoise.ffcv import BalancedLoader, order

    def refused(loader, message, error=ValueError):
        with pytest.raises(error, match=message):
            BalancedLoader(loader, just_in_time=True)

    own = Loader(beton, BATCH, num_workers=1, order=OrderOption.RANDOM)
    refused(own, "Expected a loader with an order of equipoise.ffcv .* but got Random")
    pages = Loader(beton, BATCH, num_workers=1, order=order(Numbers()), os_cache=False)
    refused(pages, "Expected os_cache=True .* ProcessCacheManager: .* wrong images")
    loader = make(Numbers())
    with pytest.raises(ValueError, match="batch to be 0 with just_in_time=True, but got 2"):
        loader.resume(0, 2)
    with pytest.raises(ValueError, match="at least 999 batches an epoch"):
        loader.load_state_dict({"epoch": 0, "batch": 999, "drawn": torch.empty(0)})


def pruned(**settings):
    """A miner and its sampler."""
    from equipoise.mining import LossPruning

    miner = LossPruning(0.5, least=0.05)
    inner = ClassBalancedSampler(LABELS, num_samples=2 * EPOCH, **settings)
    return miner, miner.over(inner)


def odd_are_hard(ids, k):
    return 1.0 + ids % 2 + 0.01 * k


def train(miner, loader, start=0, until=None, loss=odd_are_hard):
    """Ids and weights of what is left of the epoch."""
    ids, weights = [], []
    for k, batch in enumerate(loader, start):
        assert LABELS[batch[3]].tolist() == batch[1].flatten().tolist()
        weights += miner.weight(batch[3]).tolist()
        ids += batch[3].tolist()
        miner(loss(batch[3], k), None, batch[3])
        if k == until:
            break
    return ids, weights


def test_remembered_losses_act_in_the_running_epoch(make, inner):
    miner, sampler = pruned()
    loader, at = make(sampler), 6

    def turned(ids, k):
        if k == at:
            every = torch.arange(SIZE)
            miner.memory.update(every, 9.0 - 8.0 * (every % 2))
        return odd_are_hard(ids, k) if k < at else 9.0 - 8.0 * (ids % 2)

    train(miner, loader)
    train(miner, loader)
    ids, weights = train(miner, loader, loss=turned)
    assert len(ids) == EPOCH
    acts = BATCH * (at + inner.batches_ahead + 2)
    odd = np.array(ids) % 2
    assert odd[:acts].mean() > 0.6 > 0.4 > odd[acts:].mean()
    easy, hard = (
        np.array(weights)[:acts][odd[:acts] == 0],
        np.array(weights)[:acts][odd[:acts] == 1],
    )
    assert np.mean(easy) > 1 > np.mean(hard)


@pytest.mark.parametrize("at", [0, 7, BATCHES - 1])
def test_state_of_remembered_losses_in_mid_epoch(make, at):
    def begun():
        miner, sampler = pruned()
        return miner, sampler, make(sampler)

    miner, sampler, loader = begun()
    expected = [train(miner, loader) for _ in range(3)]
    miner, sampler, loader = begun()
    assert train(miner, loader) == expected[0]
    first = train(miner, loader, until=at)
    state = (miner.state_dict(), sampler.state_dict(), loader.state_dict())
    miner, sampler, loader = begun()
    for part, saved in zip((miner, sampler, loader), state, strict=True):
        part.load_state_dict(saved)
    rest = train(miner, loader, start=at + 1)
    assert (first[0] + rest[0], first[1] + rest[1]) == expected[1]
    assert train(miner, loader) == expected[2]


def test_several_ranks_with_losses_of_their_own_are_refused(inner):
    from equipoise.ffcv import BalancedLoader, attach

    _, sampler = pruned(num_replicas=2)
    with pytest.raises(ValueError, match=r"num_replicas=1 .* LossPruning, but got 2: each rank"):
        BalancedLoader(attach(inner, sampler), just_in_time=True)


def test_with_a_balancer(make):
    from equipoise import Balancer

    balancer = Balancer(LABELS, mining="loss-pruning", num_samples=2 * EPOCH)
    loader = make(balancer)
    for epoch in range(3):
        assert balancer.sampler.epoch == epoch
        count = 0
        for _, labels, _, ids in loader:
            logits = torch.zeros(len(ids), 4, requires_grad=True)
            balancer.loss(logits, labels.flatten(), ids).backward()
            count += len(ids)
        assert count == EPOCH
        balancer.observe(torch.eye(4).repeat(8, 1), torch.arange(32) // 2 % 4)
        balancer.step()
