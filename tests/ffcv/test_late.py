"""Orders drawn beside the reading: the same batches, and whatever goes wrong, no hang, no crash."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from equipoise._order_sampler import OrderSampler
from equipoise.samplers.class_balanced import ClassBalancedSampler
from tests.ffcv.conftest import LABELS, SIZE, ids_seen

pytestmark = [pytest.mark.ffcv, pytest.mark.usefixtures("no_thread_left", "late")]

EPOCH = 103


@pytest.fixture
def late(monkeypatch):
    from equipoise.ffcv import late

    monkeypatch.setattr(late, "LATE_FROM", 0)
    monkeypatch.setattr(late, "STEP", 7)  # no multiple of the batch size
    return late


@pytest.fixture(scope="module")
def loader(beton):
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader

    return BalancedLoader(Loader(beton, 4, num_workers=1, drop_last=False), with_indices=True)


class Slow(OrderSampler):
    """Draws slowly, and differently after `fail_at` draws."""

    def __init__(self, fail=None, pause=0.002) -> None:
        super().__init__(EPOCH)
        self.fail, self.pause, self.threads = fail, pause, set()

    def __deepcopy__(self, memo):
        return self

    def draw(self, positions):
        self.threads.add(threading.current_thread().name)
        time.sleep(self.pause)
        drawn = (positions * 5 + self.epoch) % SIZE
        if self.fail is not None and len(positions) <= 7 and positions[0] >= 50:
            return self.fail(drawn)
        return drawn


def attach(loader, sampler, **settings):
    from equipoise.ffcv import attach

    loader.loader.next_epoch = 0
    return attach(loader, sampler, **settings)


def test_the_same_batches_as_drawn_at_once(loader):
    sampler = Slow()
    attach(loader, sampler)
    for epoch in range(3):
        assert ids_seen(loader).tolist() == ((np.arange(EPOCH) * 5 + epoch) % SIZE).tolist()
    assert "equipoise order" in sampler.threads, "it was drawn by the other thread"


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_and_indices(beton, rank):
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader, order

    part = np.arange(SIZE)[::-2]
    settings = {"num_samples": EPOCH, "rank": rank, "num_replicas": 3}
    sampler = ClassBalancedSampler(LABELS[part], **settings)
    inner = Loader(beton, 4, num_workers=1, drop_last=False, indices=part, order=order(sampler))
    expected = part[ClassBalancedSampler(LABELS[part], **settings).indices()[: EPOCH // 3]]
    assert ids_seen(BalancedLoader(inner, with_indices=True)).tolist() == expected.tolist()


def test_weights_changed_during_an_epoch_are_for_the_next(loader):
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    attach(loader, sampler, follow_epoch=False)
    expected, seen = sampler.indices(), []
    for batch in loader:
        if not seen:
            sampler.set_epoch(1)
            sampler.set_log_weight([3, 0, 0, 0])
        seen.append(batch[3])
    assert np.concatenate(seen).tolist() == expected.tolist()
    assert ids_seen(loader).tolist() == sampler.indices().tolist() != expected.tolist()


def test_resume(loader):
    attach(loader, Slow())
    loader.resume(2, 3)
    assert ids_seen(loader).tolist() == ((np.arange(EPOCH) * 5 + 2) % SIZE)[12:].tolist()
    assert ids_seen(loader).tolist() == ((np.arange(EPOCH) * 5 + 3) % SIZE).tolist()


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
def test_an_error_while_drawing_is_raised_in_the_loop(loader, in_time, fail, error):
    sampler = Slow()
    attach(loader, sampler)
    sampler.fail = fail
    with pytest.raises(error):
        in_time(ids_seen, loader)
    sampler.fail = None
    assert len(in_time(ids_seen, loader)) == EPOCH, "the loader is still good"


@pytest.mark.parametrize("after", [1, 5])
def test_leaving_early(loader, in_time, after):
    def leave():
        for k, _ in enumerate(loader, 1):
            if k == after:
                break

    attach(loader, Slow(pause=0.02))
    in_time(leave)


def test_ffcvs_own_close_during_drawing_is_safe(loader, in_time):
    """FFCV's thread reads on a little after `close`: valid examples, and it ends."""
    from equipoise.ffcv.late import paced

    attach(loader, Slow(pause=0.05))
    inner = loader.loader
    order = inner.traversal_order.begin(0)
    batches = paced(inner, order)
    next(batches)
    batches.close()
    in_time(batches.join)


def test_what_is_drawn_at_once(loader, late, monkeypatch):
    sampler = Slow()
    attach(loader, sampler)
    monkeypatch.setattr(late, "LATE_FROM", EPOCH + 1)
    sampler.threads.clear()
    assert len(ids_seen(loader)) == EPOCH
    assert "equipoise order" not in sampler.threads
