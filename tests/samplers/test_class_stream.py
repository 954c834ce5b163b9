"""ClassStream: exact quotas and full passes, also where weights change in mid-epoch."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from equipoise.samplers import ClassBalancedSampler

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(4), [40, 25, 10, 2]))


def make(**settings) -> ClassBalancedSampler:
    return ClassBalancedSampler(LABELS, [1, 2, 3, 0.5], **settings)


def taken(sampler, stops) -> np.ndarray:
    return np.concatenate(
        [sampler.take(a, b) for a, b in zip([0, *stops[:-1]], stops, strict=True)]
    )


def assert_full_passes(draws: np.ndarray) -> None:
    """Of each class every member is drawn before any is drawn again, over and over."""
    for label in range(4):
        members = np.flatnonzero(label == LABELS)
        mine = draws[LABELS[draws] == label]
        for first in range(0, len(mine), len(members)):
            one_pass = mine[first : first + len(members)]
            assert len(set(one_pass.tolist())) == len(one_pass), (label, first)


def test_classes_and_members_of_an_epoch_are_those_of_the_order():
    sampler = make(num_samples=150, seed=3)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        whole = sampler.indices()
        drawn = taken(sampler, [1, 8, 8, 60, 150])
        assert LABELS[drawn].tolist() == LABELS[whole].tolist()
        assert sorted(drawn) == sorted(whole)
        assert drawn.tolist() == taken(sampler, [150]).tolist(), "however it is cut, and again"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(-3, 3), min_size=4, max_size=4))),
)
@example(2, [(0.0, [0.0] * 4)])  # nothing was taken yet: the change acts at once
def test_weights_changed_on_the_way(num_samples, changes):
    """Against a naive account: what is left gets its quotas, and passes are never broken."""
    sampler = make(num_samples=num_samples)
    stops = sorted(round(share * num_samples) for share, _ in changes)
    draws, expected = [], np.zeros(4)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        shares = sampler.quotas / num_samples
        counts, at = np.zeros(4), 0
        bounds = [*stops, num_samples] if epoch == 1 else [num_samples]
        for i, stop in enumerate(bounds):
            some = sampler.take(at, stop)
            draws.append(some)
            counts += np.bincount(LABELS[some], minlength=4)
            if stop < num_samples and epoch == 1:
                log_weight = np.array(changes[i][1])
                sampler.set_log_weight(log_weight)
                shares = np.bincount(LABELS) * np.exp(log_weight)
                expected = counts + (num_samples - stop) * shares / shares.sum()
            at = stop
        if epoch == 1 and changes and bounds[0] < num_samples:
            assert (np.abs(counts - expected) < 1).all(), "floor or ceiling of each quota"
        assert counts.sum() == num_samples
    assert_full_passes(np.concatenate(draws))


def test_next_epoch_goes_on_where_this_one_was_to_end_also_when_left_early():
    whole, early = make(num_samples=60), make(num_samples=60)
    for sampler, until in ((whole, 60), (early, 30)):
        sampler.take(0, 20)
        sampler.set_log_weight([0, 0, 0, 2.0])
        sampler.take(20, until)
        sampler.set_epoch(1)
    assert whole.take(0, 60).tolist() == early.take(0, 60).tolist()
    assert whole.indices().tolist() == early.indices().tolist()


def test_depends_on_the_changes_alone():
    def run(steps, *, at=40, seed=0):
        sampler = make(num_samples=100, seed=seed)
        first = taken(sampler, [s for s in steps if s < at] + [at])
        sampler.set_log_weight([1, 0, 0, 0])
        sampler.set_log_weight([0, 0, 1, 0])  # the last one counts
        return [*first, *sampler.take(at, 100)]

    assert run([10, 20]) == run([7]) == run([])
    assert run([], at=41)[41:] != run([])[41:]
    assert run([], seed=1) != run([])


@pytest.mark.parametrize("at", [0, 30, 50, 100])
def test_state_in_mid_epoch(at):
    def begun():
        sampler = make(num_samples=100)
        sampler.set_epoch(2)
        sampler.take(0, min(at, 30))
        sampler.set_log_weight([1, 0, 0, 0])
        if at > 30:
            sampler.take(30, at)
            if at == 100:
                sampler.set_log_weight([0, 1, 0, 0])
        return sampler

    sampler, other = begun(), make(num_samples=100)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    other.take(0, 9)
    other.load_state_dict(torch.load(file, weights_only=True))
    other.set_epoch(2)  # as loops do at the start of every epoch
    for each in (sampler, other):
        each.rest = each.take(at, 100).tolist()
        each.set_log_weight([0, 0, 1, 0])
        each.set_epoch(3)
        each.rest += each.take(0, 100).tolist()
    assert other.rest == sampler.rest


def test_an_epoch_set_anew_while_it_is_drawn_is_an_error():
    sampler = make()
    sampler.take(0, 10)
    sampler.set_epoch(1)
    with pytest.raises(ValueError, match="to draw from position 0 on, which comes next, but got 1"):
        sampler.take(10, 20)


def test_places_of_classes_are_evenly_spread_after_a_change():
    """A chi-square over quarters of what is left: classes are not bunched (p > 1e-6)."""
    from scipy.stats import chisquare

    counts = np.zeros((4, 4))
    for seed in range(300):
        sampler = make(num_samples=120, seed=seed)
        sampler.take(0, 40)
        sampler.set_log_weight(np.log([1, 2, 3, 4]))
        classes = LABELS[sampler.take(40, 120)].reshape(4, 20)
        counts += [np.bincount(quarter, minlength=4) for quarter in classes]
    for each in counts.T:
        assert chisquare(each).pvalue > 1e-6
