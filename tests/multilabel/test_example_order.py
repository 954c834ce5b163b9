"""Systematic sampling with random access: counts, long-run means, spread, bad weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.samplers import ExampleWeightedSampler

weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=60).filter(
    any
)


def counts_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return np.bincount(sampler.indices(), minlength=len(sampler.repeats))


@settings(max_examples=150, deadline=None)
@given(weights, st.integers(1, 500), st.integers(0, 2**63), st.integers(0, 10**6))
def test_counts_are_the_expected_ones_rounded(weight, num_samples, seed, epoch):
    sampler = ExampleWeightedSampler(weight, num_samples=num_samples, seed=seed)
    counts = counts_of(sampler, epoch)
    assert counts.sum() == num_samples
    assert (counts > sampler.repeats - 1 - 1e-6).all()
    assert (counts < sampler.repeats + 1 + 1e-6).all()
    assert not counts[np.array(weight) == 0].any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=50).filter(any), st.integers(0, 99))
def test_whole_repeats_are_met_in_every_epoch(repeats, epoch):
    sampler = ExampleWeightedSampler(repeats, num_samples=sum(repeats))
    assert counts_of(sampler, epoch).tolist() == repeats


def test_draws_over_epochs_are_the_expected_ones_and_evenly_spread():
    """The golden-ratio offsets: after E epochs no example is off by more than a few draws."""
    weight = np.random.default_rng(0).gamma(0.5, size=200)
    sampler = ExampleWeightedSampler(weight, num_samples=97)
    drawn = np.zeros(200)
    for epoch in range(300):
        drawn += counts_of(sampler, epoch)
        assert np.abs(drawn - (epoch + 1) * sampler.repeats).max() < 6
    # independent draws would be off by about √(300 · r)
    assert np.abs(drawn / 300 - sampler.repeats).max() < 0.02


def test_positions_are_shuffled():
    """Weight and place in the epoch are uncorrelated: |r| < 5 / √M fails once in 10^6 seeds."""
    weight = np.repeat([1.0, 3.0], 2000)
    sampler = ExampleWeightedSampler(weight, num_samples=8000, seed=11)
    drawn = sampler.indices()
    assert abs(np.corrcoef(np.arange(8000), weight[drawn])[0, 1]) < 5 / np.sqrt(8000)


def test_same_repeats_for_equal_weights():
    assert sorted(ExampleWeightedSampler(np.full(77, 0.1))) == list(range(77))


def test_effective_size():
    assert ExampleWeightedSampler([1, 1, 1, 1]).effective_size == pytest.approx(1)
    assert ExampleWeightedSampler([1, 0, 0, 0]).effective_size == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ([], r"\(N,\)"),
        ([[1.0]], r"\(N,\)"),
        ([1.0, -1.0], "not negative, but got -1.0 at position 1"),
        ([np.nan, 1.0], "finite"),
        ([np.inf, 1.0], "finite"),
        ([0.0, 0.0], "all are 0"),
    ],
)
def test_bad_weights_are_named(weight, words):
    with pytest.raises(ValueError, match=words):
        ExampleWeightedSampler(weight)
