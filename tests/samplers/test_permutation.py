"""Keyed permutations: bijections for every size, both ways, and images that look random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from equipoise.samplers import permutation
from equipoise.samplers.permutation import key_of, keys_of, permute, permute_each

KEYS = 20_000
FALSE_ALARM = 1e-6  # of each statistical test below, were the draws ideal; the keys are fixed


def chi_square_fails(observed, expected) -> bool:
    statistic = ((observed - expected) ** 2 / expected).sum()
    return statistic > chi2.isf(FALSE_ALARM, observed.size - 1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size, key):
    sent = permute(np.arange(size), size, key)
    assert np.array_equal(np.sort(sent), np.arange(size))
    assert np.array_equal(permute(sent, size, key, inverse=True), np.arange(size))


@pytest.mark.parametrize("size", [2**24 + 1, 2**32 - 1, 2**32, 2**33 + 7, 2**52])
def test_permute_reaches_past_the_float32_and_int32_limits(size):
    positions = np.unique(np.linspace(0, size - 1, 10_001).astype(np.int64))
    sent = permute(positions, size, key_of(1))
    assert len(np.unique(sent)) == len(positions)
    assert np.array_equal(permute(sent, size, key_of(1), inverse=True), positions)
    assert sent.max() < size
    assert sent.max() > 0.99 * size


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 2**63))
def test_permute_each_is_a_bijection_in_each_group(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.concatenate([np.arange(n) for n in sizes])
    sent = permute_each(rank, np.repeat(sizes, sizes), keys_of(seed, groups))
    for group, size in enumerate(sizes):
        assert sorted(sent[groups == group].tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 5, 10, 23, 64])
def test_every_place_is_equally_likely_and_neighbours_are_independent(size):
    keys = keys_of(key_of(7), np.arange(KEYS))
    sizes = np.full(KEYS, size)
    first, second = (permute_each(np.full(KEYS, i), sizes, keys).astype(int) for i in (0, 1))
    assert not chi_square_fails(np.bincount(first, minlength=size), KEYS / size)
    pairs = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    pairs = pairs[~np.eye(size, dtype=bool)]
    if size > 2:
        assert not chi_square_fails(pairs, KEYS / len(pairs))


def test_consecutive_passes_are_independent():
    size = 10
    class_keys = keys_of(key_of(3), np.arange(KEYS))
    sizes, start = np.full(KEYS, size), np.zeros(KEYS, int)
    now, then = (permute_each(start, sizes, keys_of(class_keys, start + p)) for p in (0, 1))
    pairs = np.bincount((now * size + then).astype(int), minlength=size * size)
    assert not chi_square_fails(pairs, KEYS / len(pairs))


def test_a_long_permutation_has_no_trend():
    size = 100_000
    sent = permute(np.arange(size), size, key_of(11)).astype(float)
    limit = 5 / np.sqrt(size)  # five standard errors of a correlation
    for lag in (1, 2, 3, 316, 317):
        assert abs(np.corrcoef(sent[:-lag], sent[lag:])[0, 1]) < limit
    assert abs(np.corrcoef(np.arange(size), sent)[0, 1]) < limit


def keeps_its_distance(size: int, low: int) -> bool:
    """Whether neighbours land with low halves next to each other more, or less, than they should.

    What a network of too few rounds does: with four, twice as many keep it as ought to.
    """
    found, expected = 0, 20 * size / 2 / low
    for key in range(20):
        sent = permute(np.arange(size), size, key_of(13, key)).astype(np.int64) % low
        found += int((sent[::2] ^ sent[1::2] == 1).sum())
    return abs(found - expected) > 5 * np.sqrt(expected)


def test_neighbours_do_not_keep_their_distance(monkeypatch):
    assert not keeps_its_distance(2**12, 64)
    assert not keeps_its_distance(2**16, 256)
    six = permutation._MULTIPLIERS
    for rounds in (2, 3, 4):
        few = {word: all_of[:rounds] for word, all_of in six.items()}
        monkeypatch.setattr(permutation, "_MULTIPLIERS", few)
        assert keeps_its_distance(2**16, 256), "it would be noticed"
