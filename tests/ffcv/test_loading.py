"""BalancedLoader: no thread is left, nothing hangs, the indices are right."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest

from equipoise.samplers import ClassBalancedSampler
from tests.ffcv.conftest import LABELS, ids_seen, threads_of_ffcv

with suppress(Exception):  # without a sound FFCV these tests are skipped, or fail
    from ffcv.loader import Loader
    from ffcv.loader.epoch_iterator import EpochIterator

    from equipoise.ffcv import BalancedLoader, order

pytestmark = [pytest.mark.ffcv, pytest.mark.usefixtures("no_thread_left")]

EPOCH = 53  # not a multiple of the batch size


@pytest.fixture(
    scope="module",
    params=[(cache, drop) for cache in (True, False) for drop in (True, False)],
    ids=lambda p: f"{'os' if p[0] else 'process'}_cache-{'drop' if p[1] else 'keep'}",
)
def loader(request, beton):
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    os_cache, drop_last = request.param
    inner = Loader(
        beton, 4, num_workers=1, order=order(sampler), os_cache=os_cache, drop_last=drop_last
    )
    return BalancedLoader(inner, with_indices=True)


def epoch_of(loader, epoch: int) -> np.ndarray:
    sampler = ClassBalancedSampler(LABELS, num_samples=EPOCH)
    sampler.set_epoch(epoch)
    ids = sampler.indices()
    return ids[: EPOCH // 4 * 4] if loader.loader.drop_last else ids


def test_indices_are_those_of_the_images_and_can_be_kept(loader):
    loader.loader.next_epoch = 0
    for epoch in range(2):
        kept, seen = [], []
        for images, _, _, numbers in loader:
            kept.append(numbers)
            seen.append(images[:, 0, 0, 0].clone())
            time.sleep(0.001)
        assert len(kept) == len(loader)
        expected = epoch_of(loader, epoch).tolist()
        assert np.concatenate(kept).tolist() == np.concatenate(seen).tolist() == expected
        assert kept[0].dtype.is_floating_point is False


@pytest.mark.parametrize("after", [1, 9, 13])
@pytest.mark.parametrize("wait", [0, 0.1])
def test_leaving_early_ends_the_threads_at_once(loader, after, wait, in_time):
    def leave() -> None:
        for k, _ in enumerate(loader, 1):
            if k == after:
                time.sleep(wait)  # the queue is full, or is being filled
                raise KeyError("mine")

    before = threads_of_ffcv()
    with pytest.raises(KeyError, match="mine"):
        in_time(leave)
    assert threads_of_ffcv() == before
    loader.loader.next_epoch = 4
    assert ids_seen(loader).tolist() == epoch_of(loader, 4).tolist(), "whole again"


def test_two_iterators_at_once(loader):
    loader.loader.next_epoch = 0
    first, second = [], []
    for one, two in zip(loader, loader, strict=True):
        first.append(one[3])
        second.append(two[3])
    assert np.concatenate(first).tolist() == epoch_of(loader, 0).tolist()
    assert np.concatenate(second).tolist() == epoch_of(loader, 1).tolist()


@pytest.mark.parametrize("batch", [0, 7, 12])
def test_resume_within_an_epoch(loader, batch):
    loader.resume(3, batch)
    assert ids_seen(loader).tolist() == epoch_of(loader, 3)[4 * batch :].tolist()
    assert ids_seen(loader).tolist() == epoch_of(loader, 4).tolist(), "the next one is whole"


def test_a_dead_thread_is_an_error_not_a_wait(loader, in_time, monkeypatch):
    import threading

    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    def fail(self, *args):
        raise OSError("disk gone")

    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    with pytest.raises(RuntimeError, match="FFCV's loading thread died"):
        in_time(list, loader)


def test_errors(loader, beton):
    with pytest.raises(TypeError, match=r"Expected loader to be an ffcv\.loader\.Loader"):
        BalancedLoader([1, 2])
    with pytest.raises(ValueError, match=r"batch to be in \[0, 1[34]\], but got 0 and 99"):
        loader.resume(0, 99)
