"""LossMemory.merge_ranks against a dictionary that does it by hand, in real processes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ranks import programs
from tests.ranks.worlds import run_world

ROUNDS = 4


def by_hand(size: int) -> list[list[float]]:
    """After each merge, what all ranks remember: the mean over those that wrote an example."""
    agreed, after = {}, []
    for round_ in range(ROUNDS):
        found: dict[int, list[float]] = {}
        for rank in range(size):
            mine = dict(agreed)
            for ids, losses in programs.losses_of(rank, round_):
                for i, new in zip(ids.tolist(), losses, strict=True):
                    mine[i] = np.float16(new)
            for i in {i for ids, _ in programs.losses_of(rank, round_) for i in ids.tolist()}:
                found.setdefault(i, []).append(np.float32(mine[i]))
        agreed |= {i: np.float16(np.mean(values)) for i, values in found.items()}
        after.append([float(agreed.get(i, np.nan)) for i in range(programs.REMEMBERED)])
    return after


@pytest.mark.parametrize("size", [2, 3])
def test_merged_memories_are_the_mean_of_what_was_written(size, tmp_path):
    ranks = run_world(size, programs.remember, ROUNDS, folder=tmp_path)
    expected = by_hand(size)
    for found in ranks:
        np.testing.assert_array_equal(found, ranks[0])
        np.testing.assert_allclose(found, expected, rtol=1e-3)  # the mean's last digit
    # some have been seen by all, by one and by none
    assert np.isnan(expected[0]).any()
    assert np.isnan(expected[-1]).sum() < np.isnan(expected[0]).sum()
