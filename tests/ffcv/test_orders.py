"""What a sampler draws is what FFCV reads, in order, in every epoch, or a clear error."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from equipoise.mining import LossPruning
from equipoise.samplers import ClassBalancedSampler, ExampleWeightedSampler, OrderSampler
from tests.ffcv.conftest import LABELS, SIZE, ids_seen

with suppress(Exception):  # without a sound FFCV these tests are skipped, or fail
    from ffcv.loader import Loader, OrderOption

    from equipoise.ffcv import BalancedLoader, attach, order

pytestmark = pytest.mark.ffcv


class Drawn(OrderSampler):
    """A user's own, of whatever ids it is given."""

    def __init__(self, ids) -> None:
        super().__init__(len(ids))
        self.ids = np.asarray(ids)

    def indices(self):
        return self.ids


def make(beton, order=None, batch_size=8, **settings):
    order = OrderOption.SEQUENTIAL if order is None else order
    return Loader(beton, batch_size, num_workers=1, order=order, **settings)


@pytest.fixture(scope="module", params=[True, False], ids=["os_cache", "process_cache"])
def loader(request, beton):
    """A loader that tests attach samplers to: compiling one takes seconds."""
    return make(beton, os_cache=request.param, drop_last=False)


@pytest.fixture
def attached(loader):
    def attached(sampler):
        loader.next_epoch = 0
        return attach(loader, sampler)

    return attached


def test_attached_order_and_oversampling(attached, no_thread_left):
    for num_samples in (3 * SIZE + 5, 20, 1):
        sampler = ClassBalancedSampler(LABELS, [9, 1, 1, 0.1], num_samples=num_samples)
        loader = attached(sampler)
        assert len(loader) == -(-num_samples // 8)
        for epoch in range(2):
            seen = ids_seen(loader)
            assert sampler.epoch == epoch
            assert seen.tolist() == sampler.indices().tolist()


def test_own_epoch_rules_and_weights_reach_the_next_epoch(attached, no_thread_left):
    sampler = ClassBalancedSampler(LABELS, num_samples=48, seed=1)
    sampler.auto_advance = False
    loader = attached(sampler)
    first = ids_seen(loader)
    assert first.tolist() == ids_seen(loader).tolist(), "asking twice gives the same"
    assert np.bincount(LABELS[first]).tolist() == [12] * 4
    sampler.set_epoch(1)
    sampler.set_log_weight(np.log([3.0, 1.0, 1.0, 3.0 / 7.0]))
    second = ids_seen(loader)
    assert second.tolist() == sampler.indices().tolist()
    assert np.bincount(LABELS[second]).tolist() == sampler.quotas.tolist()
    assert sampler.quotas[0] > sampler.quotas[1]


def test_indices_are_what_the_sampler_numbers(beton, no_thread_left):
    part = np.arange(SIZE)[::-3]
    sampler = ClassBalancedSampler(LABELS[part], num_samples=40)
    loader = make(beton, order(sampler), indices=part)
    batches = BalancedLoader(loader, with_indices=True)
    for images, _, _, numbers in batches:
        assert part[numbers].tolist() == images[:, 0, 0, 0].tolist()
    sampler.set_epoch(0)
    loader.next_epoch = 0
    assert ids_seen(batches).tolist() == part[sampler.indices()].tolist()


def test_filter(beton, no_thread_left):
    everything = ClassBalancedSampler(LABELS)
    whole = make(beton, order(everything), pipelines={"image": None, "id": None})
    # The order is handed on to the new loader, and checked against what is left
    with pytest.raises(ValueError, match=r"52 examples .* of the file's 64.* but got one for 64"):
        whole.filter("label", lambda label: label != 0)
    kept = whole.filter("label", lambda label: True)
    everything.set_epoch(0)
    labels = np.concatenate([batch[0].flatten().clone() for batch in kept])
    assert labels.tolist() == LABELS[everything.indices()].tolist()
    rest = make(beton).filter("label", lambda label: label != 0)
    left = np.flatnonzero(LABELS != 0)
    sampler = ClassBalancedSampler(LABELS[left] - 1, num_samples=24)
    assert ids_seen(attach(rest, sampler)).tolist() == left[sampler.indices()].tolist()


def test_no_limit_on_the_batches_ahead_is_refused(beton):
    """FFCV would make batches without end, and overwrite those not yet read."""
    sampler, plain = ClassBalancedSampler(LABELS), make(beton, batches_ahead=0)
    for refused in (
        lambda: make(beton, order(sampler), batches_ahead=0),
        lambda: attach(plain, sampler),
        lambda: BalancedLoader(plain),
    ):
        with pytest.raises(ValueError, match="batches_ahead of the loader to be at least 1"):
            refused()


@pytest.mark.parametrize("size", [SIZE // 2, SIZE + 1])
def test_a_sampler_of_other_examples_is_refused(beton, attached, size):
    """Also weights of half the file, which draw valid ids only: nothing else would notice."""
    weighted = ExampleWeightedSampler(np.ones(size), num_samples=SIZE)
    pruned = LossPruning().over(weighted, np.zeros(size, int))
    for sampler in (ClassBalancedSampler(np.zeros(size, int)), weighted, pruned):
        for refused in (lambda x: make(beton, order(x)), attached):
            with pytest.raises(ValueError, match=f"for the 64 examples .*, but got one for {size}"):
                refused(sampler)


def test_an_epoch_of_no_batch_is_refused(beton, loader, attached, monkeypatch):
    message = "at least 8 examples per epoch and rank, .* but got 7. Pass drop_last=False"
    few = ClassBalancedSampler(LABELS, num_samples=7)
    with pytest.raises(ValueError, match=message):
        make(beton, order(few))
    assert len(attached(few)) == 1
    monkeypatch.setattr(loader, "drop_last", True)
    with pytest.raises(ValueError, match=message):
        attached(ClassBalancedSampler(LABELS, num_samples=15, num_replicas=2))
    assert len(attached(ClassBalancedSampler(LABELS, num_samples=16, num_replicas=2))) == 1


@pytest.mark.parametrize("ids", [[0, 64], [-1, 0], [2**40]])
def test_wrong_ids_are_raised_on_the_callers_thread(attached, in_time, ids):
    with pytest.raises(ValueError, match=r"Expected Drawn to draw examples in \[0, 64\)"):
        in_time(attached, Drawn(ids))


def test_an_error_after_the_first_epoch_does_not_hang(attached, in_time, no_thread_left):
    sampler = Drawn(np.arange(16))
    loader = attached(sampler)
    assert len(in_time(ids_seen, loader)) == 16
    for wrong, message in [
        (np.arange(17), "draw 16 examples, but got 1[57]"),
        (np.arange(15), "draw 16 examples, but got 1[57]"),
        (np.arange(16) + 60, r"to draw examples in \[0, 64\)"),
    ]:
        sampler.ids = wrong
        with pytest.raises(ValueError, match=message):
            in_time(ids_seen, loader)
    sampler.ids = np.arange(16)
    sampler.indices = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        in_time(ids_seen, loader)
    del sampler.indices
    assert in_time(ids_seen, loader).tolist() == list(range(16)), "the loader is still good"


def test_other_errors(beton):
    with pytest.raises(TypeError, match="Expected sampler to be an OrderSampler"):
        order(range(10))
    with pytest.raises(TypeError, match=r"Expected loader to be an ffcv\.loader\.Loader"):
        attach([1], Drawn([1]))
    for indices in (np.ones(SIZE, bool), [0, SIZE]):
        with pytest.raises(ValueError, match="Expected indices of the loader"):
            make(beton, order(Drawn([0])), indices=indices)
